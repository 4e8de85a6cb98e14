"""Layouts: which shard holds which partitions of a snapshot."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True, slots=True)
class Layout:
    """A snapshot version and a map of its partitions to shards.

    Attributes:
        version: the snapshot.
        assignments: for each shard the partitions that it holds, ascending; disjoint, together all of them.
    """

    version: str
    assignments: tuple[tuple[int, ...], ...]

    @classmethod
    def spread(cls, version: str, partitions: int, shards: int) -> Layout:
        """Give every shard a contiguous range of partitions; their lengths differ by at most one.

        Raises:
            ValueError: there are fewer partitions than shards, or no shards.

        Example:
            >>> Layout.spread("v1", partitions=5, shards=2).assignments
            ((0, 1), (2, 3, 4))
        """
        if not 1 <= shards <= partitions:
            raise ValueError(f"shards: expected 1 to {partitions} (the snapshot's partitions), got {shards}")
        edges = [shard * partitions // shards for shard in range(shards + 1)]
        return cls(version, tuple(tuple(range(start, stop)) for start, stop in pairwise(edges)))

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.assignments)

    @property
    def tag(self) -> str:
        """What calls to shards carry, so that a shard never answers for another layout than its own."""
        return f"{self.version}/{self.shards}"
