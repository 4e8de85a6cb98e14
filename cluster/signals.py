"""Signals that end a command: SIGTERM and SIGINT, both handled like Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Never

_ENDING = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Let SIGTERM end a block like Ctrl-C, with everything in it cleaned up; only the main thread can."""

    def interrupt(number: int, frame: FrameType | None) -> Never:
        raise KeyboardInterrupt

    with kept_handlers():
        if threading.current_thread() is threading.main_thread():
            for number in _ENDING:
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
        for number in _ENDING:
            signal.signal(number, lambda number, _: came.append(number))
        yield
    if came:
        signal.raise_signal(came[0])
