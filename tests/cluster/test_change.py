"""A change of a running service, on a Serve instance that is none: what fails or is interrupted is taken back."""

import shutil
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import ActorDiedError
from ray.serve.schema import ServeApplicationSchema

from silverray.cluster.config import ServeConfig
from silverray.cluster.log.claim import claim_store, read_claim
from silverray.cluster.serving import change as change_module
from silverray.cluster.serving import readiness, service
from silverray.cluster.serving.applications import describe_applications
from silverray.cluster.serving.change import Change
from silverray.cluster.serving.instance import ApplicationState, ServeInstance
from silverray.cluster.serving.layout import Layout
from silverray.cluster.serving.readiness import STALL_S, UNHEALTHY_S, Readiness, ServiceError, wait_until_ready
from silverray.cluster.serving.service import start
from silverray.cluster.signals import stopped_by_signals
from silverray.shard.api import SnapshotError
from silverray.shard.snapshot.catalog import Catalog

RUNNING = ApplicationState("RUNNING")
FAILED = ApplicationState("DEPLOY_FAILED", ("the shard does not load",))


class FakeInstance:
    """A Serve instance whose applications run as soon as they are declared, unless `outcome` says otherwise."""

    url = "http://127.0.0.1:9"
    address = "somewhere:6379"
    started = False

    def __init__(self) -> None:
        self.running: list[ServeApplicationSchema] = []
        self.declarations: list[list[ServeApplicationSchema]] = []
        self.outcome: Callable[[int], ApplicationState] = lambda _: RUNNING
        self.closed = 0

    def declared(self, ours: Callable[[str], bool]) -> list[ServeApplicationSchema]:
        return [one for one in self.running if ours(one.name)]

    def declare(self, wanted: Sequence[ServeApplicationSchema], replaces: Callable[[str], bool]) -> None:
        self.declarations.append(list(wanted))
        self.running = [one for one in self.running if not replaces(one.name)] + list(wanted)

    def states(self) -> dict[str, ApplicationState]:
        return {one.name: self.outcome(len(self.declarations)) for one in self.running}

    def close(self, *, shut_down: bool) -> None:
        self.closed += 1


class FakeWriters:
    """Writers of logs, by service."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.states: dict[str, dict[str, Any]] = {}
        for module in (change_module, service):
            monkeypatch.setattr(module, "stop_writer", lambda name: self.states.pop(name, None))
        monkeypatch.setattr(change_module, "describe_writer", self.states.get)
        monkeypatch.setattr(readiness, "read_positions", lambda _: {})


@pytest.fixture
def writers(monkeypatch: pytest.MonkeyPatch) -> FakeWriters:
    return FakeWriters(monkeypatch)


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> FakeInstance:
    fake = FakeInstance()
    monkeypatch.setattr(ServeInstance, "connect", lambda *_, **__: fake)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(Readiness, "_ask", lambda _: None)
    return fake


def described(config: ServeConfig, shards: int) -> list[ServeApplicationSchema]:
    catalog = Catalog.open(config.snapshots / "v1")
    wanted = config.model_copy(update={"shards": shards})
    return describe_applications(wanted, catalog, Layout.spread("v1", catalog.partitions, shards))


@pytest.fixture
def config(store: Path) -> ServeConfig:
    return ServeConfig(name="films", snapshots=store, shards=2)


@pytest.fixture
def before(instance: FakeInstance, config: ServeConfig, writers: FakeWriters) -> list[ServeApplicationSchema]:
    """What serves: films on one shard, and somebody else's application."""
    films = described(config, 1)
    instance.running = [*films, *described(config.model_copy(update={"name": "songs"}), 1)[:1]]
    return films


