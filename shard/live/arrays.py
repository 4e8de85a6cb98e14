"""A shard's arrays as they are written: where items go, and what has to be copied there.

Letters: U upserted, P patched items, C clusters, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from silverray.kernels.codes import quantize_rows
from silverray.shard.api import ItemId
from silverray.shard.engine.loaded import LoadedIndex
from silverray.shard.index.key_index import FREE, Ints
from silverray.shard.index.payload import Row
from silverray.shard.live.changes import Changes
from silverray.shard.live.edit import ColumnEdit, Edit, PlaneEdit
from silverray.shard.live.outcome import Outcome
from silverray.shard.live.slots import Slots
from silverray.shard.snapshot.catalog import Catalog


class Planned(NamedTuple):
    """What writes come to.

    Attributes:
        edit: what is to be copied.
        outcome: what writes will have done by then.
        collisions: ids that have the key of another item that is there.
    """

    edit: Edit
    outcome: Outcome
    collisions: list[ItemId]


class Placed(NamedTuple):
    """Where upserted items go.

    Attributes:
        slots: `[U]` int64.
        clusters: `[U]` int64, of the slots.
        left: slots that they were in before, and are in no more.
    """

    slots: Ints
    clusters: Ints
    left: list[int]


class Patch(NamedTuple):
    """What patches come to.

    Attributes:
        columns: by field.
        planes: of those fields.
        rows: new values of payload, by slot and field.
    """

    columns: dict[str, ColumnEdit]
    planes: list[PlaneEdit]
    rows: dict[int, dict[str, Any]]


class LiveArrays:
    """Loaded partitions with slack, and the books that are kept of them.

    Edits are planned by one thread at a time, each applied before the next is planned. Planning reads what searches
    read, and may go on beside them.

    Args:
        index: what is written to.
        catalog: of the shard.
    """

    def __init__(self, index: LoadedIndex, catalog: Catalog) -> None:
        self.index = index
        self.lists = index.retrieval.lists
        self.payload = index.loaded.payload
        self._begin_books({})
        self._layout = catalog.layout
        self._id_column = catalog.schema.id if catalog.id_type == "string" else None
        self._centroids = self.lists.centroids.cpu()
        self._half_norms = self._centroids.square().sum(1) / 2
        columns = self.lists.columns.fields.items()
        self._tag_bounds = {name: 2 * len(column.values) for name, column in columns if name in self._tag_ends}

    @property
    def tags_scattered(self) -> bool:
        """Whether a field's tags take twice the room that they had: most of it is no item's any more."""
        return any(end > self._tag_bounds[name] for name, end in self._tag_ends.items())

    def plan(self, changes: Changes) -> Planned:
        """Find slots for changed items, and lay out what is to be copied there.

        There must be a free slot for every upserted item. If it fails, nothing has changed.
        """
        try:
            return self._plan(changes)
        except BaseException:
            self._begin_books(self.slots.strays)
            raise

    def _plan(self, changes: Changes) -> Planned:
        groups = changes.deleted, changes.patched, changes.upserted
        deleted, patched, upserted = (self.slots.find(keys) for keys in groups)
        found = deleted, patched, upserted
        others = [self._of_others(changes, keys, slots) for keys, slots in zip(groups, found, strict=True)]
        collisions = [changes.ids[key] for keys, its in zip(groups, others, strict=True) for key in keys[its].tolist()]
        its = (deleted != FREE) & ~others[0]
        gone, gone_keys = deleted[its], changes.deleted[its]
        there = np.flatnonzero((patched != FREE) & ~others[1])
        rows = np.flatnonzero(~others[2])
        for slot, cluster in zip(gone.tolist(), self.slots.clusters(gone).tolist(), strict=True):
            self.slots.release(slot, cluster)
        self.slots.forget(gone_keys)
        placed = self._place(changes.upserted[rows], changes.vectors[rows], upserted[rows])
        inserted = int((upserted == FREE).sum())
        absent, fields_only = changes.fields_only[patched == FREE], int(changes.fields_only[there].sum())
        outcome = Outcome(
            inserted,
            replaced=len(rows) - inserted,
            patched=len(there) - fields_only,
            deleted=len(gone),
            unknown=int((deleted == FREE).sum() + (~absent).sum()),
            key_collision=len(collisions),
            fields_only=fields_only,
            other_space=int(absent.sum()),
        )
        freed = np.array(sorted({*gone.tolist(), *placed.left} - set(placed.slots.tolist())), dtype=np.int64)
        items = self.lists.items + inserted - len(gone)
        edit = self._edit(changes, rows, placed, there, patched[there], freed, gone_keys, items)
        return Planned(edit, outcome, collisions)

    def apply(self, edit: Edit) -> None:
        """Write what was planned; no search may be going on. After a failure it may be called again."""
        edit.apply(self.lists)
        freed = edit.freed.numpy()
        self.payload.place(edit.keys.numpy(), edit.slots.numpy(), freed, edit.gone.numpy())
        self.payload.forget(freed.tolist())
        self.payload.write(edit.rows, edit.changed)
        if edit.curve is not None:
            self.index.retrieval.planner.curve.copy_(edit.curve)

    def _begin_books(self, strays: Mapping[int, int]) -> None:
        """Read from the arrays what is where; `strays` are those that the books had, for items that are still there."""
        keys, columns = self.payload.slot_keys, self.lists.columns.fields.items()
        self.slots = Slots(keys, self.lists.offsets.cpu().numpy())
        self.slots.strays.update((slot, home) for slot, home in strays.items() if keys[slot] != FREE)
        self._tag_ends = {name: int(column.ends.max()) for name, column in columns if column.ends is not None}

    def _of_others(self, changes: Changes, keys: Ints, slots: Ints) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        """Which of these items are there under another id that has the same key."""
        result = np.zeros(len(keys), dtype=np.bool_)
        there = np.flatnonzero(slots != FREE)
        if self._id_column is not None and len(there):
            ids = self.payload.ids(slots[there])
            result[there] = [changes.ids[key] != id_ for key, id_ in zip(keys[there].tolist(), ids, strict=True)]
        return result

    def _place(self, keys: Ints, vectors: Tensor, old: Ints) -> Placed:
        """Find a slot in the nearest cluster that has room; an item stays where it is if that is as near."""
        closeness = torch.addmm(self._half_norms, vectors, self._centroids.T, beta=-1).numpy()
        homes = closeness.argmax(axis=1)
        placed = Placed(old.copy(), homes.copy(), [])
        for row, (key, slot, before, home) in enumerate(
            zip(keys.tolist(), old.tolist(), self.slots.clusters(old).tolist(), homes.tolist(), strict=True)
        ):
            cluster = home
            if home != before and not self.slots.room[home]:
                order = np.argsort(-closeness[row], kind="stable")
                cluster = int(order[(self.slots.room[order] > 0) | (order == before)][0])
            if cluster != before:
                if slot != FREE:
                    self.slots.release(slot, before)
                    placed.left.append(slot)
                slot = self.slots.take(key, cluster)
            self.slots.settle(slot, cluster, home)
            placed.slots[row], placed.clusters[row] = slot, cluster
        return placed

    def _edit(
        self,
        changes: Changes,
        rows: Ints,
        placed: Placed,
        there: Ints,
        patched: Ints,
        freed: Ints,
        gone: Ints,
        items: int,
    ) -> Edit:
        """Lay out the upserts `rows` and the patches `there` of changes, which go to `placed` and `patched`."""
        index = torch.from_numpy(rows)
        slots, vectors = torch.from_numpy(placed.slots), changes.vectors[index].to(self.lists.vectors.dtype)
        codes = quantize_rows(vectors.float() - self._centroids[torch.from_numpy(placed.clusters)])
        patch = self._patch(changes, there, patched)
        columns = {name: [edit] for name, edit in patch.columns.items()}
        planes = patch.planes
        if len(rows):
            written = changes.values.columns
            # Nearly always all of them, and taking them costs more than all else here.
            written = written if len(rows) == written.items else written.take(index)
            for name, column in written.fields.items():
                columns.setdefault(name, []).append(ColumnEdit(slots, column))
        if len(rows) + len(freed):
            bits = torch.cat([changes.bits[index], changes.bits.new_zeros(len(freed), changes.bits.shape[1])])
            whole = np.concatenate([placed.slots, freed])
            planes = [*planes, PlaneEdit.of(whole, bits, range(self._layout.rows))]
        return Edit(
            slots=slots,
            keys=torch.from_numpy(changes.upserted[rows]),
            codes=codes.values,
            scales=codes.scales,
            vectors=vectors,
            freed=torch.from_numpy(freed),
            gone=torch.from_numpy(gone),
            planes=planes,
            columns={name: self._with_room(name, edits) for name, edits in columns.items()},
            rows=self._new_rows(changes, rows, placed.slots),
            changed=patch.rows,
            items=items,
            curve=None if items == self.lists.items else self.index.retrieval.planner.lines(items),
        )

    def _patch(self, changes: Changes, there: Ints, patched: Ints) -> Patch:
        """Lay out patches: field by field, only what belongs to the field."""
        at = np.full(len(changes.patched), FREE)
        at[there] = patched
        patch = Patch({}, [], {})
        for name, patches in changes.patches.items():
            mine = np.flatnonzero(at[patches.rows] != FREE)
            if not len(mine):
                continue
            slots = at[patches.rows[mine]]
            if name in self._layout.fields:
                new = patches.values.columns.take(torch.from_numpy(mine))
                patch.columns[name] = ColumnEdit(torch.from_numpy(slots), new.fields[name])
                patch.planes.append(PlaneEdit.of(slots, self._layout.encode(new), self._layout.fields[name].span))
            if name in patches.values.payload:
                shown = patches.values.payload[name]
                for row, slot in zip(mine.tolist(), slots.tolist(), strict=True):
                    patch.rows.setdefault(slot, {})[name] = shown[row]
        return patch

    def _new_rows(self, changes: Changes, rows: Ints, slots: Ints) -> dict[int, Row]:
        """Payload of upserted items, by slot."""
        shown = changes.values.payload
        if self._id_column is not None:
            shown = {**shown, self._id_column: [changes.ids[key] for key in changes.upserted.tolist()]}
        pairs = zip(rows.tolist(), slots.tolist(), strict=True)
        return {slot: {name: shown[name][row] for name in self.payload.names} for row, slot in pairs}

    def _with_room(self, name: str, edits: list[ColumnEdit]) -> list[ColumnEdit]:
        """Give new tags their places behind the others, with a longer array where there is no more room."""
        if name not in self._tag_ends:
            return edits
        end = first = self._tag_ends[name]
        result = []
        for edit in edits:
            result.append(edit._replace(place=end))
            end += len(edit.column.values)
        self._tag_ends[name] = end
        values = self.lists.columns.fields[name].values
        if end > len(values):
            room = values.new_zeros(end + end // 2)
            room[:first] = values[:first]
            result[0] = result[0]._replace(room=room)
        return result
