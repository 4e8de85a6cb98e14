"""Matrix factorisations to compare towers with, from the library `implicit`.

Both are asked like a tower: what somebody has liked up to now, or the latest of it, makes their vector, with the items'
vectors as they were learned.
Letters: U users, N items, R histories.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Sparse = Any
"""`scipy.sparse.csr_matrix` of float32."""

Histories = Sequence[NDArray[np.int64]]
"""R arrays of items, oldest first."""

Ranker = Callable[[Histories], NDArray[np.float32]]
"""Gives `[R, N]` scores for R histories."""

FOLD_STEPS = 200
"""At the rate below Adam moves a number by up to 10 in so many, far beyond any that is learned; the figures of
decision 22.10 are of these settings."""
FOLD_PAIRS = 8
"""Of a user in a step, so that in all steps 1,600 pairs, each like of a usual history dozens of times."""
FOLD_RATE = 0.05
"""Fixed, not tuned: BPR's own settings are."""


@dataclass(frozen=True)
class Als:
    """Implicit ALS (Hu, Koren, Volinsky 2008); histories are folded in by the library's `recalculate_user`."""

    factors: int
    regularization: float
    alpha: float
    latest: int | None = None

    def fit(self, likes: Sparse, seed: int) -> Ranker:
        """Learn from likes `[U, N]`; without a history, items are ranked by how often they are liked."""
        from implicit.cpu.als import AlternatingLeastSquares

        model = AlternatingLeastSquares(self.factors, self.regularization, self.alpha, random_state=seed, num_threads=1)
        model.fit(likes, show_progress=False)
        popularity = np.asarray(likes.sum(axis=0), dtype=np.float32)

        def rank(given: Histories) -> NDArray[np.float32]:
            histories = sparse_rows(given, likes.shape[1], self.latest)
            users = model.recalculate_user(np.arange(histories.shape[0]), histories)
            scores: NDArray[np.float32] = users @ model.item_factors.T
            return np.where(np.diff(histories.indptr)[:, None] > 0, scores, popularity)

        return rank


@dataclass(frozen=True)
class Bpr:
    """BPR (Rendle et al. 2009); a history is folded in by BPR's own objective over its vector alone."""

    factors: int
    learning_rate: float
    regularization: float
    latest: int | None = None

    def fit(self, likes: Sparse, seed: int) -> Ranker:
        """Learn from likes `[U, N]`; without a history, items are ranked by their biases."""
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        # One thread: with more the library's result depends on their race.
        model = BayesianPersonalizedRanking(
            self.factors, self.learning_rate, self.regularization, random_state=seed, num_threads=1
        )
        model.fit(likes, show_progress=False)
        # The library keeps an item's bias as one factor more.
        learned = torch.from_numpy(model.item_factors)
        vectors_NF, bias_N = learned[:, : self.factors], learned[:, self.factors]

        def rank(given: Histories) -> NDArray[np.float32]:
            histories = sparse_rows(given, likes.shape[1], self.latest)
            users_RF = _fold_in(histories, vectors_NF, bias_N, self.regularization, seed)
            scores: NDArray[np.float32] = (users_RF @ vectors_NF.T + bias_N).numpy()
            return scores

        return rank


def sparse_rows(lists: Histories, columns: int, latest: int | None = None) -> Sparse:
    """A row with ones for each list, or for its latest items."""
    from scipy.sparse import csr_matrix

    kept = [own if latest is None else own[-latest:] for own in lists]
    rows = np.repeat(np.arange(len(kept)), list(map(len, kept)))
    values = np.concatenate([np.empty(0, np.int64), *kept])
    return csr_matrix((np.ones(len(rows), np.float32), (rows, values)), (len(kept), columns))


def _fold_in(histories: Sparse, vectors_NF: Tensor, bias_N: Tensor, regularization: float, seed: int) -> Tensor:
    """The vectors that rank what stands in a history above items drawn at random."""
    draw = torch.Generator().manual_seed(seed)
    known = torch.from_numpy(np.flatnonzero(np.diff(histories.indptr)))
    starts, counts = (
        torch.from_numpy(part.astype(np.int64))[known, None]
        for part in (histories.indptr[:-1], np.diff(histories.indptr))
    )
    items = torch.from_numpy(histories.indices.astype(np.int64))
    users_KF = torch.zeros(len(known), vectors_NF.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([users_KF], lr=FOLD_RATE)
    for _ in range(FOLD_STEPS):
        liked = items[starts + (torch.rand(len(known), FOLD_PAIRS, generator=draw) * counts).long()]
        other = torch.randint(len(vectors_NF), liked.shape, generator=draw)
        margins = (
            torch.einsum("kf,kpf->kp", users_KF, vectors_NF[liked] - vectors_NF[other]) + bias_N[liked] - bias_N[other]
        )
        loss = functional.softplus(-margins).mean(dim=1).sum() + regularization * users_KF.square().sum()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    users_RF = torch.zeros(histories.shape[0], vectors_NF.shape[1])
    users_RF[known] = users_KF.detach()
    return users_RF
