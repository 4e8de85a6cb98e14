"""Candidates: every item once, with what each task found it with."""

import torch

from silverray.shard.model.candidates import packed, unite


def test_items_that_several_tasks_find_stand_once_with_all_their_scores() -> None:
    slots = torch.tensor([[[7, 5, 9], [5, 7, -1]], [[-1, -1, -1], [0, -1, -1]]])
    scores = torch.tensor(
        [[[3.0, 2.0, 1.0], [6.0, 5.0, -torch.inf]], [[-torch.inf] * 3, [4.0, -torch.inf, -torch.inf]]]
    )
    united = unite(slots, scores)
    rows = [
        {slot: found for slot, found in zip(own, its, strict=True) if slot >= 0}
        for own, its in zip(united.slots.tolist(), united.found.tolist(), strict=True)
    ]
    assert rows == [{5: [2.0, 6.0], 7: [3.0, 5.0], 9: [1.0, -torch.inf]}, {0: [-torch.inf, 4.0]}]
    assert [(row >= 0).sum().item() for row in united.slots] == [3, 1]


def test_packing_leaves_out_empty_places_only() -> None:
    slots = torch.tensor([[[7, 5, 9], [5, 7, -1]], [[-1, -1, -1], [0, -1, -1]]])
    united = unite(slots, slots.float())
    left = packed(united)
    assert left.slots.tolist() == [[5, 7, 9], [0, -1, -1]]
    assert left.found[0].tolist() == [[5, 5], [7, 7], [9, -torch.inf]]
    nothing = packed(unite(torch.full((2, 2, 3), -1), torch.full((2, 2, 3), -torch.inf)))
    assert nothing.slots.tolist() == [[-1], [-1]]


def test_union_agrees_with_sets_on_random_lists() -> None:
    g = torch.Generator().manual_seed(0)
    slots = torch.stack([torch.stack([torch.randperm(30, generator=g)[:20] for _ in range(3)]) for _ in range(16)])
    slots[torch.rand(slots.shape, generator=g) < 0.2] = -1
    scores = torch.where(slots >= 0, torch.rand(slots.shape, generator=g), -torch.inf)
    united = unite(slots, scores)
    for row in range(16):
        expected: dict[int, list[float]] = {}
        for task in range(3):
            for slot, score in zip(slots[row, task].tolist(), scores[row, task].tolist(), strict=True):
                if slot >= 0:
                    expected.setdefault(slot, [-torch.inf] * 3)[task] = score
        there = united.slots[row] >= 0
        found = dict(zip(united.slots[row, there].tolist(), united.found[row, there].tolist(), strict=True))
        assert found == expected
        assert there.sum() == len(expected)
