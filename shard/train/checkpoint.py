"""A training run on disk: one file, replaced as a whole."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch

CHECKPOINT_FILE = "checkpoint.pt"


class CheckpointError(RuntimeError):
    """A checkpoint cannot be read or is of another run; the message names the file."""


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write a state under another name, then put it in the place of the one that is there.

    Raises:
        OSError: it cannot be written; the one that is there stays, and nothing is left of the other.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f".{CHECKPOINT_FILE}.new"
    try:
        with written.open(
            "wb"
        ) as stream:  # of a file that it opens itself, torch does not say why it cannot be written
            torch.save(state, stream)
            stream.flush()
            os.fsync(stream.fileno())
        written.replace(folder / CHECKPOINT_FILE)
    except RuntimeError as error:
        written.unlink(missing_ok=True)
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    except BaseException:
        written.unlink(missing_ok=True)
        raise


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors and plain values only, nothing in it is run.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    file = folder / CHECKPOINT_FILE
    try:
        state: dict[str, Any] = torch.load(file, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{file}: not a readable checkpoint: {str(error).splitlines()[0]}") from error
    return state
