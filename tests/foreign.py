"""Snapshots of somebody else, and a process with little memory that opens them and says how each was refused.

What a snapshot says of its sizes must be compared with its files before there is room for them: here there is none.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from catalogs import make_items, schema_text

from silverray.shard.publish.builder import publish
from silverray.shard.schema.schema import Schema
from silverray.shard.snapshot.files import MANIFEST, write_manifest

ROOM_BYTES = 1 << 30
"""What the process may take beside what it has after opening a snapshot."""

Refused = Callable[..., str]
"""From a snapshot, a file of it, and how it is opened to the message that names the file."""


def publish_some(store: Path) -> Path:
    """40 items in 2 partitions and 4 clusters, with every kind of field and planes."""
    table, vectors = make_items(40, strings=True)
    schema = Schema.parse(schema_text())
    return publish(table, schema, store, vectors=vectors, version="v", partitions=2, clusters=4).path


def reseal(snapshot: Path) -> None:
    """Hash the files as they are now: what anybody can do who alters a snapshot."""
    manifest = json.loads((snapshot / MANIFEST).read_bytes())
    (snapshot / MANIFEST).unlink()
    rest = {name: entry for name, entry in manifest.items() if name not in ("format", "files", "checksum")}
    write_manifest(snapshot, rest)


@contextmanager
def opener(snapshot: Path) -> Iterator[Refused]:
    """Start the process, which opens a good snapshot before it is limited."""
    command = [sys.executable, __file__, str(snapshot)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def refused(snapshot: Path, file: str, how: str = "engine") -> str:
            stdin.write(json.dumps([how, str(snapshot)]) + "\n")
            stdin.flush()
            answer = stdout.readline()
            assert answer, "the process has ended"
            kind, message = json.loads(answer)
            assert kind == "SnapshotError", answer
            assert message.isprintable() and f"{snapshot}/{file}: " in message, message
            assert "alloc" not in message and "memory" not in message.lower(), message
            return str(message)

        yield refused
        stdin.close()


def main() -> None:
    """Open what standard input names, a line each."""
    from silverray.shard.engine.engine import Engine
    from silverray.shard.towers.encoder import TowerEncoder

    opens: dict[str, Callable[[Path], object]] = {
        "engine": Engine.open,
        "with updates": lambda path: Engine.open(path, slack=0.1),
        "encoder": TowerEncoder.load,
    }
    Engine.open(Path(sys.argv[1]))
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * resource.getpagesize() + ROOM_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for line in sys.stdin:
        how, path = json.loads(line)
        try:
            opens[how](Path(path))
            answer = ["opened", ""]
        except Exception as error:
            answer = [type(error).__name__, str(error)]
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
