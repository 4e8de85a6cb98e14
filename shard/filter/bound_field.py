"""A field as a filter names it, and the operators that fields of its type have."""

from __future__ import annotations

from dataclasses import dataclass

from silverray.shard.api import FilterError
from silverray.shard.schema.schema import Field, FieldType

EQUALITY = ("=", "!=", "in", "not in")
ORDER = ("<", "<=", ">", ">=", "between")
NULLNESS = ("is null", "is not null")
OPERATORS: dict[FieldType, tuple[str, ...]] = {
    "category": EQUALITY,
    "tags": ("any", "all"),
    "int": EQUALITY + ORDER,
    "float": EQUALITY + ORDER,
    "bool": EQUALITY,
    "date": EQUALITY + ORDER,
}
"""The operators of each type besides `is null` and `is not null`, which all have."""


@dataclass(frozen=True, slots=True)
class BoundField:
    """A field as a filter names it.

    Attributes:
        name: its name.
        spec: what the schema says of it.
        position: where its name stands.
    """

    name: str
    spec: Field
    position: int

    @property
    def operators(self) -> list[str]:
        """The operators that its type has."""
        return [*OPERATORS[self.spec.type], *NULLNESS]

    def require(self, operator: str, position: int) -> None:
        """Check that the field's type has an operator; raises FilterError at `position` otherwise."""
        accepted = OPERATORS[self.spec.type]
        if operator in accepted:
            return
        message = f"{self.name} is {self.spec.type}: `{operator}` does not apply"
        hint = " or ".join(f"`{name}`" for name in accepted[:2])
        if self.spec.type == "category" and operator in ("any", "all"):
            hint = "`in`"
        raise FilterError(message, position, self.operators, hint=f"use {hint}")
