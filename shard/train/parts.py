"""Batches cut and thinned: the part of one process, and histories with places left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from silverray.shard.towers.tables import keyed_jagged
from silverray.shard.train.batch import Batch

if TYPE_CHECKING:
    from torchrec import KeyedJaggedTensor

Columns = dict[str, tuple[Tensor, Tensor]]


def part_of(batch: Batch, rank: int, size: int) -> Batch:
    """The requests of one of `size` processes, with their impressions; the parts make up the batch."""
    requests = len(batch.times)
    first, last = requests * rank // size, requests * (rank + 1) // size
    begin, end = torch.searchsorted(batch.request, torch.tensor([first, last])).tolist()
    return Batch(
        user=keyed_jagged(_rows(batch.user, first, last)),
        items=keyed_jagged(_rows(batch.items, begin, end)),
        request=batch.request[begin:end] - first,
        labels=batch.labels[begin:end],
        times=batch.times[first:last],
    )


def by_impression(batch: Batch) -> Batch:
    """The same impressions with one request each: what training would read and compute without requests."""
    columns = {}
    for name, (ids, lengths) in _columns(batch.user).items():
        starts, repeated = torch.cumsum(lengths, 0) - lengths, lengths[batch.request]
        ends = torch.cumsum(repeated, 0)
        within = torch.arange(int(repeated.sum())) - torch.repeat_interleave(ends - repeated, repeated)
        columns[name] = (ids[torch.repeat_interleave(starts[batch.request], repeated) + within], repeated)
    request = torch.arange(len(batch.request))
    return batch._replace(user=keyed_jagged(columns), request=request, times=batch.times[batch.request])


def thinned(user: KeyedJaggedTensor, rates: Mapping[str, float]) -> KeyedJaggedTensor:
    """Leave ids of some features out at random.

    Args:
        user: features of R requests.
        rates: of a feature, the fraction of its ids that is left out, drawn from torch's random state.
    """
    columns = _columns(user)
    for name, rate in rates.items():
        ids, lengths = columns[name]
        kept = torch.rand(len(ids)) >= rate
        bag = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        columns[name] = (ids[kept], torch.bincount(bag[kept], minlength=len(lengths)))
    return keyed_jagged(columns)


def _columns(features: KeyedJaggedTensor) -> Columns:
    return {name: (lists.values(), lists.lengths()) for name, lists in features.to_dict().items()}


def _rows(features: KeyedJaggedTensor, first: int, last: int) -> Columns:
    cut = {}
    for name, (ids, lengths) in _columns(features).items():
        begin, end = int(lengths[:first].sum()), int(lengths[:last].sum())
        cut[name] = (ids[begin:end], lengths[first:last])
    return cut
