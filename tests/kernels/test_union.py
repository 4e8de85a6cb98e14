"""The union of several tasks' lists: every item once, with the score of each list."""

import pytest
import torch
from torch import Tensor

from silverray.kernels.union import reference, unite


def test_items_that_several_tasks_find_stand_once_with_all_their_scores() -> None:
    slots = torch.tensor([[[7, 5, 9], [5, 7, -1]], [[-1, -1, -1], [0, -1, -1]]])
    scores = torch.tensor(
        [[[3.0, 2.0, 1.0], [6.0, 5.0, -torch.inf]], [[-torch.inf] * 3, [4.0, -torch.inf, -torch.inf]]]
    )
    united = unite(slots, scores)
    assert united.slots.tolist() == [[7, 5, 9, -1, -1, -1], [0, -1, -1, -1, -1, -1]]
    assert united.found[0, :3].tolist() == [[3.0, 5.0], [2.0, 6.0], [1.0, -torch.inf]]
    assert united.found[1, 0].tolist() == [-torch.inf, 4.0]
    assert (united.found[0, 3:] == -torch.inf).all() and (united.found[1, 1:] == -torch.inf).all()


@pytest.mark.parametrize(
    ("batch", "tasks", "kept", "items"),
    [
        (16, 3, 20, 30),
        (1, 2, 860, 1_000),
        (64, 1, 33, 40),
        (5, 6, 100, 1 << 40),
        (2, 2, 1, 1),
        (0, 2, 3, 9),
        (3, 2, 0, 9),
    ],
)
def test_union_agrees_with_dictionaries(batch: int, tasks: int, kept: int, items: int) -> None:
    slots, scores = lists(batch, tasks, kept, items)
    united = unite(slots, scores)
    for mine, its in zip(united, reference(slots, scores), strict=True):
        assert torch.equal(mine, its)
    for row in range(batch):
        expected: dict[int, list[float]] = {}
        for task in range(tasks):
            for slot, score in zip(slots[row, task].tolist(), scores[row, task].tolist(), strict=True):
                if slot >= 0:
                    expected.setdefault(slot, [-torch.inf] * tasks)[task] = score
        count = len(expected)
        assert united.slots[row].tolist() == [*expected] + [-1] * (tasks * kept - count)
        assert united.found[row, :count].tolist() == [*expected.values()]


def test_slots_with_the_same_hash_are_told_apart() -> None:
    inverse = pow(0x9E3779B97F4A7C15, -1, 1 << 64)
    close = sorted({number * inverse % (1 << 64) for number in range(400)})  # all begin at the table's first place
    slots = torch.tensor([slot for slot in close if slot < 1 << 63])[None, None]
    united = unite(slots, torch.zeros(slots.shape))
    assert slots.shape[2] > 100 and torch.equal(united.slots, slots[0])


def test_lists_that_are_parts_of_others_are_read_as_they_are() -> None:
    slots, scores = (part[1::2, :, ::2] for part in lists(4, 2, 10, 15))
    for mine, its in zip(unite(slots, scores), unite(slots.clone(), scores.clone()), strict=True):
        assert torch.equal(mine, its)


def test_it_refuses_what_does_not_fit() -> None:
    slots, scores = lists(2, 2, 3, 9)
    with pytest.raises(ValueError, match=r"expected \[B, T, N\] both, got \[2, 2, 3\] and \[2, 2, 2\]"):
        unite(slots, scores[:, :, 1:])
    with pytest.raises(ValueError, match="expected int64 and float32, got"):
        unite(slots.int(), scores)


def lists(batch: int, tasks: int, kept: int, items: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(kept)
    slots = torch.randint(items, (batch * tasks, 2 * kept + 1), generator=generator)
    if items <= 2 * kept + 1:
        slots = torch.stack([torch.randperm(items, generator=generator) for _ in range(batch * tasks)] or [slots[0]])
        slots = slots[: batch * tasks]
    slots = slots[:, :kept].reshape(batch, tasks, min(kept, slots.shape[1]))
    slots[torch.rand(slots.shape, generator=generator) < 0.2] = -1
    return slots, torch.where(slots >= 0, torch.rand(slots.shape, generator=generator), -torch.inf)
