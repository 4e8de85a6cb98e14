"""The two-tower model of a request: users are encoded once a request, items once an impression.

Letters: R requests, I impressions, J items, T tasks, D dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor, nn

from silverray.shard.towers.towers import ItemTower, TowerShape, UserTower

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor


class Encoded(NamedTuple):
    """Requests and their impressions as vectors.

    Attributes:
        users: `[R, T, D]` float32 of length 1.
        items: `[I, D]` float32 of length 1.
        cosines: `[I, T]` float32 of each impression's item with its request's users.
    """

    users: Tensor
    items: Tensor
    cosines: Tensor


class TwoTower(nn.Module):
    """A user tower and an item tower.

    Args:
        user: sizes of the user tower.
        item: sizes of the item tower, of the same dimension.
    """

    def __init__(self, user: TowerShape, item: TowerShape) -> None:
        super().__init__()
        if user.dimension != item.dimension:
            raise ValueError(f"item.dimension: expected {user.dimension} as the user's, got {item.dimension}")
        self.users = UserTower(user)
        self.items = ItemTower(item)

    def forward(self, user: KeyedJaggedTensor, items: KeyedJaggedTensor, request: Tensor) -> Encoded:
        """Encode requests, and broadcast each to its impressions.

        Args:
            user: features of R requests.
            items: features of I impressions.
            request: `[I]` int64, the request of each impression.
        """
        users_RTD, items_ID = self.users(user), self.items(items)
        cosines_IT = (users_RTD[request] * items_ID[:, None]).sum(dim=2)
        return Encoded(users_RTD, items_ID, cosines_IT)
