"""What all configuration files share: strict sections, read from YAML with errors that name the file and the key."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from silverray.shard.filter.yaml_text import YamlError, read_yaml


class ConfigError(ValueError):
    """A configuration cannot be used; the message names the file and the key."""


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
        raise ConfigError("; ".join(_explain(path, problem) for problem in error.errors())) from None


def _explain(path: Path, problem: Any) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    message = {"extra_forbidden": "unknown key", "missing": "missing key"}.get(problem["type"])
    if message is None:
        message = f"{problem['msg'].lower()}, got {problem['input']!r}"
    return f"{path}: {key}: {message}"
