"""The demo, as a person runs it."""

import subprocess
import sys
import threading

import pytest
from processes import descendants, gone

from silverray.cluster.movielens import MovieLensError, fetch


@pytest.mark.ray
@pytest.mark.timeout(280)
def test_the_demo_tells_its_story_and_leaves_nothing() -> None:
    try:
        fetch()
    except MovieLensError as error:
        pytest.skip(f"no MovieLens data here: {error}")
    command = [sys.executable, "-m", "silverray.cluster.cli", "demo"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    started: set[int] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.5):
            started.update(descendants(process.pid))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        output, _ = process.communicate(timeout=250)
    finally:
        over.set()
        process.kill()
    watcher.join(timeout=10)
    assert process.returncode == 0, output
    for part in ("1. Data", "2. Train", "3. Publish", "4. Serve 2 shards", "5. Ask", "Liked lately", "6. Load it"):
        assert part in output
    assert 'genres any ("Comedy") and year >= 1990' in output
    assert "✓" in output, "somebody liked later what was found for them"
    assert "latency p99.9" in output
    assert "Everything that was started has been stopped" in output
    assert len(started) > 5
    assert gone(started)
