"""Published catalogs, shared by all tests."""

import os
import signal
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from catalogs import make_items, schema_text, write_scorer, write_set_wise, write_tasks

from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import Catalog

# Ray's default for a cluster that a program starts. Drivers of such a cluster have to say it, and Ray reads it when it
# is imported: so it is said here, before any test module is.
os.environ.setdefault("RAY_AUTH_MODE", "token")
# Triton reads this when it is imported and when a kernel is defined: without a GPU its interpreter runs kernels.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
# A warning is an error: one that torch gives once a process would fail whichever test comes first.
torch.set_warn_always(True)

ORDER = (
    "engine/test_half_cache.py",
    *("kernels/test_sm90.py", "kernels/test_ptx.py", "schema", "value", "train", "towers", "kernels/test_triton.py"),
    *("kernels", "test_wheel.py", "filter", "test_agreement.py", "engine", "model", "live", "snapshot", "router"),
    "benchmarks",
)
"""In which order files are run, two at a time: all others come after these.

The first compiles the kernels, which the others find on disk; meanwhile those run that need none.
"""
Publish = Callable[..., Catalog]
REPEAT_S = 30.0
"""Seconds until a test that has run out of time and goes on nevertheless is failed again."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests in the order of `ORDER`; those of a file stay together, and in theirs."""
    here = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(here)
        names = (str(path), *map(str, path.parents))
        return min((ORDER.index(name) for name in names if name in ORDER), default=len(ORDER))

    items.sort(key=place)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> Generator[None, Any, Any]:
    """Repeat the alarm of a test's limit: an event loop keeps one that comes in a task of its own for itself."""
    done = yield
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, REPEAT_S)
    return done


@pytest.fixture(scope="session")
def publish_items(tmp_path_factory: pytest.TempPathFactory) -> Publish:
    """Publish a seeded catalog of n items."""

    def build(n: int, *, seed: int = 0, metric: str = "ip", strings: bool = False, **options: Any) -> Catalog:
        table, vectors = make_items(n, seed, strings)
        schema = Schema.parse(schema_text(metric), "test schema")
        out: Path = tmp_path_factory.mktemp("snapshots")
        return publish(table, schema, out, vectors=vectors, version="v1", **{"partitions": 8, **options})

    return build


@pytest.fixture(scope="session")
def catalog(publish_items: Publish) -> Catalog:
    """3,000 items with integer ids in 8 partitions and 64 clusters."""
    return publish_items(3_000, clusters=64)


@pytest.fixture(scope="session")
def two_tasks(publish_items: Publish, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The same items, for a model with the tasks click and like."""
    return publish_items(3_000, clusters=64, model=write_tasks(tmp_path_factory.mktemp("model"), ("click", "like")))


@pytest.fixture(scope="session")
def scored(publish_items: Publish, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The same items and tasks, with an MLP that matters and reads features."""
    model = write_scorer(tmp_path_factory.mktemp("model"), ("click", "like"), "mlp")
    return publish_items(3_000, clusters=64, model=model)


@pytest.fixture(scope="session")
def set_wise(publish_items: Publish, tmp_path_factory: pytest.TempPathFactory) -> Catalog:
    """The same items and tasks, with self-attention that matters and reads features."""
    return publish_items(3_000, clusters=64, model=write_set_wise(tmp_path_factory.mktemp("model"), ("click", "like")))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of some KB; where it is mounted."""
    disk = tmp_path / "disk"

    def mount(size_kb: int) -> Path:
        disk.mkdir()
        options = f"size={size_kb}k"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)], capture_output=True)
        if done.returncode:
            pytest.skip("small disks can be mounted by root only")
        return disk

    yield mount
    if disk.is_mount():
        subprocess.run(["umount", "-l", str(disk)], check=True)
