"""User features: the rules that turn what a client says of a user into codes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from silverray.shard.api import InvalidRequest
from silverray.shard.schema.keys import hash_text, hashed_rows


@dataclass(frozen=True, slots=True)
class CategoryFeature:
    """A text out of a vocabulary; any other text is the unknown code 0."""

    vocabulary: tuple[str, ...]
    required: bool = False

    def __post_init__(self) -> None:
        _require("vocabulary", all(type(word) is str for word in self.vocabulary), "strings", self.vocabulary)
        _require("required", type(self.required) is bool, "true or false", self.required)

    @property
    def size(self) -> int:
        """Number of codes, the unknown one included."""
        return len(self.vocabulary) + 1

    def check(self, value: object) -> None:
        """Raise TypeError for anything but a text."""
        if not isinstance(value, str):
            raise TypeError(f"expected a string, got {_kind(value)}")

    def code(self, value: str) -> int:
        """Code of a checked value."""
        return self.vocabulary.index(value) + 1 if value in self.vocabulary else 0


@dataclass(frozen=True, slots=True)
class BucketFeature:
    """A number by the bucket that it falls in; a boundary belongs to the bucket above it."""

    boundaries: tuple[float, ...]
    required: bool = False

    def __post_init__(self) -> None:
        numbers = all(type(one) in (int, float) and math.isfinite(one) for one in self.boundaries)
        _require("boundaries", numbers, "finite numbers", self.boundaries)
        _require("required", type(self.required) is bool, "true or false", self.required)

    @property
    def size(self) -> int:
        """Number of codes, the one for a missing value included."""
        return len(self.boundaries) + 2

    def check(self, value: object) -> None:
        """Raise TypeError for anything but a finite number."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"expected a number, got {_kind(value)}")
        if isinstance(value, float) and not math.isfinite(value):
            raise TypeError(f"expected a finite number, got {value}")

    def code(self, value: float) -> int:
        """Code of a checked value."""
        return sum(value >= boundary for boundary in self.boundaries) + 1


