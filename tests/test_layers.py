"""Imports go in one direction: cluster -> router -> shard -> kernels, and inside a package down its list of rooms."""

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = ["kernels", "shard", "router", "cluster"]
ALONE = {"kernels": {"torch", "triton", "numpy", "numba", "llvmlite"}}
ORDER = {
    "kernels": (
        "checks rows quotients codes ops topk bits scores programs centroids probes plans refine scan_reference scan"
        " survivors union retrieve bound cpu gpu"
    ),
    "shard": (
        "printing hints threads paths api arguments schema filter snapshot publish index parquet value towers model"
        " query limits result_batch protocol engine live searcher local train"
    ),
    "router": "errors metrics callers settings batch stages writes router http",
    "cluster": "strict_yaml signals config log tables serving loadtest training commands demo cli",
    "benchmarks": "common build diversity filter glove gpu http live overload roo ranking scan tables value",
}
"""The rooms of each package, and the modules beside them, from the bottom up: each imports what stands before it."""
FORBIDDEN = {"shard": {"ray", "fastapi", "httpx", "starlette"}, "router": {"ray"}}


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found.add(node.module or "")
    return found


def test_imports_go_in_one_direction() -> None:
    seen = 0
    for height, layer in enumerate(LAYERS):
        for file in (ROOT / layer).rglob("*.py"):
            for name in imports(file):
                top, _, rest = name.partition(".")
                if top == "silverray":
                    above = {"configs": layer == "cluster", "benchmarks": file.name == "bench.py"}
                    allowed = [*LAYERS[: height + 1], *(name for name, may in above.items() if may)]
                    assert rest.split(".")[0] in allowed, f"{file} imports {name}"
                    seen += 1
                else:
                    assert top not in LAYERS, f"{file} imports a bare {name}"
                    assert top not in FORBIDDEN.get(layer, set()), f"{file} imports {name}"
                    known = top in sys.stdlib_module_names or top in ALONE.get(layer, {top})
                    assert known, f"{file} imports {name}"
    assert seen > 50


def test_what_serves_knows_nothing_of_training() -> None:
    for file in (ROOT / "shard").rglob("*.py"):
        if file.parent.name != "train":
            assert not [name for name in imports(file) if name.startswith("silverray.shard.train")], file


def imports_of_modules() -> dict[str, set[str]]:
    """Which modules each module imports, wherever in it, by their names behind `silverray.`.

    Kernels that `ops.lazily` finds by their names are not among them: a contract runs without any.
    """
    files = {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file
        for package in ORDER
        for file in (ROOT / package).rglob("*.py")
    }
    found = {}
    for module, file in files.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                names |= {node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
        found[module] = {name.removeprefix("silverray.") for name in names} & files.keys() - {module}
    return found


def circles(imported: dict[str, set[str]]) -> list[str]:
    """Circles of imports, as `a -> b -> a`: as many as must be cut at their first import so that none is left."""
    left = {module: set(names) for module, names in imported.items()}
    found: list[str] = []
    while True:
        try:
            TopologicalSorter(left).prepare()
        except CycleError as error:
            circle = error.args[1][::-1]
            found.append(" -> ".join(circle))
            left[circle[0]].remove(circle[1])
        else:
            return found


def test_rooms_import_only_what_is_below_and_modules_make_no_circle() -> None:
    places = {
        f"{package}.{room}": place for package, rooms in ORDER.items() for place, room in enumerate(rooms.split())
    }
    imported = imports_of_modules()
    assert len(imported) > 200
    rooms = {module: ".".join(module.split(".")[:2]) for module in imported if "." in module}
    unlisted = sorted(set(rooms.values()) ^ places.keys())
    assert not unlisted, f"ORDER: expected the rooms that there are, these are not in both: {unlisted}"
    upward = [
        f"{module} -> {other}"
        for module, others in sorted(imported.items())
        for other in sorted(others & rooms.keys())
        if module in rooms
        and module.split(".")[0] == other.split(".")[0]
        and places[rooms[module]] < places[rooms[other]]
    ]
    found = circles(imported)
    print("\nimports of a room above:", *upward or ["none"], sep="\n    ")
    print("circles of modules:", *found or ["none"], sep="\n    ")
    assert not upward and not found


def test_a_circle_is_found_wherever_it_begins() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    both = circles({"a": {"b"}, "b": {"a", "c"}, "c": {"d"}, "d": {"c"}})
    assert {frozenset(circle.split(" -> ")) for circle in both} == {frozenset("ab"), frozenset("cd")}


def test_the_page_of_the_structure_has_the_rooms_in_this_order() -> None:
    page = re.findall(r"`(\w+)/(\w+)/`", (ROOT / "docs" / "structure.md").read_text().partition("## The rooms")[2])
    for package, rooms in ORDER.items():
        folders = [room for room in rooms.split() if (ROOT / package / room).is_dir()]
        assert [room for owner, room in page if owner == package] == folders, package
