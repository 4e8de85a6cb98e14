"""What writes did to a catalog's items."""

from __future__ import annotations

from typing import NamedTuple


class Outcome(NamedTuple):
    """What writes did, counted in items.

    Attributes:
        inserted: are new.
        replaced: have other vectors and fields.
        patched: have other fields.
        deleted: are no more.
        unknown: were to be patched or deleted, and are not there.
        refused: are as they were, as the version's schema does not take the write.
        key_collision: are as they were, as the write names another id with the same key.
        fields_only: have other fields, and not the vector that came with them, which is of another space.
        other_space: are not there, and came with a vector of another space.
    """

    inserted: int = 0
    replaced: int = 0
    patched: int = 0
    deleted: int = 0
    unknown: int = 0
    refused: int = 0
    key_collision: int = 0
    fields_only: int = 0
    other_space: int = 0

    def plus(self, other: Outcome) -> Outcome:
        """Both together."""
        return Outcome(*(mine + its for mine, its in zip(self, other, strict=True)))
