"""The log's file: numbers, order, fencing, trimming, and disks that fail."""

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import PATIENCE_S

from silverray.cluster.log.store import LogStore
from silverray.router.errors import LogFenced, LogFull, LogGap, LogUnavailable, OtherLog
from silverray.router.writes.log import LogRecord

STEPS, PLACES = ["open", "trim", "read"], st.integers(0, 40)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "logs" / "updates.db"


def test_writes_are_numbered_without_a_gap(path: Path) -> None:
    store = LogStore(path)
    assert store.read(0, 10) == ([], 0)
    assert store.append([(b"a", 3), (b"b", 1)]) == [3, 4]
    assert store.append([(b"c", 2)]) == [6]
    records = [LogRecord(3, 3, b"a"), LogRecord(4, 1, b"b"), LogRecord(6, 2, b"c")]
    assert store.read(0, 100) == (records, 6)
    assert store.read(2, 100).records == records  # the first begins before what was asked for
    assert store.read(3, 100).records == records[1:]
    assert store.read(0, 3).records == records[:1]
    assert store.read(0, 4).records == records[:2]
    assert store.read(6, 100) == ([], 6)
    for beyond in (-1, 7):
        with pytest.raises(LogGap, match=f"expected a number from 0 to 6, got {beyond}"):
            store.read(beyond, 1)


def test_a_page_of_long_bodies_is_short(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("silverray.cluster.log.store._PAGE_BYTES", 1_000)
    log = LogStore(path)
    log.append([(bytes(size), 1) for size in (400, 600, 1, 5_000, 2)])
    pages, after = [], 0
    while (page := log.read(after, 100)).records:
        assert page.last == 5
        pages.append([len(record.body) for record in page.records])
        after = page.records[-1].seq
    assert pages == [[400, 600], [1, 5_000], [2]]


def test_it_goes_on_where_it_was_closed(path: Path) -> None:
    first = LogStore(path)
    first.append([(b"a", 3)])
    first.close()
    second = LogStore(path, start=2)
    assert (first.epoch, second.epoch) == (1, 2)
    assert second.append([(b"b", 1)]) == [4]
    assert second.state()._replace(identity="") == (1, "", 2, 0, 4)
    assert LogStore(path.with_name("other.db")).state().identity != second.state().identity


def test_an_older_writer_is_fenced(path: Path) -> None:
    older = LogStore(path)
    older.append([(b"a", 1)])
    newer = LogStore(path)
    for write in (lambda: older.append([(b"lost", 1)]), lambda: older.trim(2)):
        with pytest.raises(LogFenced, match="epoch 1 has ended, another writer began epoch 2"):
            write()
    assert newer.append([(b"b", 1)]) == [2]
    assert older.read(0, 9) == newer.read(0, 9) == ([LogRecord(1, 1, b"a"), LogRecord(2, 1, b"b")], 2)


def test_a_new_log_goes_on_from_the_snapshot_and_an_old_one_must_reach_it(path: Path) -> None:
    store = LogStore(path, start=40)
    assert store.append([(b"a", 2)]) == [42]
    assert store.read(40, 9).records == [LogRecord(42, 2, b"a")]
    with pytest.raises(LogGap, match="expected a number from 40 to 42, got 39"):
        store.read(39, 9)
    store.close()
    with pytest.raises(LogGap, match="ends at 42, but the snapshot includes writes up to 43"):
        LogStore(path, start=43)


def test_no_other_log_is_made_or_opened_than_the_one_that_must_be_there(path: Path, tmp_path: Path) -> None:
    store, other = LogStore(path), LogStore(tmp_path / "other.db")
    identity = store.state().identity
    store.append([(b"a", 2)])
    store.close()
    with pytest.raises(OtherLog, match=r"other\.db: is another log"):
        LogStore(other.path, identity=identity)
    assert other.append([(b"b", 1)]) == [1]  # it was not fenced
    path.rename(tmp_path / "away.db")
    for _ in range(2):
        with pytest.raises(LogUnavailable, match=r"updates\.db: not found"):
            LogStore(path, identity=identity)
    assert not path.exists()
    (tmp_path / "away.db").rename(path)
    assert LogStore(path, identity=identity).append([(b"c", 1)]) == [3]


def test_trimming_keeps_records_that_are_wanted_in_part(path: Path) -> None:
    store = LogStore(path)
    store.append([(b"a", 3), (b"b", 3), (b"c", 1)])
    store.trim(5)
    assert store.read(3, 9).records == [LogRecord(6, 3, b"b"), LogRecord(7, 1, b"c")]
    with pytest.raises(LogGap, match="from 3 to 7, got 2"):
        store.read(2, 9)
    store.trim(4)
    store.trim(8)
    assert store.read(7, 9) == ([], 7)
    store.close()
    assert LogStore(path).append([(b"d", 1)]) == [8]


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "updates.db"
    file.write_bytes(b"no database" * 100)
    with pytest.raises(LogUnavailable, match=r"updates\.db: file is not a database"):
        LogStore(file)
    with pytest.raises(LogUnavailable, match=r"updates\.db/log: "):
        LogStore(file / "log")
    newer = tmp_path / "newer.db"
    LogStore(newer).close()
    with sqlite3.connect(newer) as connection:
        connection.execute("UPDATE state SET format = 2")
    connection.close()
    with pytest.raises(LogUnavailable, match="has format 2; this version reads 1"):
        LogStore(newer)


def test_a_read_only_file_is_read_and_not_written(path: Path) -> None:
    store = LogStore(path)
    store.append([(b"a", 1)])
    store._writer.execute("PRAGMA query_only = 1")
    with pytest.raises(LogUnavailable, match="attempt to write a readonly database"):
        store.append([(b"b", 1)])
    assert store.read(0, 9) == ([LogRecord(1, 1, b"a")], 1)
    store._writer.execute("PRAGMA query_only = 0")
    assert store.append([(b"c", 1)]) == [2]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(1, 4).map(lambda size: ("append", size)) | st.tuples(st.sampled_from(STEPS), PLACES)))
