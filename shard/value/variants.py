"""Named value models, of which each request chooses one.

Letters: B requests, K candidates, T tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from silverray.shard.api import FormulaError, InvalidRequest, shown
from silverray.shard.value.inputs import Values
from silverray.shard.value.model import ValueModel
from silverray.shard.value.scope import Scope


class ValueModels(nn.Module):
    """The formulas of a configuration, for A/B tests.

    Args:
        formulas: a formula, as text or in its JSON form, by the variant's name.
        scope: what they may name.
        default: the variant of requests that choose none.

    Attributes:
        fields: names of the item fields that any of them needs.
        inputs: full names of what any of them needs of requests.

    Raises:
        FormulaError: a formula is wrong; `where` is `formulas.VARIANT`.
        ValueError: there is no default.
    """

    def __init__(self, formulas: Mapping[str, str | Mapping[str, Any]], scope: Scope, default: str = "default") -> None:
        super().__init__()
        if default not in formulas:
            raise ValueError(f"formulas: expected one of the name {default!r}, got {', '.join(formulas) or 'none'}")
        self.default = default
        # A list, because the names of sub-modules may hold no points.
        self._places = {name: place for place, name in enumerate(formulas)}
        self._models = nn.ModuleList(_model(name, formula, scope) for name, formula in formulas.items())
        self.fields = tuple(dict.fromkeys(name for model in self._each() for name in model.fields))
        self.inputs = tuple(dict.fromkeys(name for model in self._each() for name in model.inputs))

    @property
    def names(self) -> tuple[str, ...]:
        """The variants, in the configuration's order."""
        return tuple(self._places)

    def select(self, variant: str | None = None) -> ValueModel:
        """Find a variant's model; None is the default.

        Raises:
            InvalidRequest: there is no such variant.
        """
        place = self._places.get(self.default if variant is None else variant)
        if place is None:
            raise InvalidRequest(f"no variant {shown(variant)}; there are: {', '.join(self.names)}", "variant")
        return self._each()[place]

    def forward(
        self,
        predictions: Tensor,
        fields: Mapping[str, Values],
        inputs: Mapping[str, Values],
        variants: Sequence[str | None],
    ) -> Tensor:
        """Score the candidates of each request with its variant.

        Args:
            predictions: `[B, K, T]` float32; see `ValueModel`, also for the next two.
            fields: values of the candidates.
            inputs: values of the requests.
            variants: B names; None is the default.

        Returns:
            `[B, K]` float32.

        Raises:
            InvalidRequest: there is no such variant.
        """
        rows: dict[str, list[int]] = {}
        for row, variant in enumerate(variants):
            rows.setdefault(self.default if variant is None else variant, []).append(row)
        if len(rows) == 1:
            return self.select(*rows)(predictions, fields, inputs)  # type: ignore[no-any-return]
        scores = predictions.new_zeros(predictions.shape[:2])
        for name, chosen in rows.items():
            index = torch.tensor(chosen, device=predictions.device)
            scores[index] = self.select(name)(predictions[index], _taken(fields, index), _taken(inputs, index))
        return scores

    def _each(self) -> list[ValueModel]:
        return list(self._models)  # type: ignore[arg-type]


def _model(name: str, formula: str | Mapping[str, Any], scope: Scope) -> ValueModel:
    try:
        return ValueModel(formula, scope)
    except FormulaError as error:
        error.where = f"formulas.{name}{error.where or ''}"
        raise


def _taken(values: Mapping[str, Values], index: Tensor) -> dict[str, Values]:
    return {
        name: Values(value.values[index], None if value.present is None else value.present[index])
        for name, value in values.items()
    }
