"""Signals that end a command, and a terminal that is closed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from silverray.cluster.signals import deaf_children, put_off_signals, stopped_by_signals

_SHUT = """
import pathlib, signal, sys
from silverray.cluster.signals import stopped_by_signals
try:
    with stopped_by_signals():
        print("ready", flush=True)
        signal.pause()
except KeyboardInterrupt:
    for stream in (sys.stdout, sys.stderr):
        print("stopping", file=stream, flush=True)
    pathlib.Path(sys.argv[1]).write_text("cleaned up")
"""
_MASK = "import signal; print(signal.SIGHUP in signal.pthread_sigmask(signal.SIG_BLOCK, ()))"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_ends_a_block_and_leaves_the_handlers(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        signal.raise_signal(number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_can_be_put_off(number: signal.Signals) -> None:
    done = False
    with pytest.raises(KeyboardInterrupt), stopped_by_signals():
        with put_off_signals():
            signal.raise_signal(number)
            done = True
        done = False
    assert done


def test_under_nohup_a_closed_terminal_ends_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals(), put_off_signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_terminal_lets_a_command_clean_up_and_talk(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(sys.executable, [sys.executable, "-c", _SHUT, str(tmp_path / "done")])
    said = b""
    while b"ready" not in said:
        said += os.read(terminal, 1_024)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert (os.WIFEXITED(status), os.waitstatus_to_exitcode(status)) == (True, 0)
    assert (tmp_path / "done").read_text() == "cleaned up"


def test_children_do_not_hear_that_the_terminal_is_closed() -> None:
    def deaf() -> str:
        return subprocess.run([sys.executable, "-c", _MASK], check=True, capture_output=True, text=True).stdout

    with deaf_children():
        assert deaf() == "True\n"
    assert deaf() == "False\n"
