"""A build gives the same bytes whatever the threads, and needs little memory beside its input."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from catalogs import make_items, schema_text
from processes import PATIENCE_S

from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.catalog import Catalog
from silverray.shard.snapshot.files import SnapshotFiles

GROWTH = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from silverray.shard.schema.schema import Schema
from silverray.shard.publish import recall
from silverray.shard.publish.builder import publish

recall.SAMPLE = 16  # what the curve needs does not grow with the items
def resident(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024

schema = Schema.parse("{id: id, vector: {dimension: 64, metric: cosine}, fields: {year: {type: int}}}", "schema")
table = lambda n: pa.table({"id": np.arange(n), "year": np.arange(n) % 70})
vectors = np.random.default_rng(0).standard_normal((400_000, 64), dtype=np.float32)
out = Path(sys.argv[1])
publish(table(2_000), schema, out, vectors=vectors[:2_000], version="warm-up")
items = table(400_000)
open("/proc/self/clear_refs", "w").write("5")
before = resident("VmRSS")
publish(items, schema, out, vectors=vectors, clusters=64, version="v")
print((resident("VmHWM") - before) / (vectors.nbytes / 2**20))
"""


@pytest.mark.parametrize("metric", ["ip", "cosine"])
def test_the_bytes_do_not_depend_on_the_number_of_threads(metric: str, publish_items: Callable[..., Catalog]) -> None:
    before = torch.get_num_threads()
    manifests = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            manifests.append(SnapshotFiles.open(publish_items(3_000, metric=metric, clusters=48).path).manifest)
    finally:
        torch.set_num_threads(before)
    assert manifests[0] == manifests[1] == manifests[2]


@pytest.mark.skipif(sys.platform != "linux", reason="reads the process's peak memory from /proc")
def test_a_cosine_build_never_copies_all_vectors(tmp_path: Path) -> None:
    grown = subprocess.run([sys.executable, "-c", GROWTH, tmp_path], capture_output=True, text=True, timeout=PATIENCE_S)
    assert grown.returncode == 0, grown.stderr
    assert float(grown.stdout) < 0.8


def test_a_memory_mapped_file_is_published_like_an_array(tmp_path: Path) -> None:
    table, vectors = make_items(700)
    np.save(tmp_path / "vectors.npy", vectors)
    schema = Schema.parse(schema_text("cosine"), "schema")
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    stored = [
        publish(table, schema, tmp_path / name, vectors=given, version="v").path
        for name, given in (("array", vectors), ("file", mapped))
    ]
    assert SnapshotFiles.open(stored[0]).manifest == SnapshotFiles.open(stored[1]).manifest


def test_a_table_in_many_chunks_is_published_like_one_in_one(tmp_path: Path) -> None:
    table, vectors = make_items(600, strings=True)
    chunked = pa.concat_tables([table.slice(start, 70) for start in range(0, 600, 70)])
    schema = Schema.parse(schema_text(), "schema")
    stored = [
        publish(given, schema, tmp_path / name, vectors=vectors, version="v").path
        for name, given in (("one", table), ("many", chunked))
    ]
    assert SnapshotFiles.open(stored[0]).manifest == SnapshotFiles.open(stored[1]).manifest