def test_a_damaged_version_is_found_before_anything_is_touched(
    instance: FakeInstance, before: list[ServeApplicationSchema], config: ServeConfig, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(config.snapshots, store)
    victim = next(file for file in sorted(store.rglob("payload.arrow")))
    content = bytearray(victim.read_bytes())
    content[-1] ^= 1
    victim.write_bytes(content)
    told: list[str] = []
    with pytest.raises(SnapshotError, match=r"payload\.arrow: altered or damaged") as caught:
        start(config.model_copy(update={"snapshots": store}), "somewhere", progress=told.append)
    assert caught.value.__notes__ == ["what served before (v1/1) was not touched"]
    assert instance.declarations == [] and instance.closed == 1
    assert told[-1].startswith("verifying v1: ")


def test_a_change_that_fails_puts_back_what_served(
    instance: FakeInstance, before: list[ServeApplicationSchema], config: ServeConfig
) -> None:
    instance.outcome = lambda declarations: FAILED if declarations == 1 else RUNNING
    with pytest.raises(ServiceError, match=r"films-\S+: the shard does not load") as caught:
        start(config, "somewhere")
    assert caught.value.__notes__ == ["what served before (v1/1) was put back and answers"]
    assert [len(wanted) for wanted in instance.declarations] == [3, 2]
    assert instance.declared(lambda name: name.startswith("films")) == before
    assert instance.declared(lambda name: name.startswith("songs"))


def test_it_is_said_when_what_served_does_not_come_back(
    instance: FakeInstance, before: list[ServeApplicationSchema], config: ServeConfig
) -> None:
    instance.outcome = lambda _: FAILED
    with pytest.raises(ServiceError) as caught:
        start(config, "somewhere")
    (note,) = caught.value.__notes__
    assert note.startswith("what served before (v1/1) was put back, but does not answer: films-")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_puts_back_what_served(
    instance: FakeInstance, before: list[ServeApplicationSchema], config: ServeConfig, number: signal.Signals
) -> None:
    def interrupted(declarations: int) -> ApplicationState:
        if declarations == 1:
            signal.raise_signal(number)
        return RUNNING

    instance.outcome = interrupted
    with stopped_by_signals(), pytest.raises(KeyboardInterrupt) as caught:
        start(config, "somewhere")
    assert caught.value.__notes__ == ["what served before (v1/1) was put back and answers"]
    assert instance.declared(lambda name: name.startswith("films")) == before


def test_a_second_signal_does_not_keep_it_from_being_put_back(
    instance: FakeInstance, before: list[ServeApplicationSchema], config: ServeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare = FakeInstance.declare

    def impatient(self: FakeInstance, *given: Any) -> None:
        if self.declarations:
            signal.raise_signal(signal.SIGINT)
        declare(self, *given)

    monkeypatch.setattr(FakeInstance, "declare", impatient)
    instance.outcome = lambda declarations: FAILED if declarations == 1 else RUNNING
    with stopped_by_signals(), pytest.raises(ServiceError) as caught:
        start(config, "somewhere")
    assert caught.value.__notes__ == ["what served before (v1/1) was put back; it was not waited for"]
    assert instance.declared(lambda name: name.startswith("films")) == before


def test_a_cluster_that_is_lost_is_one_line(
    instance: FakeInstance, before: list[ServeApplicationSchema], config: ServeConfig
) -> None:
    def lost(_: int) -> ApplicationState:
        raise ActorDiedError

    instance.outcome = lost
    with pytest.raises(ServiceError, match=r"^Ray failed meanwhile: ActorDiedError: ") as caught:
        start(config, "somewhere")
    assert caught.value.__notes__ == ["what served before (v1/1) could not be put back: ActorDiedError"]


def test_only_who_started_a_service_ends_it(instance: FakeInstance, config: ServeConfig, writers: FakeWriters) -> None:
    with start(config, "somewhere") as first:
        assert first.started
        with start(config.model_copy(update={"shards": 1}), "somewhere") as second:
            assert not second.started
        assert [one.name for one in instance.running] == ["films-shard-0", "films-router"]
    assert instance.running == []


def test_a_service_that_does_not_start_is_removed(
    instance: FakeInstance, config: ServeConfig, writers: FakeWriters
) -> None:
    instance.outcome = lambda _: FAILED
    with pytest.raises(ServiceError):
        start(config, "somewhere")
    assert instance.running == []


@pytest.mark.parametrize(("last", "claimed"), [(0, False), (3, True)])
def test_a_writer_that_a_change_began_is_ended_with_its_claim_unless_it_holds_writes(
    instance: FakeInstance, writers: FakeWriters, tmp_path: Path, store: Path, last: int, claimed: bool
) -> None:
    folder = Path(shutil.copytree(store / "v1", tmp_path / "store/v1"))
    change = Change(instance, "films", Catalog.open(folder))  # type: ignore[arg-type]
    log = {"identity": "abc", "path": "/var/updates.db", "node": "10.0.0.1", "last": last}
    writers.states["films"] = log
    claim_store(tmp_path / "store", log)
    change.undo()
    assert writers.states == {}
    assert (read_claim(tmp_path / "store") is not None) == claimed


def test_the_writer_of_what_serves_is_left(
    instance: FakeInstance, before: list[ServeApplicationSchema], config: ServeConfig, writers: FakeWriters
) -> None:
    writers.states["films"] = {"last": 7}
    instance.outcome = lambda declarations: FAILED if declarations == 1 else RUNNING
    with pytest.raises(ServiceError):
        start(config, "somewhere")  # the new version has no log
    assert writers.states == {"films": {"last": 7}}
    start(config, "somewhere")
    assert writers.states == {}


class Clock:
    """Time that passes only while one sleeps."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def waited(instance: FakeInstance, clock: Clock, told: list[str], timeout_s: float | None = None) -> None:
    there = Readiness(instance, "films", "v1/1", clock)  # type: ignore[arg-type]
    wait_until_ready(there, told.append, timeout_s=timeout_s, now=clock, sleep=clock.sleep)


def test_a_missed_health_check_is_no_failure_but_one_that_lasts_is(
    instance: FakeInstance, before: list[ServeApplicationSchema]
) -> None:
    clock, told = Clock(), list[str]()
    sick = ApplicationState("UNHEALTHY", ("a health check failed",))
    instance.outcome = lambda _: sick if clock.now < UNHEALTHY_S - 10 else RUNNING
    waited(instance, clock, told)
    assert set(told) == {"starting films-router; starting films-shard-0"}
    instance.outcome = lambda _: sick
    with pytest.raises(ServiceError, match="a health check failed"):
        waited(instance, clock, told)


def test_waiting_ends_when_nothing_moves_and_not_while_something_does(
    instance: FakeInstance, before: list[ServeApplicationSchema], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, told = Clock(), list[str]()
    last = 1_000_000
    end = 3 * STALL_S
    instance.outcome = lambda _: RUNNING if clock.now > end else ApplicationState("DEPLOYING")
    monkeypatch.setattr(readiness, "read_positions", lambda _: {"films-shard-0": (int(clock.now), last)})
    waited(instance, clock, told)
    assert told[-1] == "starting films-router; films-shard-0: log 1,800 of 1,000,000"
    monkeypatch.setattr(readiness, "read_positions", lambda _: {})
    clock.now = 0
    with pytest.raises(ServiceError, match=r"nothing has moved for 600 s: starting films-router; .*--timeout"):
        waited(instance, clock, told)
    assert clock.now == pytest.approx(STALL_S, abs=2)
    clock.now = 0
    waited(instance, clock, told, timeout_s=4 * STALL_S)
    clock.now = 0
    with pytest.raises(ServiceError, match=r"not ready after 5 s: "):
        waited(instance, clock, told, timeout_s=5)


@pytest.mark.parametrize("refusal", ["ShardTooLarge: shard needs 3 GiB", "SnapshotError: x: altered or damaged"])
def test_what_cannot_be_is_not_tried_again_and_other_failures_are_told(
    instance: FakeInstance, before: list[ServeApplicationSchema], refusal: str
) -> None:
    told = list[str]()
    clock = Clock()
    broken = ApplicationState("DEPLOYING", ("", "Traceback\n  MemoryError: no room"), failed=True)
    instance.outcome = lambda _: broken if clock.now < 3 else RUNNING
    waited(instance, clock, told)
    assert "starting films-shard-0: tried again after MemoryError: no room" in told[0]
    instance.outcome = lambda _: ApplicationState("DEPLOYING", ("", f"Traceback\n  {refusal}"))
    with pytest.raises(ServiceError, match=refusal):
        waited(instance, clock, told)
