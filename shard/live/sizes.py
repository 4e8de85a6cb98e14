"""How large items may be that are written one by one: what one client stores, every shard and reply must carry."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from silverray.shard.live.checks import WriteError
from silverray.shard.live.writes import Delete, Upsert, Write


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemSizes:
    """Limits of a single item.

    Attributes:
        max_field_bytes: most bytes of text in a field, of all its tags together. 64 KiB holds a long article; a list of
            a thousand such items still fits a reply.
        max_tags: most tags in a field. As many as a list of a filter may have values: a shard marks every tag of an
            item in its planes while searches wait.
        max_dimension: most numbers of a vector of another space than the catalog's, which nothing else bounds; more
            than the embedding models of today give.
    """

    max_field_bytes: int = 64 << 10
    max_tags: int = 1_000
    max_dimension: int = 8_192

    def check(self, write: Write, dimension: int) -> None:
        """Refuse a checked write that is too large.

        Args:
            write: as `silverray.shard.live.checks.check` returns it.
            dimension: of the catalog's vectors.

        Raises:
            WriteError: the message names the limit.
        """
        if isinstance(write, Delete):
            return
        if isinstance(write, Upsert) and len(write.vector) > max(self.max_dimension, dimension):
            message = f"vector: expected at most {max(self.max_dimension, dimension)} numbers, got {len(write.vector)}"
            raise WriteError("too_large", message)
        for name, value in write.fields.items():
            self._check_field(name, value)

    def _check_field(self, name: str, value: Any) -> None:
        if isinstance(value, list) and len(value) > self.max_tags:
            raise WriteError(
                "too_large", f"fields.{name}: expected at most {self.max_tags} tags, got {len(value)}", name
            )
        texts = value if isinstance(value, list) else [value] if isinstance(value, str) else []
        # A character has at most four bytes, so that few texts need to be encoded.
        if 4 * sum(map(len, texts)) > self.max_field_bytes:
            size = sum(len(text.encode()) for text in texts)
            if size > self.max_field_bytes:
                message = f"fields.{name}: expected at most {self.max_field_bytes} bytes of text, got {size}"
                raise WriteError("too_large", message, name)
