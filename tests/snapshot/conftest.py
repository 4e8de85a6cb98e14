import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from foreign import Refused, opener, publish_some


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small snapshot, to be copied."""
    return publish_some(tmp_path_factory.mktemp("store"))


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """A snapshot to be altered."""
    return Path(shutil.copytree(published, tmp_path / "v"))


@pytest.fixture(scope="session")
def refused(published: Path) -> Iterator[Refused]:
    """Opens a snapshot where there is little memory."""
    with opener(published) as refused:
        yield refused
