"""What the names of a formula mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from silverray.shard.api import FormulaError
from silverray.shard.hints import closest
from silverray.shard.schema.schema import Field, Schema
from silverray.shard.value.syntax import Name

Owner = Literal["task", "item", "user", "context"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where the value of a name comes from.

    Attributes:
        owner: whose it is.
        name: the task's or field's name, without its owner.
        spec: type and nullability of anything but a task.
    """

    owner: Owner
    name: str
    spec: Field | None

    @property
    def key(self) -> str:
        """The full name, such as `user.age`."""
        return f"{self.owner}.{self.name}"


@dataclass(frozen=True, slots=True)
class Scope:
    """The names that a formula may use.

    Attributes:
        tasks: the model's tasks, in the order of its predictions.
        schema: the items' fields; those with `filter: false` are not kept on shards and cannot be used.
        user: types of the user's features.
        context: types of the parts of a request's context.

    Raises:
        ValueError: a user feature or a part of the context is of type tags.

    Example:
        >>> schema = Schema.parse("{id: film, vector: {dimension: 8, metric: ip}, fields: {year: {type: int}}}")
        >>> Scope(("click",), schema, context={"hour": Field(type="int")}).names
        ('click', 'year', 'context.hour')
    """

    tasks: tuple[str, ...]
    schema: Schema
    user: Mapping[str, Field] = field(default_factory=dict)
    context: Mapping[str, Field] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for owner, specs in (("user", self.user), ("context", self.context)):
            for name, spec in specs.items():
                if spec.type == "tags":
                    raise ValueError(f"{owner}.{name}: expected a type other than tags, which only items have")

    @property
    def names(self) -> tuple[str, ...]:
        """All names, each in its shortest unambiguous form."""
        both = set(self.tasks) & set(self.schema.filterable)
        named = [f"task.{name}" if name in both else name for name in self.tasks]
        named += [f"item.{name}" if name in both else name for name in self.schema.filterable]
        return (*named, *(f"user.{name}" for name in self.user), *(f"context.{name}" for name in self.context))

    def resolve(self, name: Name) -> Source:
        """Find what a name means.

        Raises:
            FormulaError: nothing, or two things.
        """
        owner, point, rest = name.text.partition(".")
        if not point:
            return self._bare(name)
        match owner:
            case "task" if rest in self.tasks:
                return Source("task", rest, None)
            case "item" if rest in self.schema.fields:
                return self._item(rest, name)
            case "user" if rest in self.user:
                return Source("user", rest, self.user[rest])
            case "context" if rest in self.context:
                return Source("context", rest, self.context[rest])
        raise self._unknown(name)

    def _bare(self, name: Name) -> Source:
        task, item = name.text in self.tasks, name.text in self.schema.fields
        if task and item:
            hint = f"write task.{name.text} or item.{name.text}"
            raise FormulaError(f"{name.text} is a task and a field", name.position, hint=hint)
        if task:
            return Source("task", name.text, None)
        if item:
            return self._item(name.text, name)
        raise self._unknown(name)

    def _item(self, field_name: str, name: Name) -> Source:
        spec = self.schema.fields[field_name]
        if not spec.filter:
            message = f"{name.text} is not kept on shards: its schema says `filter: false`"
            raise FormulaError(message, name.position, list(self.names))
        return Source("item", field_name, spec)

    def _unknown(self, name: Name) -> FormulaError:
        """The error of an unknown name, with the nearest one: of the same owner, or of another that has the rest."""
        rest = name.text.rpartition(".")[2].lower()
        by_text = {known.lower(): known for known in self.names}
        by_rest = {known.rpartition(".")[2].lower(): known for known in reversed(self.names)}
        near, near_rest = closest(name.text.lower(), by_text), closest(rest, by_rest)
        close = by_text[near] if near else by_rest[near_rest] if near_rest else None
        hint = f"did you mean {close}?" if close else None
        return FormulaError(f"unknown name {name.text}", name.position, list(self.names), hint)
