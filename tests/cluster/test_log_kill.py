"""Writers that are killed at random moments lose nothing that they had acknowledged, and repeat nothing."""

import asyncio
import random
import subprocess
import sys
import time
from pathlib import Path

from silverray.cluster.log.follower import LogFollower
from silverray.cluster.log.store import LogStore
from silverray.cluster.log.writer import LogWriter
from silverray.router.writes.log import Reader
from silverray.shard.live.writes import Delete, Entry, decode

ROUNDS = 20

# Writes bodies of 1 to 50 ids of its own from 8 tasks, and says of each after its acknowledgement which it was.
_WRITER = """
import asyncio, sys
from itertools import count
from pathlib import Path
from silverray.cluster.log.writer import LogWriter
from silverray.shard.live.writes import Delete, encode

async def main(path, first):
    log, ids = LogWriter(path), count(first)

    async def write():
        while True:
            body = [Delete(next(ids)) for _ in range(1 + next(ids) % 50)]
            seq = await log.append(encode(body), len(body), 60)
            print(seq, *(write.id for write in body), flush=True)

    await asyncio.gather(*(write() for _ in range(8)))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def write_and_kill(path: Path, first: int, bodies: int, seconds: float) -> list[list[int]]:
    """Run a writer for so long after so many acknowledgements; returns the whole lines that it got to say."""
    command = [sys.executable, "-c", _WRITER, str(path), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = "".join(process.stdout.readline() for _ in range(bodies))
            time.sleep(seconds)
        finally:
            process.kill()
        said += process.stdout.read()
    return [[int(word) for word in line.split()] for line in said.splitlines(keepends=True) if line.endswith("\n")]


def test_killed_writers_lose_and_repeat_nothing(tmp_path: Path) -> None:
    path = tmp_path / "updates.db"
    rng = random.Random(1)
    acknowledged: dict[int, int] = {}
    for number in range(ROUNDS):
        for last, *ids in write_and_kill(path, (number + 1) * 10_000_000, rng.randrange(8, 64), rng.uniform(0.0, 0.1)):
            acknowledged |= dict(zip(ids, range(last - len(ids) + 1, last + 1), strict=True))
    store = LogStore(path)
    assert store.epoch == ROUNDS + 1
    logged: list[int] = []
    for record in store.read(0, sys.maxsize).records:
        writes = decode(record.body)
        assert record.seq - record.size == len(logged) and len(writes) == record.size
        logged += [write.id for write in writes if isinstance(write.id, int)]
    assert len(acknowledged) > 100 * ROUNDS
    assert all(logged[seq - 1] == id_ for id_, seq in acknowledged.items())
    assert len(set(logged)) == len(logged) == store.state().last


def test_a_replica_follows_through_a_kill(tmp_path: Path) -> None:
    """Half of a log is followed, then its writer dies and another one goes on: nothing is missing or twice."""
    path = tmp_path / "updates.db"
    write_and_kill(path, 1, 8, 0.05)
    applied: list[Entry] = []

    async def follow() -> None:
        log = LogWriter(path)
        follower = LogFollower(log, Reader("shard-0", "a"), applied.extend, len(applied))
        follower.start()
        assert await follower.settled()
        await follower.stop()
        await log.close()

    asyncio.run(follow())
    half = len(applied)
    write_and_kill(path, 10_000_000, 8, 0.05)
    asyncio.run(follow())
    assert 0 < half < len(applied)
    assert [entry.seq for entry in applied] == list(range(1, len(applied) + 1))
    assert len({entry.write for entry in applied if isinstance(entry.write, Delete)}) == len(applied)
