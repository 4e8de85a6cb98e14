from pathlib import Path

import pytest

from silverray.cluster.config import ServeConfig
from silverray.cluster.serving.layout import Layout
from silverray.cluster.strict_yaml import ConfigError

CONFIGS = Path(__file__).parents[2] / "configs"


def write(folder: Path, text: str) -> Path:
    file = folder / "serve.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_paths_count_from_the_files_folder(tmp_path: Path) -> None:
    config = ServeConfig.load(write(tmp_path, "snapshots: ../store\nshards: 3\n"))
    assert config.snapshots == (tmp_path.parent / "store").resolve()
    assert (config.shards, config.replicas, config.routers, config.deadline_ms) == (3, 1, 1, 100.0)
    assert config.http.host == "127.0.0.1"
    assert config.log is None
    logged = ServeConfig.load(write(tmp_path, "{snapshots: s, log: {path: ../logs/updates.db}}"))
    assert logged.log is not None
    assert (logged.log.path, logged.log.node) == (tmp_path.parent.resolve() / "logs" / "updates.db", None)


def test_overrides_replace_values_unless_none(tmp_path: Path) -> None:
    config = ServeConfig.load(write(tmp_path, "{snapshots: s, shards: 3, replicas: 2}"), shards=4, replicas=None)
    assert (config.shards, config.replicas) == (4, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("snapshots: s\nshard: 2", "shard: unknown key"),
        ("snapshots: s\nlimits: {max_pendng: 2}", "limits.max_pendng: unknown key"),
        ("shards: 2", "snapshots: missing key"),
        ("{snapshots: s, shards: 0}", "shards: expected at least 1, got 0"),
        ("{snapshots: s, shards: '2'}", "shards: expected an integer, got '2'"),
        ("{snapshots: s, device: tpu}", "device: expected 'auto', 'cpu' or 'cuda', got 'tpu'"),
        ("{snapshots: s, item_cache: disk}", "item_cache: expected 'device' or 'host', got 'disk'"),
        ("{snapshots: s, deadline_ms: .nan}", "deadline_ms: expected a finite number, got nan"),
        ("{snapshots: s, http: {port: 70000}}", "http.port: expected at most 65535, got 70000"),
        ("{snapshots: s, log: {}}", "log.path: missing key"),
        ("{snapshots: s, log: {path: a, slack: 0}}", "log.slack: expected more than 0, got 0"),
        ("{snapshots: s, encoder: {group: {ranks: 2}}}", "encoder.group.host_bytes: missing key"),
        ("{snapshots: s, encoder: {group: {ranks: 0, host_bytes: 1}}}", "encoder.group.ranks: expected at least 1"),
        (
            "{snapshots: s, encoder: {int8: true, group: {ranks: 2, host_bytes: 9}}}",
            "encoder: int8 tables",
        ),
        ("{snapshots: s, name: 'a b'}", "name: expected a string that matches "),
        (
            "{snapshots: s, diversity: {window: 1}}",
            "diversity.window: expected at least 2, got 1",
        ),
        ("{snapshots: s, diversity: {strength: -1}}", "diversity.strength: expected at least 0"),
        (
            "{snapshots: s, diversity: {spacing: {artist: x}}}",
            "diversity.spacing.artist: expected a number",
        ),
        ("{snapshots: s, diversity: {spaces: {}}}", "diversity.spaces: unknown key"),
        ("{snapshots: s, rerank: {window: 0}}", "rerank.window: expected at least 1, got 0"),
        ("{snapshots: s, rerank: {window: 1001}}", "rerank.window: expected at most 1000"),
        ("{snapshots: s, rerank: {windows: 9}}", "rerank.windows: unknown key"),
        ("{snapshots: s, http: {origins: [films.example]}}", "http.origins.0: expected a string that matches"),
        ("{snapshots: s, http: {hosts: ['a:80']}}", "http.hosts.0: expected a string that matches"),
        ("{snapshots: s, limits: {max_tags: 0}}", "limits.max_tags: expected at least 1, got 0"),
        ("{snapshots: s, log: {path: a, max_bytes: 0}}", "log.max_bytes: expected at least 1"),
        ("snapshots: [s]", "snapshots: expected a path, got a list"),
        ("snapshots: ~no-such-account/s", "snapshots: expected a path, got '~no-such-account/s': there is no such"),
        ("{snapshots: s, http: 5}", "http: expected keys and values, got 5"),
        ("{snapshots: s, http: {hosts: a}}", "http.hosts: expected a list, got 'a'"),
        ("{snapshots: s, http: {host: 5}}", "http.host: expected a string, got 5"),
        ("{snapshots: s, quotas: [1]}", "quotas: expected keys and values, got a list"),
        ("{snapshots: s, encoder: {int8: 1}}", "encoder.int8: expected true or false, got 1"),
        ("{snapshots: s, quotas: {1: 2}}", "quotas.1: expected a string, got 1"),
        (
            "{snapshots: s, value: {default: 5}}",
            "value.default: expected a formula as text, or as keys and values, got 5",
        ),
        ("{snapshots: s, value: {variants: {a: [1]}}}", "value.variants.a: expected a formula as text"),
        ("{snapshots: s, log: {path: a, slack: 11}}", "log.slack: expected at most 10, got 11"),
        ('{snapshots: s, name: "a\\uD83C"}', "holds half a surrogate pair, which no text does"),
        ('{snapshots: "\\uD83C"}', "holds half a surrogate pair, which no text does"),
        ("- a", "expected keys and values, got list"),
        ("a: [", "not YAML"),
    ],
)
def test_errors_name_the_file_and_the_key(tmp_path: Path, text: str, message: str) -> None:
    file = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        ServeConfig.load(file)
    assert str(caught.value).startswith(f"{file}: ")
    assert message in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        ServeConfig.load(tmp_path / "none.yaml")


@pytest.mark.parametrize("name", ["local.yaml", "cluster.yaml"])
def test_shipped_configs_load_and_say_how_to_run_them(name: str) -> None:
    ServeConfig.load(CONFIGS / name)
    assert f"silverray serve configs/{name}" in (CONFIGS / name).read_text(encoding="utf-8").splitlines()[0]


@pytest.mark.parametrize("shards", [1, 2, 3, 5, 8])
def test_a_layout_spreads_every_partition_once(shards: int) -> None:
    layout = Layout.spread("v", 8, shards)
    assert [p for held in layout.assignments for p in held] == list(range(8))
    sizes = [len(held) for held in layout.assignments]
    assert max(sizes) - min(sizes) <= 1
    assert layout.shards == shards
    assert layout.tag == f"v/{shards}"


@pytest.mark.parametrize("shards", [0, 9])
def test_a_layout_needs_a_partition_for_each_shard(shards: int) -> None:
    with pytest.raises(ValueError, match="shards: expected 1 to 8"):
        Layout.spread("v", 8, shards)


def test_a_tilde_is_the_home_of_who_runs_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    config = ServeConfig.load(write(tmp_path, "{snapshots: ~/store, log: {path: ~/logs/updates.db}}"))
    assert config.log is not None
    assert (config.snapshots, config.log.path) == (tmp_path / "home/store", tmp_path / "home/logs/updates.db")
