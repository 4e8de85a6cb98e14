"""Work of one body in parts, so that other bodies have their turn in a thread that they share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping


def chunks_by_size(sizes: Mapping[int, int], most: int) -> Iterator[list[int]]:
    """Part lists by size, the small ones first, so that none is padded far and no part is long.

    Args:
        sizes: of each list, by its place.
        most: size of a part, where it has more than one list: their number times the largest.

    Example:
        >>> list(chunks_by_size({0: 5, 1: 900, 2: 4}, 1_000))
        [[2, 0], [1]]
    """
    part: list[int] = []
    for place in sorted(sizes, key=sizes.__getitem__):
        if part and (len(part) + 1) * sizes[place] > most:
            yield part
            part = []
        part.append(place)
    if part:
        yield part
