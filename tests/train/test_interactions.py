import numpy as np
import pytest

from silverray.shard.train.interactions import Interactions


def test_what_was_liked_before_is_strictly_before_and_of_the_same_user() -> None:
    likes = Interactions(
        users=np.array([1, 0, 1, 1, 0, 1]),
        items=np.array([10, 20, 11, 12, 21, 13]),
        times=np.array([1, 1, 2, 2, 3, 4]),
    )
    before = likes.before(likes.users, likes.times)
    assert [items.tolist() for items in before] == [[], [], [10], [10], [20], [10, 11, 12]]
    assert [items.tolist() for items in likes.before(np.array([0, 7]), np.array([9, 9]))] == [[20, 21], []]


@pytest.mark.parametrize(("held_out", "row"), [(0.5, 1), (0.2, 4), (0.01, 4), (1.0, 0)])
def test_a_split_keeps_equal_times_together(held_out: float, row: int) -> None:
    zeros = np.zeros(5, np.int64)
    assert Interactions(zeros, zeros, np.array([1, 2, 2, 2, 3])).split_row(held_out) == row


def test_interactions_must_be_in_order_and_of_one_length() -> None:
    zeros = np.zeros(2, np.int64)
    with pytest.raises(ValueError, match="ascending"):
        Interactions(zeros, zeros, np.array([2, 1]))
    with pytest.raises(ValueError, match="one length"):
        Interactions(zeros, zeros[:1], zeros)
