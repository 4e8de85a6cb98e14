import json
from pathlib import Path

import pytest

from silverray.cluster.log.claim import Claim, claim_store, read_claim
from silverray.cluster.strict_yaml import ConfigError
from silverray.shard.api import SnapshotError
from silverray.shard.snapshot.files import MANIFEST, least_seq, newest_version
from silverray.shard.snapshot.manifest import CLAIM

LOG = {"identity": "abc", "path": "/var/updates.db", "node": "10.0.0.1", "last": 3}


def test_a_store_keeps_to_the_log_that_claimed_it(store: Path, tmp_path: Path) -> None:
    claim_store(tmp_path, LOG)
    assert json.loads((tmp_path / CLAIM).read_text()) == {name: LOG[name] for name in ("identity", "path", "node")}
    claim_store(tmp_path, LOG | {"path": "/elsewhere/moved.db"})
    other = LOG | {"identity": "xyz", "node": "10.0.0.2"}
    with pytest.raises(ConfigError) as caught:
        claim_store(tmp_path, other)
    assert str(caught.value) == (
        f"log.path: the updates of {tmp_path} are in the log /var/updates.db on 10.0.0.1, not in /var/updates.db on"
        f" 10.0.0.2; remove {tmp_path / CLAIM} to go on without them"
    )
    (tmp_path / CLAIM).unlink()
    claim_store(tmp_path, other)


def test_a_log_that_cannot_be_had_claims_nothing_and_may_be_the_stores(tmp_path: Path) -> None:
    down = {"path": LOG["path"], "node": LOG["node"], "error": "not found", "other": False}
    claim_store(tmp_path, down)
    assert read_claim(tmp_path) is None
    claim_store(tmp_path, LOG)
    assert read_claim(tmp_path) == Claim("abc", "/var/updates.db", "10.0.0.1")
    claim_store(tmp_path, down)
    for wrong in ({"path": "/var/update.db"}, {"node": "10.0.0.2"}, {"other": True}):
        with pytest.raises(ConfigError, match=r"are in the log /var/updates\.db on 10\.0\.0\.1, not in"):
            claim_store(tmp_path, down | wrong)
    assert read_claim(tmp_path) == Claim("abc", "/var/updates.db", "10.0.0.1")


def test_a_store_that_cannot_be_claimed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing/log\.json: .*No such file"):
        claim_store(tmp_path / "missing", LOG)
    (tmp_path / CLAIM).write_text("{")
    with pytest.raises(ConfigError, match=r"log\.json: "):
        claim_store(tmp_path, LOG)
    for broken in ("{}", "[]", '"abc"'):
        (tmp_path / CLAIM).write_text(broken)
        with pytest.raises(ConfigError, match=r"log\.json: "):
            claim_store(tmp_path, LOG)


def test_the_log_is_kept_for_the_oldest_version(store: Path, tmp_path: Path) -> None:
    assert (least_seq(store), newest_version(store)) == (0, "v1")
    with pytest.raises(SnapshotError, match="holds no published snapshot"):
        least_seq(tmp_path)
    (tmp_path / "v1").mkdir()
    (tmp_path / "v1" / MANIFEST).write_text("{}")
    with pytest.raises(SnapshotError, match="altered or damaged"):
        least_seq(tmp_path)


@pytest.mark.parametrize(
    "content", ["[" * 100_000, "[]", "3", '{"identity": 1, "path": "p", "node": "n"}', '{"identity": NaN}', "\xff"]
)
def test_a_claim_of_another_form_is_refused_by_its_file(content: str, tmp_path: Path) -> None:
    (tmp_path / CLAIM).write_text(content, encoding="latin-1")
    with pytest.raises(ConfigError, match=rf"^{tmp_path}/log\.json: "):
        read_claim(tmp_path)
