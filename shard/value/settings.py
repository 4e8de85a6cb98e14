"""Settings of the value model: the formulas of a service and what they read of requests."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic import Field as Option

from silverray.shard.filter.schema import Field

DEFAULT = "default"

Formula = str | dict[str, Any]


class InputType(BaseModel):
    """The type of something that a request says; null and absence are refused unless it is nullable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["category", "int", "float", "bool", "date"]
    nullable: bool = False

    def field(self) -> Field:
        """The same as a field's type."""
        return Field(type=self.type, nullable=self.nullable)


class ValueSettings(BaseModel):
    """The formulas; see `docs/value.md`.

    Attributes:
        default: the formula, as text or in its JSON form, of requests that name no variant; None takes the mean of
            the predictions.
        variants: other formulas by name.
        user: types of the user features that formulas read.
        context: types of the parts of a request's context that formulas read.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    default: Formula | None = None
    variants: dict[str, Formula] = Option(default_factory=dict)
    user: dict[str, InputType] = Option(default_factory=dict)
    context: dict[str, InputType] = Option(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.variants and self.default is None:
            raise ValueError("default: expected a formula where there are variants")
        if DEFAULT in self.variants:
            raise ValueError(f"variants.{DEFAULT}: expected another name: it is that of the default formula")
        return self
