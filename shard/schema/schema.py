"""The schema of a catalog: which columns there are and what a filter may do with them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic import Field as Option

from silverray.shard.paths import as_path
from silverray.shard.schema.mistakes import describe_mistake
from silverray.shard.schema.yaml_text import YamlError, read_yaml

FieldType = Literal["category", "tags", "int", "float", "bool", "date"]

KEYWORDS = frozenset({"all", "and", "any", "between", "false", "in", "is", "not", "null", "or", "true"})
"""Words of the filter language, in lower case. `date` is none: only `date(` in a value's place is special."""

VECTOR_COLUMN = "vector"

MAX_DIMENSION = 131_072
"""A sum of so many products of two codes of 8 bits, 127 x 127 at most, is within 32 bits."""


class SchemaError(ValueError):
    """A schema is wrong; the message names its file and key."""


class Field(BaseModel):
    """One attribute of an item.

    Attributes:
        type: what its values are.
        nullable: whether an item may have no value.
        filter: whether filters may use it.
        payload: whether searches may return it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    type: FieldType
    nullable: bool = False
    filter: bool = True
    payload: bool = True


class VectorSpec(BaseModel):
    """What item vectors are: their dimension and how a query is compared with them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dimension: Annotated[int, Option(ge=1, le=MAX_DIMENSION)]
    metric: Literal["ip", "cosine"]


class Schema(BaseModel):
    """A catalog's id column, vectors and fields.

    Example:
        >>> text = "{id: film, vector: {dimension: 8, metric: ip}, fields: {year: {type: int}}}"
        >>> Schema.parse(text, "films.yaml").fields["year"].type
        'int'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    vector: VectorSpec
    fields: dict[str, Field]

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        for name in self.fields:
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ValueError(f"fields.{name}: expected letters, digits and _, not starting with a digit")
            if name.lower() in KEYWORDS:
                raise ValueError(f"fields.{name}: a word of the filter language cannot name a field")
            if name == self.id:
                raise ValueError(f"fields.{name}: the id column cannot be a field as well")
            if name == VECTOR_COLUMN:
                raise ValueError(f"fields.{name}: the vector column cannot be a field")
        if not self.id.isprintable():
            raise ValueError(f"id: expected printable text, got {self.id!r}")
        if not self.id or self.id == VECTOR_COLUMN:
            raise ValueError(f"id: expected a column other than {VECTOR_COLUMN!r}, got {self.id!r}")
        return self

    @property
    def filterable(self) -> Mapping[str, Field]:
        """The fields that filters may use, in the schema's order."""
        return {name: field for name, field in self.fields.items() if field.filter}

    @property
    def categories(self) -> tuple[str, ...]:
        """Names of the filterable fields that hold one category each; their values' hashes lie on the shards."""
        return tuple(name for name, field in self.filterable.items() if field.type == "category")

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a schema from a YAML file.

        Args:
            path: the file.

        Returns:
            The schema.

        Raises:
            SchemaError: the file cannot be read or is wrong; the message names the file and the key.
        """
        path = as_path("schema", path)
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise SchemaError(f"{path}: {error}") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str = "schema") -> Schema:
        """Read a schema from YAML text.

        Args:
            text: the YAML.
            name: what error messages call it.

        Returns:
            The schema.

        Raises:
            SchemaError: the text is wrong; the message names `name` and the key.
        """
        if not isinstance(text, str):
            raise SchemaError(f"schema: expected YAML as text, got {type(text).__name__}")
        try:
            return cls.model_validate(read_yaml(text))
        except YamlError as error:
            raise SchemaError(f"{name}: not readable as YAML: {error}") from error
        except ValidationError as error:
            raise SchemaError("; ".join(f"{name}: {describe_mistake(entry)}" for entry in error.errors())) from error
