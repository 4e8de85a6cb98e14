"""The upper bounds of one leaf of a filter, from the best to the shortest; each is made once it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from silverray.shard.filter.circuit import Node

Groups = tuple[tuple[int, ...], ...]


class Rung:
    """An upper bound.

    Args:
        least: instructions that it takes at the least.
        make: makes it.
    """

    __slots__ = ("_make", "_node", "least")

    def __init__(self, least: int, make: Callable[[], Node]) -> None:
        self.least = least
        self._make = make
        self._node: Node | None = None

    @property
    def node(self) -> Node:
        """Its function."""
        if self._node is None:
            self._node = self._make()
        return self._node


class Ladder:
    """A leaf's upper bounds.

    Args:
        top: the first of the bounds.
        rest: makes the others; the last serves whatever it takes.
        lower: the lower bound that goes with the first of them; None where that is the leaf itself.
        groups: the planes of a hashed leaf, one group a value; None for all else, and where planes decide alone.

    Attributes:
        top: as given.
    """

    __slots__ = ("_left", "_made", "_rest", "groups", "lower", "top")

    def __init__(
        self,
        top: Rung,
        rest: Callable[[], Iterator[Rung]],
        lower: Rung | None = None,
        groups: Groups | None = None,
    ) -> None:
        self.top = top
        self.lower = lower
        self.groups = groups
        self._made = [top]
        self._rest = rest
        self._left: Iterator[Rung] | None = None

    def fitting(self, budget: int) -> Rung:
        """The first bound of at most `budget` instructions, or the last."""
        rung = self.top
        for rung in self._rungs():
            if fits(rung, budget):
                break
        return rung

    def least(self, budget: int) -> int:
        """The least that `fitting` takes; makes none."""
        least = self.top.least
        if least <= budget:
            return least
        for rung in self._rungs():
            least = rung.least
            if least <= budget:
                break
        return least

    def _rungs(self) -> Iterator[Rung]:
        yield from self._made
        if self._left is None:
            self._left = self._rest()
        for rung in self._left:
            self._made.append(rung)
            yield rung


def fits(rung: Rung, budget: int) -> bool:
    """Whether a bound takes at most `budget` instructions; it is made where it may."""
    return rung.least <= budget and rung.node.size <= budget
