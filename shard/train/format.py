"""What a request is described by: user features, labels, and the Arrow schemas that follow from them.

A request table has one row per request, in the order of time:

| column | Arrow type | |
|---|---|---|
| `request` | int64 or string | its id |
| `user` | int64 or string, nullable | who asked; only where the impressions say so |
| `time` | int64 or timestamp | seconds since 1970-01-01 UTC, ascending |
| a history | list of int64 or string | ids of items, oldest first |
| a category, a bucket, a hash | string, float64, int64 or string | null where it is missing |
| `items` | list of int64 or string | the impressions: ids of the items that were shown, at least one |
| a task | list of float32 | its label for each of the items |

An impression table has one row per impression, in the order of time and with everything about the request and the user
repeated: instead of `items` it has `item`, its tasks are numbers or booleans, and
either `request` or `user` may be missing.

Columns of both may have any type that docs/types.md names for these. Texts and lists are read, and written, with
offsets of 64 bits (`large_string`, `large_list`), so that a column may be of any size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from silverray.shard.schema.mistakes import describe_mistake
from silverray.shard.schema.user_features import (
    BucketFeature,
    Category,
    CategoryFeature,
    HashFeature,
    HistoryFeature,
    UserFeatures,
    category_from,
)
from silverray.shard.schema.yaml_text import YamlError, read_yaml

REQUEST, USER, TIME, ITEM, ITEMS = "request", "user", "time", "item", "items"
RESERVED = (REQUEST, USER, TIME, ITEM, ITEMS)


class FormatError(ValueError):
    """A description of requests is wrong; the message names its file and key."""


@dataclass(frozen=True, slots=True)
class RequestFormat:
    """What the columns of request and impression tables mean.

    Attributes:
        user: rules of the user features, by column; the history's `ids` is also the type of the item ids.
        tasks: columns of the labels, in the order of `Batch.labels`.

    Raises:
        FormatError: there is no task, or a column has two meanings.
    """

    user: UserFeatures
    tasks: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.tasks:
            raise FormatError("tasks: expected at least one, got none")
        names = [*RESERVED, *self.user.names, *self.tasks]
        if twice := [name for place, name in enumerate(names) if name in names[:place]]:
            raise FormatError(
                f"{twice[0]}: expected a column of one meaning, got two (reserved: {', '.join(RESERVED)})"
            )

    @property
    def item_type(self) -> pa.DataType:
        """Arrow type of an item id."""
        return id_type(self.user.history)

    @property
    def features(self) -> dict[str, pa.DataType]:
        """Arrow types of the user features."""
        rules = self.user.categories.items()
        histories = {self.user.history_name: pa.large_list(self.item_type)}
        return histories | {name: category_type(rule) for name, rule in rules}

    def is_required(self, feature: str) -> bool:
        """Whether a user feature may not be null."""
        rules: Mapping[str, Category | HistoryFeature] = self.user.categories
        return self.user.history.required if feature == self.user.history_name else rules[feature].required

    def request_schema(self, request: pa.DataType | None = None, user: pa.DataType | None = None) -> pa.Schema:
        """The schema of a request table.

        Args:
            request: type of the requests' ids; int64 by default.
            user: type of the users' ids; None leaves the column out.
        """
        fields = [pa.field(REQUEST, request or pa.int64(), nullable=False)]
        if user is not None:
            fields.append(pa.field(USER, user))
        fields.append(pa.field(TIME, pa.int64(), nullable=False))
        fields += [pa.field(name, type_, not self.is_required(name)) for name, type_ in self.features.items()]
        fields.append(pa.field(ITEMS, pa.large_list(self.item_type), nullable=False))
        fields += [pa.field(task, pa.large_list(pa.float32()), nullable=False) for task in self.tasks]
        return pa.schema(fields)

    @classmethod
    def load(cls, path: Path) -> RequestFormat:
        """Read a description from a YAML file with the keys `tasks` and `user`.

        Raises:
            FormatError: it cannot be read or is wrong; the message names the file and the key.
        """
        try:
            return cls.parse(path.read_text(encoding="utf-8"), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise FormatError(f"{path}: {error}") from error

    @classmethod
    def parse(cls, text: str, name: str = "features") -> RequestFormat:
        """Read a description from YAML text; `name` is what messages call it.

        Raises:
            FormatError: it is wrong; the message says where.

        Example:
            >>> format = RequestFormat.parse("{tasks: [liked], user: {seen: {type: history, ids: int}}}")
            >>> format.request_schema().names
            ['request', 'time', 'seen', 'items', 'liked']
        """
        try:
            read = _Description.model_validate(read_yaml(text))
            return cls(read.features(), tuple(read.tasks))
        except YamlError as error:
            raise FormatError(f"{name}: not readable as YAML: {error}") from error
        except ValidationError as error:
            raise FormatError("; ".join(f"{name}: {describe_mistake(entry)}" for entry in error.errors())) from error
        except FormatError as error:
            raise FormatError(f"{name}: {error}") from None


def category_type(rule: Category) -> pa.DataType:
    """Arrow type of a value that a rule gives a code to."""
    match rule:
        case CategoryFeature():
            return pa.large_string()
        case BucketFeature():
            return pa.float64()
        case HashFeature():
            return id_type(rule)


def id_type(rule: HistoryFeature | HashFeature) -> pa.DataType:
    """Arrow type of the ids that a rule takes."""
    return pa.int64() if rule.ids == "int" else pa.large_string()


Count = Annotated[int, Field(ge=1)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class _History(_Section):
    type: Literal["history"]
    ids: Literal["int", "string"]
    length: Count = 50
    required: bool = True


class _Category(_Section):
    type: Literal["category"]
    vocabulary: list[str]
    required: bool = False


def _ascending(boundaries: list[float]) -> list[float]:
    if boundaries != sorted(set(boundaries)):
        raise ValueError(f"expected ascending numbers, got {boundaries}")
    return boundaries


class _Bucket(_Section):
    type: Literal["bucket"]
    boundaries: Annotated[list[float], AfterValidator(_ascending)]
    required: bool = False


class _Hash(_Section):
    type: Literal["hash"]
    ids: Literal["int", "string"]
    buckets: Count
    required: bool = False


CategorySection = Annotated[_Category | _Bucket | _Hash, Field(discriminator="type")]
"""How a configuration file describes a feature that has one code."""


def category_rules(sections: Mapping[str, CategorySection]) -> dict[str, Category]:
    """The rules that sections describe, by name."""
    return {name: category_from(name, section.model_dump()) for name, section in sections.items()}


class _Description(_Section):
    tasks: list[str]
    user: dict[str, Annotated[_History | _Category | _Bucket | _Hash, Field(discriminator="type")]]

    def features(self) -> UserFeatures:
        histories = {name: rule for name, rule in self.user.items() if isinstance(rule, _History)}
        if len(histories) != 1:
            raise FormatError(f"user: expected one history, got {len(histories)}")
        ((name, history),) = histories.items()
        rest = {name: rule for name, rule in self.user.items() if not isinstance(rule, _History)}
        return UserFeatures(name, HistoryFeature(**history.model_dump(exclude={"type"})), category_rules(rest))
