"""Python's collection of garbage in processes that serve."""

from __future__ import annotations

import gc


def spare_loaded() -> None:
    """Leave what has been loaded so far out of all collections: modules and data that stay as long as the process.

    A full collection looks at every object and stops the process meanwhile, for 0.1 to 0.3 s with PyTorch and Ray
    loaded. From here on it looks at what came later.
    """
    gc.collect()
    gc.freeze()
