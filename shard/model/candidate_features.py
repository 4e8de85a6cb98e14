"""CandidateFeatures: what searches return of their items beside scores, for whoever judges a list as a whole.

Letters: n items, D dimensions, C categories, F features, G tags.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray

from silverray.shard.index.inverted_lists import InvertedLists
from silverray.shard.model.item_features import ItemFeatures
from silverray.shard.value.inputs import NO_TAG, gather_fields


class FieldValues(NamedTuple):
    """The stored values of one field of n items, as formulas read them; see `silverray.shard.value.inputs.Values`.

    Attributes:
        values: `[n]`, or `[n, G]` for tags; float64 for float, else int64.
        present: `[n]` bool, false where there is no value; None where there always is.
    """

    values: NDArray[Any]
    present: NDArray[np.bool_] | None = None

    def take(self, places: NDArray[np.intp]) -> Self:
        """Those of some of the items."""
        return self._replace(values=self.values[places], present=None if self.present is None else self.present[places])

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The values of several lists of items, one after another."""
        present = [part.present for part in parts if part.present is not None]
        return cls(
            np.concatenate(_as_wide([part.values for part in parts])), np.concatenate(present) if present else None
        )


class CandidateFeatures(NamedTuple):
    """What the items of a list are judged by together.

    Attributes:
        vectors: `[n, D]` float32 item vectors.
        codes: `[C, n]` int64, a row for each category asked for: hashes of its values; -1 where the value is missing.
        features: `[n, F]` float32, what the snapshot's scorer reads of the items if it is set-wise; else F is 0.
        fields: for such a scorer what the request's formula reads of the items, by name.
    """

    vectors: NDArray[np.float32]
    codes: NDArray[np.int64]
    features: NDArray[np.float32]
    fields: Mapping[str, FieldValues]

    def take(self, places: NDArray[np.intp]) -> Self:
        """Those of some of the items."""
        return self._replace(
            vectors=self.vectors[places],
            codes=self.codes[:, places],
            features=self.features[places],
            fields={name: values.take(places) for name, values in self.fields.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """The features of the items of several lists, one after another; all of one request."""
        return cls(
            np.concatenate([part.vectors for part in parts]),
            np.concatenate([part.codes for part in parts], axis=1),
            np.concatenate([part.features for part in parts]),
            {name: FieldValues.joined([part.fields[name] for part in parts]) for name in parts[0].fields},
        )


def read_features(
    lists: InvertedLists,
    slots: NDArray[np.int64],
    categories: Sequence[str],
    features: ItemFeatures,
    fields: Iterable[str],
) -> CandidateFeatures:
    """Read the features of items.

    Args:
        lists: the items of a shard.
        slots: `[n]`, theirs.
        categories: whose codes are wanted.
        features: what a set-wise scorer reads.
        fields: what a formula reads.
    """
    vectors = lists.vectors[torch.from_numpy(slots).to(lists.vectors.device)].float().cpu().numpy()
    places = torch.from_numpy(slots).to(lists.keys.device)
    codes = np.empty((len(categories), len(slots)), dtype=np.int64)
    for row, name in enumerate(categories):
        column = lists.columns.fields[name].take(places)
        values = column.values if column.present is None else torch.where(column.present, column.values, -1)
        codes[row] = values.cpu().numpy()
    made = features(lists.columns, places[None])[0].cpu().numpy()
    read = gather_fields(lists.columns, places[None], fields)
    told = {
        name: FieldValues(its.values[0].cpu().numpy(), None if its.present is None else its.present[0].cpu().numpy())
        for name, its in read.items()
    }
    return CandidateFeatures(vectors, codes, made, told)


def _as_wide(tables: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Tables of tags, all with as many columns as the widest; columns of other values stay as they are."""
    if tables[0].ndim == 1:
        return tables
    most = max(table.shape[1] for table in tables)
    return [np.pad(table, ((0, 0), (0, most - table.shape[1])), constant_values=NO_TAG) for table in tables]