def test_it_behaves_like_a_list(steps: list[tuple[str, int]]) -> None:
    """Appends, trims, new openings and reads in any order agree with a list of writes."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "updates.db"
        store, model, trimmed, last = LogStore(path), list[LogRecord](), 0, 0
        for step, number in steps:
            if step == "append":
                last += number
                assert store.append([(b"%d" % last, number)]) == [last]
                model.append(LogRecord(last, number, b"%d" % last))
            elif step == "open":
                older, store = store, LogStore(path)
                with pytest.raises(LogFenced):
                    older.append([(b"lost", 1)])
                older.close()
            elif step == "trim":
                store.trim(number)
                trimmed = max([trimmed, *(record.seq for record in model if record.seq < number)])
                model = [record for record in model if record.seq >= number]
            elif trimmed <= number <= last:
                assert store.read(number, 1_000) == ([record for record in model if record.seq > number], last)
            else:
                with pytest.raises(LogGap):
                    store.read(number, 1_000)
        store.close()


_FULL = """
import resource, signal, sys
from pathlib import Path
from silverray.cluster.log.store import LogStore
from silverray.router.errors import LogUnavailable

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = LogStore(Path(sys.argv[1]))
acknowledged, refused = [], []
for limit in (300_000, 600_000):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    for number in range(60):
        try:
            acknowledged += store.append([(bytes([len(acknowledged)]) * 10_000, 2)])
        except LogUnavailable as error:
            refused.append(str(error))
    assert [record.seq for record in store.read(0, 10_000).records] == acknowledged
    print(len(acknowledged), len(refused))
print(refused[-1])
"""


def test_a_full_disk_refuses_writes_until_there_is_room(path: Path) -> None:
    """The process may not write beyond a size of file, which fails in the same call as a full disk does."""
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(path)], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    first, both, message = done.stdout.splitlines()
    acknowledged, refused = map(int, both.split())
    assert 0 < int(first.split()[0]) < acknowledged == 120 - refused
    assert message == f"{path}: disk I/O error"
    store = LogStore(path)
    records = store.read(0, 10_000).records
    assert [record.seq for record in records] == list(range(2, 2 * acknowledged + 1, 2))
    assert all(record.body == bytes([number]) * 10_000 for number, record in enumerate(records))


def test_a_log_holds_so_many_bytes(tmp_path: Path) -> None:
    store = LogStore(tmp_path / "updates.db", max_bytes=200_000)
    for seq in range(1, 4):
        assert store.append([(b"x" * 50_000, 1)]) == [seq]
    with pytest.raises(
        LogFull, match=r"holds [\d,]+ of at most 200,000 bytes \(log\.max_bytes\), 50,000 more do not fit"
    ):
        store.append([(b"x" * 50_000, 1)])
    assert store.append([(b"x", 1)]) == [4], "what fits is taken"
    store.trim(4)
    assert store.append([(b"x" * 50_000, 1)]) == [5], "room that was freed is used again"
    store.close()


def test_a_disk_that_is_full_or_read_only_loses_nothing_acknowledged(small_disk: Callable[[int], Path]) -> None:
    def remount(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", str(disk)], check=True)

    disk = small_disk(400)
    path = disk / "updates.db"
    store = LogStore(path)
    acknowledged = 0
    with pytest.raises(LogUnavailable, match=r"database or disk is full|disk I/O error") as full:
        for number in range(100):
            (acknowledged,) = store.append([(bytes([number]) * 10_000, 1)])
    assert "\n" not in str(full.value) and 5 < acknowledged < 40
    assert store.read(0, 1_000).last == len(store.read(0, 1_000).records) == acknowledged
    remount("size=4m")
    assert store.append([(b"room", 1)]) == [acknowledged + 1]
    store.close()
    remount("size=4m,ro")
    with pytest.raises(LogUnavailable, match=r"updates\.db: ") as fixed:
        LogStore(path)
    assert "\n" not in str(fixed.value)
    remount("size=4m,rw")
    again = LogStore(path)
    bodies = [record.body for record in again.read(0, 1_000).records]
    again.close()
    assert bodies == [*(bytes([number]) * 10_000 for number in range(acknowledged)), b"room"]
