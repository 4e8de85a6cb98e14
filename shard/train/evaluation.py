"""Judging a trained two-tower by what users liked later.

Held-out likes are a request table too: each of its impressions with a label above 0 is a like, asked for with the
features of its request. Its histories should be whole, since what stands in one is no candidate for its user.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from silverray.shard.towers.ids import Keys, Vocabulary
from silverray.shard.towers.jagged import Jagged, features_of
from silverray.shard.towers.towers import ItemTower, UserTower
from silverray.shard.train.format import RequestFormat
from silverray.shard.train.items import ItemTable
from silverray.shard.train.recall import popularity_recall_at, recall_at
from silverray.shard.train.requests import Requests, RequestTable

ITEMS_AT_A_TIME = 65_536
"""What a layer of 256 numbers makes of so many items takes 64 MiB."""
LIKES_AT_A_TIME = 1_024
"""Each like has a score for every item: about 0.4 GB for so many likes in a catalog of 100,000."""
_WHOLE = 1 << 62
"""Longer than any history: what was liked before is left out of a ranking, however long ago."""


class Likes(NamedTuple):
    """Some held-out likes.

    Attributes:
        users: user features of R requests, as the model takes them.
        request: `[n]` int64, the request of each like.
        liked: `[n]` int64, the row of the item among all items.
        seen: of each like, rows of the items that its user had liked before.
    """

    users: dict[str, Jagged]
    request: NDArray[np.int64]
    liked: NDArray[np.int64]
    seen: list[NDArray[np.int64]]


def read_likes(table: RequestTable, items: ItemTable, keys: Keys, task: int) -> Iterator[Likes]:
    """Read the likes of a request table; items that are not in the catalog cannot be found and count for nothing.

    Args:
        table: the held-out requests.
        items: gives items their rows in the model's tables.
        keys: `[N]` int64 key of each item of the catalog.
        task: column of the labels.

    Raises:
        TableError: a file of the table is damaged.
    """
    name, history = table.format.user.history_name, replace(table.format.user.history, length=_WHOLE)
    whole = RequestTable(RequestFormat(replace(table.format.user, history=history), table.format.tasks), table.groups)
    catalog = Vocabulary(keys)
    for group in whole.groups:
        for requests in whole.read(group, catalog):
            for start in range(0, len(requests.times), LIKES_AT_A_TIME):
                rows = np.arange(start, min(start + LIKES_AT_A_TIME, len(requests.times)))
                some = requests.take(rows)
                # What a request knew, by row of the catalog; then by the model's ids, and the latest only.
                seen = Jagged(some.user[name].values - 1, some.user[name].offsets)
                known = Jagged(items.ids.rows(keys[seen.values]), seen.offsets).latest(table.format.user.history.length)
                liked = catalog.rows(some.items.values) - 1
                yield _likes(some._replace(user={**some.user, name: known}), liked, seen, task)


def _likes(requests: Requests, places: NDArray[np.int64], seen: Jagged, task: int) -> Likes:
    liked = np.flatnonzero((requests.labels[:, task] > 0) & (places >= 0))
    request = np.repeat(np.arange(len(requests.times)), requests.items.lengths)[liked]
    own = np.split(seen.values, seen.offsets[1:-1])
    return Likes(requests.user, request, places[liked], [own[row] for row in request])


@torch.inference_mode()
def item_vectors(tower: ItemTower, items: ItemTable, keys: Keys) -> Tensor:
    """Encode a catalog: `[N, D]` float32, in the order of `keys` (`[N]` int64)."""
    blocks = [keys[start : start + ITEMS_AT_A_TIME] for start in range(0, len(keys), ITEMS_AT_A_TIME)]
    return torch.cat([tower(features_of(items.look_up(block))) for block in blocks])


class Recall(NamedTuple):
    """What fraction of the held-out likes stands among the first places.

    Attributes:
        likes: how many there were.
        model: ranked by a model.
        popularity: ranked by how often items were liked, the same for everyone.
    """

    likes: int
    model: float
    popularity: float


@torch.inference_mode()
def measure_recall(
    tower: UserTower, vectors: Tensor, likes: Iterator[Likes], counts: NDArray[np.int64], task: int, places: int
) -> Recall:
    """Rank the catalog for every held-out like; what its user had liked before is no candidate.

    Args:
        tower: encodes users.
        vectors: `[N, D]` float32, the catalog (see `item_vectors`).
        likes: what to find.
        counts: `[N]` int64, how often each item was liked in training.
        task: the head to rank by.
        places: how many count.
    """
    total, found, found_popular = 0, 0.0, 0.0
    for some in likes:
        if not len(some.liked):
            continue
        users = tower(features_of(some.users))[:, task]
        scores = (users[torch.from_numpy(some.request)] @ vectors.T).numpy()
        total += len(some.liked)
        found += len(some.liked) * recall_at(places, scores, some.liked, some.seen)
        found_popular += len(some.liked) * popularity_recall_at(places, counts, some.liked, some.seen)
    return Recall(total, found / max(total, 1), found_popular / max(total, 1))
