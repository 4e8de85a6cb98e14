"""The same model trained on the same batches, by request and by impression."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from silverray.benchmarks.common.measure import interleave, ratio
from silverray.shard.train.batch import Batch
from silverray.shard.train.counts import ItemCounts
from silverray.shard.train.format import RequestFormat
from silverray.shard.train.items import ItemTable
from silverray.shard.train.objectives import BinaryCrossEntropy, SampledSoftmax
from silverray.shard.train.parts import by_impression
from silverray.shard.train.shapes import Widths, make_towers
from silverray.shard.train.trainer import Recipe, Step, Trainer

WARMUP = 3
"""Adam's state and PyTorch's buffers are made in the first steps."""
THREADS = 1
"""Small steps are fastest so."""
SEED = 0
"""Any: both copies need the same, so that their losses can be compared step by step."""
TEMPERATURE = 0.1
"""The demo's (`configs/movielens-train.yaml`)."""


def compare_steps(
    batches: Sequence[Batch], format: RequestFormat, items: ItemTable, widths: Widths, steps: int
) -> dict[str, Any]:
    """Train two copies of a model, a step of each in turn.

    Args:
        batches: taken one after another, again from the first after the last.
        format: of the requests.
        items: the catalog.
        widths: of the model.
        steps: timed ones.

    Returns:
        A table's row: milliseconds a step of both, how many times as long one takes as the other, and the greatest
        difference of their losses, relative to the loss.
    """
    total = WARMUP + steps
    taken = [batches[number % len(batches)] for number in range(total)]
    copies = {"request": taken, "impression": [by_impression(batch) for batch in taken]}
    counts = ItemCounts.of(batches, items.ids.size, len(format.tasks))
    losses: dict[str, list[float]] = {}
    contenders = {}
    for name, own in copies.items():
        losses[name] = []
        contenders[name] = _stepper(_trainer(own, format, items, widths, counts), losses[name])
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    timings = interleave(contenders, rounds=steps, warmup=WARMUP)
    torch.set_num_threads(before)
    differences = [abs(a - b) / abs(a) for a, b in zip(losses["request"], losses["impression"], strict=True)]
    return {
        **timings["request"].seconds(1e-3, "request"),
        **timings["impression"].seconds(1e-3, "impression"),
        "faster": ratio(timings["impression"], timings["request"]),
        "requests": sum(len(batch.times) for batch in taken) / total,
        "impressions": sum(len(batch.request) for batch in taken) / total,
        "difference": max(differences),
    }


def _trainer(
    batches: Sequence[Batch], format: RequestFormat, items: ItemTable, widths: Widths, counts: ItemCounts
) -> Trainer:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = make_towers(format, items, widths)
    objectives: dict[str, nn.Module] = {"softmax": SampledSoftmax(0, TEMPERATURE, counts.shares)}
    objectives |= {task: BinaryCrossEntropy(number) for number, task in enumerate(format.tasks)}
    recipe = Recipe(epochs=1, learning_rate=1e-3, weight_decay=1e-2, dropout={}, weights={}, seed=SEED)
    return Trainer(model, objectives, lambda _, position: batches, recipe)


def _stepper(trainer: Trainer, losses: list[float]) -> Callable[[], Step]:
    steps = trainer.steps()

    def step() -> Step:
        done = next(steps)
        losses.append(sum(done.losses.values()))
        return done

    return step