@dataclass(frozen=True, slots=True)
class HashFeature:
    """An id out of too many for a vocabulary: one of `buckets` codes by its hash; several ids can share one.

    An integer id is hashed as it is, a text by its key; see `silverray.shard.schema.keys`.
    """

    ids: Literal["int", "string"]
    buckets: int
    required: bool = False

    def __post_init__(self) -> None:
        _require("ids", self.ids in ("int", "string"), "int or string", self.ids)
        _require("buckets", type(self.buckets) is int and self.buckets > 0, "an integer of at least 1", self.buckets)
        _require("required", type(self.required) is bool, "true or false", self.required)

    @property
    def size(self) -> int:
        """Number of codes, the one for a missing value included."""
        return self.buckets + 1

    def check(self, value: object) -> None:
        """Raise TypeError for anything but an id of the right type."""
        if type(value) is not (int if self.ids == "int" else str):
            raise TypeError(f"expected {'an integer' if self.ids == 'int' else 'a string'}, got {_kind(value)}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise TypeError("expected an integer of 64 bits, got a longer one")
        if isinstance(value, str):
            _check_unicode(value)

    def code(self, value: int | str) -> int:
        """Code of a checked value, 1 or above."""
        key = hash_text(value) if isinstance(value, str) else value
        return int(hashed_rows(np.array([key], dtype=np.int64), self.buckets)[0])


Category = CategoryFeature | BucketFeature | HashFeature
"""The rules that give one code."""


@dataclass(frozen=True, slots=True)
class HistoryFeature:
    """The ids of the items that a user has liked, oldest first.

    The latest `length` known items count; items that the tower does not know are skipped.
    """

    ids: Literal["int", "string"]
    length: int = 50
    required: bool = True

    def __post_init__(self) -> None:
        _require("ids", self.ids in ("int", "string"), "int or string", self.ids)
        _require("length", type(self.length) is int and self.length > 0, "an integer of at least 1", self.length)
        _require("required", type(self.required) is bool, "true or false", self.required)

    def check(self, value: object) -> None:
        """Raise TypeError for anything but a list of ids of the right type."""
        if not isinstance(value, list | tuple):
            raise TypeError(f"expected an array of item ids, got {_kind(value)}")
        wanted = int if self.ids == "int" else str
        for place, item in enumerate(value):
            if type(item) is not wanted:
                raise TypeError(f"expected an array of {self.ids} item ids, got {_kind(item)} at place {place}")
            if isinstance(item, str):
                _check_unicode(item)

    def keys(self, value: Sequence[Any]) -> list[int]:
        """Item keys of a checked history."""
        return list(value) if self.ids == "int" else [hash_text(item) for item in value]


@dataclass(frozen=True, slots=True)
class UserFeatures:
    """What a user tower takes.

    Attributes:
        history_name: name of the history feature.
        history: its rule.
        categories: the other features, in the order of the tower's category columns.
    """

    history_name: str
    history: HistoryFeature
    categories: Mapping[str, Category]

    @property
    def names(self) -> tuple[str, ...]:
        """All feature names: the tower's inputs."""
        return (self.history_name, *self.categories)

    @property
    def rules(self) -> dict[str, HistoryFeature | Category]:
        """All rules by feature name."""
        return {self.history_name: self.history, **self.categories}

    def check(self, user: Mapping[str, Any], where: str = "user") -> None:
        """Check what a client says of a user; None counts as missing, and other names do not matter.

        Raises:
            InvalidRequest: a required feature is missing or a feature has the wrong type; `where` is that of the
                user, with the feature's name.
        """
        for name, rule in self.rules.items():
            value = user.get(name)
            if value is None and rule.required:
                raise InvalidRequest(f"required feature {name!r} is missing", f"{where}.{name}")
            if value is None:
                continue
            try:
                rule.check(value)
            except TypeError as error:
                raise InvalidRequest(f"{name}: {error}", f"{where}.{name}") from None

    def to_document(self) -> dict[str, Any]:
        """The rules by feature name, as JSON values."""
        return {name: {"type": _TYPES[type(rule)], **asdict(rule)} for name, rule in self.rules.items()}


_TYPES = {HistoryFeature: "history", CategoryFeature: "category", BucketFeature: "bucket", HashFeature: "hash"}


def features_from(info: Mapping[str, Any]) -> UserFeatures:
    """Read the rules back from a model description, the inverse of `UserFeatures.to_document`.

    Raises:
        KeyError, TypeError, ValueError: the description is not one.
    """
    history: dict[str, HistoryFeature] = {}
    categories: dict[str, Category] = {}
    for name in info["input_names"]:
        settings = dict(info["features"][name])
        if settings["type"] == "history":
            del settings["type"]
            history[name] = HistoryFeature(**settings)
        else:
            categories[name] = category_from(name, settings)
    ((history_name, rule),) = history.items()
    return UserFeatures(history_name, rule, categories)


def category_from(name: str, settings: Mapping[str, Any]) -> Category:
    """Read the rule of a feature that has one code.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    rest = {key: value for key, value in settings.items() if key != "type"}
    match settings["type"]:
        case "category":
            return CategoryFeature(_listed(rest, "vocabulary"), **rest)
        case "bucket":
            return BucketFeature(_listed(rest, "boundaries"), **rest)
        case "hash":
            return HashFeature(**rest)
        case other:
            raise ValueError(f"features.{name}.type: expected one of {sorted(_TYPES.values())}, got {other!r}")


def _listed(settings: dict[str, Any], name: str) -> tuple[Any, ...]:
    values = settings.pop(name)
    _require(name, isinstance(values, list | tuple), "a list", values)  # a text would be one of its letters
    return tuple(values)


_KINDS = {
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "an array",
    dict: "an object",
    type(None): "null",
}


def _require(name: str, good: bool, expected: str, got: object) -> None:
    if not good:
        raise ValueError(f"{name}: expected {expected}, got {got!r:.100}")


def _check_unicode(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TypeError(f"expected Unicode, got {error}") from None


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)
