"""The valuer: which formula values the candidates of a request, and with what inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch

from silverray.kernels.quotients import quotient
from silverray.shard.api import FormulaError, InvalidRequest, SearchRequest, shown
from silverray.shard.schema.schema import Schema
from silverray.shard.value.inputs import Values, read_requests
from silverray.shard.value.model import ValueModel
from silverray.shard.value.scope import Scope
from silverray.shard.value.settings import DEFAULT, ValueSettings
from silverray.shard.value.variants import ValueModels

USER = "user."


class FormulaInputs(NamedTuple):
    """What a request says of its values.

    Attributes:
        variant: name of the formula; None is the default.
        context: what formulas read, by name; user features under `user.NAME`.
    """

    variant: str | None = None
    context: Mapping[str, Any] = {}

    @classmethod
    def of(cls, request: SearchRequest) -> FormulaInputs:
        """The request's part."""
        return cls(request.variant, request.context or {})


class Valuation(NamedTuple):
    """A formula and the requests whose candidates it values.

    Attributes:
        model: the formula; None takes the mean over the tasks.
        inputs: what it needs of its R requests, `[R]` each.
        rows: `[R]` int64 places of these requests in the batch; None where they are all of it.
    """

    model: ValueModel | None
    inputs: Mapping[str, Values]
    rows: torch.Tensor | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the item fields that the formula reads."""
        return () if self.model is None else self.model.fields


def evaluated(valuation: Valuation, predictions: torch.Tensor, fields: Mapping[str, Values]) -> torch.Tensor:
    """One finite value `[R, K]` float32 for each candidate of the R requests of a valuation.

    Args:
        valuation: the formula.
        predictions: `[R, K, T]` float32.
        fields: of the candidates, at least those that the formula reads.
    """
    if valuation.model is None:
        # A mean is a product with the reciprocal on a GPU.
        return torch.nan_to_num(quotient(predictions.sum(dim=2), predictions.shape[2]))
    values: torch.Tensor = valuation.model(predictions, fields, valuation.inputs)
    return values


class Valuer:
    """The formulas of a service.

    Args:
        settings: the formulas.
        tasks: the model's tasks.
        schema: the items' fields.

    Raises:
        FormulaError: a formula is wrong; `where` is its place in the settings.
    """

    def __init__(self, settings: ValueSettings, tasks: tuple[str, ...], schema: Schema) -> None:
        self._user = {name: given.field() for name, given in settings.user.items()}
        self._context = {name: given.field() for name, given in settings.context.items()}
        self.models: ValueModels | None = None
        if settings.default is not None:
            scope = Scope(tasks, schema, self._user, self._context)
            try:
                self.models = ValueModels({DEFAULT: settings.default, **settings.variants}, scope, DEFAULT)
            except FormulaError as error:
                error.where = _where(error.where)
                raise

    @property
    def user_features(self) -> frozenset[str]:
        """Names of the user features that formulas may read."""
        return frozenset(self._user)

    def admit(self, request: SearchRequest, prefix: str = "") -> Mapping[str, Any] | None:
        """Check what a request says of its values.

        Args:
            request: with a user's features or without.
            prefix: of paths in messages.

        Returns:
            Its context, with those features of the user that its formula reads; None where it reads nothing.

        Raises:
            InvalidRequest: there is no such variant, or a value is missing or of the wrong type.
        """
        if self.models is None:
            if request.variant is not None:
                raise InvalidRequest(f"no variant {shown(request.variant)}; there are no formulas", f"{prefix}variant")
            return None
        try:
            model = self.models.select(request.variant)
            if not model.inputs:
                return None
            features = {f"{USER}{name}": value for name, value in (request.user or {}).items()}
            told = {**(request.context or {}), **features}
            context = {name: told[name] for name in map(_name, model.inputs) if name in told}
            self._read(model, [context])
        except InvalidRequest as error:
            where = (error.where or "").replace("[0]", "", 1)
            raise InvalidRequest(error.message, f"{prefix}{where}") from None
        return context

    def fields(self, variant: str | None) -> tuple[str, ...]:
        """Names of the item fields that a variant's formula reads."""
        return () if self.models is None else self.models.select(variant).fields

    def valuations(self, asked: Sequence[FormulaInputs], device: torch.device) -> list[Valuation]:
        """Group checked requests by their formulas."""
        if self.models is None:
            return [Valuation(None, {})]
        rows: dict[str, list[int]] = {}
        for row, its in enumerate(asked):
            rows.setdefault(its.variant or DEFAULT, []).append(row)
        valuations = []
        for variant, chosen in rows.items():
            model = self.models.select(variant)
            read = self._read(model, [asked[row].context for row in chosen]) if model.inputs else {}
            inputs = {name: _moved(its, device) for name, its in read.items()}
            index = None if len(rows) == 1 else torch.tensor(chosen, device=device)
            valuations.append(Valuation(model.to(device), inputs, index))
        return valuations

    def _read(self, model: ValueModel, contexts: Sequence[Mapping[str, Any]]) -> dict[str, Values]:
        users = [
            {name.removeprefix(USER): value for name, value in context.items() if name.startswith(USER)}
            for context in contexts
        ]
        return {
            **read_requests(self._context, contexts, "context", model.inputs),
            **read_requests(self._user, users, "user", model.inputs),
        }


def _moved(values: Values, device: torch.device) -> Values:
    return Values(values.values.to(device), None if values.present is None else values.present.to(device))


def _name(full: str) -> str:
    """The name of an input in a request's context."""
    return full.removeprefix("context.")


def _where(path: str | None) -> str:
    """A place among the formulas as one in the settings."""
    name = (path or "").removeprefix("formulas.")
    return name if name == DEFAULT or name.startswith((f"{DEFAULT}.", f"{DEFAULT}[")) else f"variants.{name}"
