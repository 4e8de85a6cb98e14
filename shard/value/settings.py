"""Settings of the value model: the formulas of a service and what they read of requests."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic import Field as Option

from silverray.shard.api import shown
from silverray.shard.schema.mistakes import describe_mistake
from silverray.shard.schema.schema import Field

DEFAULT = "default"


def _either(given: object) -> object:
    # Before validation, which would have a mistake for each of the two.
    if not isinstance(given, str | dict):
        raise ValueError(f"expected a formula as text, or as keys and values, got {shown(given)}")
    return given


Formula = Annotated[str | dict[str, Any], BeforeValidator(_either)]


class InputType(BaseModel):
    """The type of something that a request says; null and absence are refused unless it is nullable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    type: Literal["category", "int", "float", "bool", "date"]
    nullable: bool = False

    def field(self) -> Field:
        """The same as a field's type."""
        return Field(type=self.type, nullable=self.nullable)


class _Described(type(BaseModel)):  # type: ignore[misc]  # the only public way to pydantic's own
    """Says what is wrong with arguments in our words; models within a configuration are not made by calls."""

    def __call__(cls, *args: object, **values: object) -> Any:
        try:
            return super().__call__(*args, **values)
        except ValidationError as error:
            raise ValueError("; ".join(map(describe_mistake, error.errors()))) from None


class ValueSettings(BaseModel, metaclass=_Described):
    """The formulas; see `docs/value.md`.

    Attributes:
        default: the formula, as text or in its JSON form, of requests that name no variant; None takes the mean of
            the predictions.
        variants: other formulas by name.
        user: types of the user features that formulas read.
        context: types of the parts of a request's context that formulas read.

    Raises:
        ValueError: one of them is none; the message names it.
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
