"""Signals that end a command: SIGTERM, SIGINT and SIGHUP, all handled like Ctrl-C."""

from __future__ import annotations

import os
import signal
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Never

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM, and SIGHUP when the terminal is closed, end a block like Ctrl-C, with everything in it cleaned up.

    Only the main thread can. Under `nohup`, SIGHUP ends nothing.
    """

    def interrupt(number: int, frame: FrameType | None) -> Never:
        if number == signal.SIGHUP:
            _leave_terminal()
        raise KeyboardInterrupt

    with kept_handlers():
        if threading.current_thread() is threading.main_thread():
            for number in _heeded():
                signal.signal(number, interrupt)
        yield


@contextmanager
def kept_handlers() -> Iterator[None]:
    """Put the handlers back that a block replaces, as connecting to Ray does; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = [signal.getsignal(number) for number in _ENDING]
    try:
        yield
    finally:
        for number, handler in zip(_ENDING, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def put_off_signals() -> Iterator[None]:
    """Let a block run to its end; a signal that came meanwhile ends what follows it."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with kept_handlers():
        for number in _heeded():
            signal.signal(number, lambda number, _: came.append(number))
        yield
    if came:
        signal.raise_signal(came[0])


@contextmanager
def deaf_children() -> Iterator[None]:
    """Let processes that a block starts, and theirs, not hear that the terminal is closed: whoever ends them needs them
    until then. This process hears of it during the block, or after it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _heeded() -> list[signal.Signals]:
    return [number for number in _ENDING if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN]


def _leave_terminal() -> None:
    """Write nothing more to a terminal that is gone: that would fail, and end what cleans up."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for output in (1, 2):
        with suppress(OSError):  # it is closed
            if stat.S_ISCHR(os.fstat(output).st_mode):
                os.dup2(nowhere, output)
    os.close(nowhere)
