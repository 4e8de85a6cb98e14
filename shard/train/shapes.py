"""The towers that fit a table of requests: one embedding table for each feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from silverray.shard.towers.table import Table
from silverray.shard.towers.towers import TowerShape
from silverray.shard.towers.two_tower import TwoTower
from silverray.shard.train.format import ITEM, RequestFormat
from silverray.shard.train.items import ItemTable


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """How wide a model is.

    Attributes:
        dimension: of the vectors that users and items become.
        hidden: of the towers' hidden layers.
        ids: of the tables of item ids, for items themselves and for histories.
        categories: of all other tables.
    """

    dimension: int = 64
    hidden: int = 128
    ids: int = 64
    categories: int = 8


def make_towers(format: RequestFormat, items: ItemTable, widths: Widths) -> TwoTower:
    """Make towers for requests and items, drawn from torch's random state.

    Raises:
        ValueError: a feature's name cannot name a table, or a width is no multiple of 4.
        TablesUnavailable: TorchRec is not installed.
    """
    history = format.user.history_name
    user_sizes = {history: items.ids.size, **{name: rule.size for name, rule in format.user.categories.items()}}
    user = TowerShape(_tables("user", user_sizes, history, widths), widths.hidden, widths.dimension, len(format.tasks))
    item = TowerShape(_tables("item", items.sizes, ITEM, widths), widths.hidden, widths.dimension)
    return TwoTower(user, item)


def _tables(side: str, sizes: Mapping[str, int], ids: str, widths: Widths) -> tuple[Table, ...]:
    return tuple(
        Table(f"{side}-{name}", rows, widths.ids if name == ids else widths.categories, (name,), "mean")
        for name, rows in sizes.items()
    )
