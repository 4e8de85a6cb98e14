"""`import silverray`: the names that programs use, what loading them needs, and what says so."""

import ast
import inspect
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from processes import PATIENCE_S

import silverray

ROOT = Path(__file__).parent.parent
PUBLIC = {name: getattr(silverray, name) for name in silverray.__all__}


def run(program: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=PATIENCE_S)


def test_importing_the_package_loads_nothing_but_the_standard_library() -> None:
    program = (
        "import sys\n"
        "before = set(sys.modules)\n"  # what the environment's path files import is not ours
        "import silverray\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "assert new - set(sys.stdlib_module_names) == {'silverray'}, new\n"
        "assert not [name for name in sys.modules if name.startswith('silverray.')]\n"
        "assert silverray.__version__ and 'LocalSearcher' in dir(silverray)\n"  # which asks for no name
        "assert not [name for name in sys.modules if name.startswith('silverray.')]\n"
        "silverray.SearchRequest\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_names_of_an_embedded_search_need_neither_ray_nor_torchrec_nor_http() -> None:
    embedded = [name for name, what in PUBLIC.items() if what.__module__.startswith("silverray.shard.")]
    assert {"LocalSearcher", "ExactSearch", "publish", "Schema", "ValueSettings", "FilterError"} <= set(embedded)
    program = (
        "import sys, silverray\n"
        "missing = ('ray', 'torchrec', 'fbgemm_gpu', 'fastapi', 'httpx', 'aiohttp')\n"
        "for name in missing: sys.modules[name] = None\n"
        f"for name in {embedded!r}: getattr(silverray, name)\n"
        "del sys.modules['httpx']\n"
        "for name in silverray.__all__: getattr(silverray, name)\n"  # those of HTTP need a client, but no server
        "assert not [name for name in missing if name != 'httpx' and sys.modules.get(name)]\n"
    )
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_a_client_loads_neither_torch_nor_a_server() -> None:
    program = (
        "import sys\n"
        "for name in ('torch', 'fastapi', 'pydantic', 'ray'): sys.modules[name] = None\n"
        "from silverray import HttpSearcher, InvalidRequest, SearchClient\n"
        "import asyncio\n"
        "from silverray import SearchRequest\n"
        "try: asyncio.run(HttpSearcher('http://127.0.0.1:1').search([SearchRequest(vectors=[[1.0, 2.0]])]))\n"
        "except Exception as error: assert type(error).__name__ == 'Unavailable', error\n"
        "else: raise AssertionError\n"
    )
    done = run(program)
    assert done.returncode == 0, done.stderr


def test_the_client_waits_for_a_write_as_long_as_the_server() -> None:
    from silverray.router.http.item_parsing import DEADLINE_S

    assert inspect.signature(silverray.HttpSearcher.write).parameters["timeout_s"].default == DEADLINE_S


@pytest.mark.parametrize("client", [silverray.HttpSearcher, silverray.SearchClient])
def test_a_transport_that_is_none_is_refused(client: Any) -> None:
    with pytest.raises(silverray.InvalidRequest, match=r"transport: expected an httpx\.\w+ or None, got 5"):
        client("http://127.0.0.1:8000", transport=5)


def test_a_blocking_client_closes_its_connections() -> None:
    client = silverray.SearchClient("http://127.0.0.1:1")
    with client:
        pass
    with pytest.raises(RuntimeError, match="closed"):
        client.get("/v1/status")


def test_a_star_import_brings_the_names_and_no_others() -> None:
    names: dict[str, Any] = {}
    exec("from silverray import *", names)
    del names["__builtins__"]
    assert names == PUBLIC
    assert set(PUBLIC) | {"__version__", "__doc__"} <= set(dir(silverray))
    assert not [name for name in dir(silverray) if name not in PUBLIC and not name.startswith("__")]


def test_type_checkers_are_told_of_the_same_names_in_the_same_places() -> None:
    tree = ast.parse(inspect.getsource(silverray))
    told = {
        name.name: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("silverray.")
        for name in node.names
    }
    assert told == {name: what.__module__ for name, what in PUBLIC.items()}


@pytest.mark.parametrize("name", silverray.__all__)
def test_every_name_is_documented_and_can_be_pickled(name: str) -> None:
    assert f"`{name}`" in str(silverray.__doc__)
    own = PUBLIC[name].__doc__ or ""  # dataclasses and named tuples make one of their own, without a sentence
    assert own.split("\n\n")[0].endswith("."), own
    assert pickle.loads(pickle.dumps(PUBLIC[name])) is PUBLIC[name]


def test_errors_and_requests_survive_pickling() -> None:
    error = silverray.FilterError("unknown name yaer", 3, ["year"], "did you mean year?", "queries[0].filter")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.expected) == (silverray.FilterError, str(error), ("year",))
    full = pickle.loads(pickle.dumps(silverray.LogFull("the log is full", "upsert")))
    assert (type(full), full.code, full.where) == (silverray.LogFull, "log_full", "upsert")
    request = silverray.SearchRequest(vectors=np.ones((1, 4), np.float32), filter="year > 1990", k=3)
    copied = pickle.loads(pickle.dumps(request))
    assert (copied.filter, copied.k, copied.vectors.tolist()) == ("year > 1990", 3, [[1.0] * 4])


def test_what_opens_a_file_takes_its_path_as_text_too(tmp_path: Path) -> None:
    file = tmp_path / "films.yaml"
    file.write_text("{id: film, vector: {dimension: 4, metric: ip}, fields: {}}")
    schema = silverray.Schema.load(str(file))
    made = silverray.publish(
        {"film": [7, 8]}, schema, str(tmp_path), vectors=np.eye(2, 4, dtype=np.float32), partitions=1, version="v1"
    )
    path = str(tmp_path / "v1")
    assert silverray.Catalog.open(path) == made
    assert [kind.open(path).catalog.items for kind in (silverray.LocalSearcher, silverray.ExactSearch)] == [2, 2]


def test_clients_can_name_every_error_that_is_no_mistake_of_theirs() -> None:
    readme = (ROOT / "README.md").read_text()
    codes = {
        code
        for cell in re.findall(r"^\| 50\d \| (.*?) \|", readme, re.MULTILINE)
        for code in re.findall(r"`(\w+)`", cell)
    }
    assert codes >= {"overloaded", "log_unavailable", "deadline_exceeded"}
    kinds = [what for what in PUBLIC.values() if isinstance(what, type) and issubclass(what, silverray.SearchError)]
    assert codes <= {kind.code for kind in kinds}


def test_an_unknown_name_is_an_error_that_names_the_one_meant() -> None:
    with pytest.raises(AttributeError, match=r"^module 'silverray' has no attribute 'LocalSercher'$"):
        silverray.LocalSercher  # type: ignore[attr-defined] # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'LocalSercher' from 'silverray'"):
        exec("from silverray import LocalSercher")
    done = run("import silverray\nsilverray.LocalSercher")
    assert "Did you mean: 'LocalSearcher'?" in done.stderr
