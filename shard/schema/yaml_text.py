"""Reading YAML: every key once, and whatever is wrong in one line."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"

_VALUE_ERRORS = (ValueError, TypeError, KeyError, AttributeError, OverflowError)
"""PyYAML's constructors end in these for a value that is not what its form or its tag says, such as 2001-13-45."""
_SHOWN = 60
"""Characters of a value that a message shows, beside file and key, in a line or two."""


class YamlError(ValueError):
    """A text is no YAML; the message is one line."""


def read_yaml(text: str) -> Any:
    """Read one document.

    Raises:
        YamlError: it is none, or a key stands twice in a mapping.

    Example:
        >>> read_yaml("{a: &one {b: 1}, c: {<<: *one, d: 2}}")
        {'a': {'b': 1}, 'c': {'b': 1, 'd': 2}}
    """
    try:
        return yaml.load(text, _UniqueKeyLoader)
    except yaml.YAMLError as error:
        raise YamlError(" ".join(str(error).split())) from error
    except RecursionError:
        raise YamlError("nested too deeply") from None


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML in which a key given twice is an error; the last one would silently win otherwise."""

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        """The value of a node; see `yaml.SafeLoader`."""
        try:
            return super().construct_object(node, deep)
        except _VALUE_ERRORS:
            if not isinstance(node, yaml.ScalarNode):
                raise
            message = f"{node.value[:_SHOWN]!r} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark) from None

    def construct_scalar(self, node: Any) -> Any:
        """The text of a node; see `yaml.SafeLoader`."""
        text = super().construct_scalar(node)
        if isinstance(text, str) and not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            message = f"{text[:_SHOWN]!r} holds half a surrogate pair, which no text does"
            raise yaml.constructor.ConstructorError(None, None, message, node.start_mark)
        return text

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node; see `yaml.SafeLoader`."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.constructor.ConstructorError(None, None, "expected keys and values", node.start_mark)
        seen = set()
        for key_node, _ in node.value:
            # `<<` stands for the keys of other mappings, which its own replace.
            key = key_node.value if key_node.tag == _MERGE else self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                message = f"key {key!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep)
