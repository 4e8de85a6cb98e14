"""A launch, run on the CPU: program after program in random order, its warps in turns of random length."""

from __future__ import annotations

from collections import Counter
from itertools import product
from random import Random
from typing import NamedTuple

import numpy as np

from .kernel import Branch, Kernel
from .memory import Region, SharedMemory, Tensors
from .registers import WARP, Fault, Warp

LONGEST_TURN = 12
"""Most blocks of instructions that a warp runs before another may."""


class Grid(NamedTuple):
    """Numbers along the axes of a grid."""

    x: int
    y: int = 1
    z: int = 1


class Launch:
    """A kernel with its arguments.

    Args:
        kernel: what to run.
        grid: how many programs.
        arguments: addresses and numbers, by the parameter's name.
        regions: the tensors' memory.
        shared_bytes: shared memory of a program.
        random: decides every order, and what registers hold that nobody wrote.
    """

    def __init__(
        self,
        kernel: Kernel,
        grid: Grid,
        arguments: dict[str, int],
        regions: list[Region],
        shared_bytes: int,
        random: Random,
    ) -> None:
        self.kernel, self.grid, self.arguments, self.random = kernel, grid, arguments, random
        self.shared_bytes = shared_bytes
        self.races: Counter[str] = Counter()
        self.tensors = Tensors(regions, self.races)

    def run(self) -> None:
        """Run all programs.

        Raises:
            Fault: an address outside of every tensor, or a race.
        """
        indices = [Grid(*index) for index in product(*map(range, self.grid))]
        self.random.shuffle(indices)
        with np.errstate(all="ignore"):
            for number, index in enumerate(indices):
                Program(self, index, number).run()
        if self.races:
            raise Fault(f"{self.kernel.name}: {dict(self.races)}")


class Program:
    """One program of a launch, a block of threads."""

    def __init__(self, launch: Launch, index: Grid, number: int) -> None:
        self.launch, self.index, self.number, self.random = launch, index, number, launch.random
        threads = launch.kernel.threads
        self.warps = [Warp(self, warp, threads) for warp in range(-(-threads // WARP))]
        self.shared = SharedMemory(launch.shared_bytes, launch.races)
        self._place = 0

    @property
    def site(self) -> str:
        """Where in the kernel's source it is."""
        return f"line {self.launch.kernel.code[self._place].line}"

    def run(self) -> None:
        """Run until no thread is left."""
        while any(warp.alive.any() for warp in self.warps):
            ready = [warp for warp in self.warps if warp.ready.any()]
            if ready:
                warp, blocks = self.random.choice(ready), self.random.randint(1, LONGEST_TURN)
                while blocks and warp.ready.any():
                    self._run_block(warp)
                    blocks -= 1
            else:  # all wait at a barrier
                for warp in self.warps:
                    warp.waiting[:] = False
                self.shared.pass_barrier()

    def _run_block(self, warp: Warp) -> None:
        """Run the lanes that are furthest behind up to the next branch, label or barrier."""
        kernel, ready = self.launch.kernel, warp.ready
        self._place = int(warp.places[ready].min())
        lanes = ready & (warp.places == self._place)
        mask = None if lanes.all() else lanes
        while (instruction := kernel.code[self._place]).run is not None:
            active = instruction.lanes(warp, mask)
            if active is None or active.any():
                instruction.run(warp, active)
            self._place += 1
            if self._place in kernel.targets:
                warp.places[lanes] = self._place
                return
        active = instruction.lanes(warp, mask)
        taken = lanes if active is None else active
        warp.places[lanes] = self._place + 1
        match instruction.branch:
            case Branch.JUMP:
                for lane in np.flatnonzero(taken):
                    warp.places[lane] = kernel.target(instruction, warp, int(lane))
            case Branch.RETURN:
                warp.alive = warp.alive & ~taken
            case Branch.BARRIER:
                warp.waiting = warp.waiting | taken
            case _:
                raise Fault(f"{instruction.text}: neither runs nor branches")
