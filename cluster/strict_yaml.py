"""What all configuration files share: strict sections, read from YAML with errors that name the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from silverray.shard.schema.mistakes import describe_mistake
from silverray.shard.schema.yaml_text import YamlError, read_yaml


class ConfigError(ValueError):
    """A configuration cannot be used; the message names the file and the key."""


def _at_home(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:
        raise ValueError(f"expected a path, got {str(path)!r}: there is no such account") from None


File = Annotated[Path, Field(strict=False), AfterValidator(_at_home)]
"""A path of a configuration; `~` is the home of who runs the command."""


class Section(BaseModel):
    """A part of a configuration: unknown keys and values of other types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


_S = TypeVar("_S", bound=Section)


def read_section(kind: type[_S], path: Path, overrides: dict[str, Any] | None = None) -> _S:
    """Read a YAML file.

    Args:
        kind: what the file holds.
        path: the file.
        overrides: values that replace the file's; those that are None do not.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or a key in it is unknown or has a wrong value.
    """
    try:
        document = read_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    except YamlError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected keys and values, got {type(document).__name__}")
    given = {key: value for key, value in (overrides or {}).items() if value is not None}
    try:
        return kind.model_validate({**document, **given})
    except ValidationError as error:
        raise ConfigError("; ".join(f"{path}: {describe_mistake(entry)}" for entry in error.errors())) from None
