"""The packages import each other in one direction: cluster -> router -> shard -> kernels."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
LAYERS = ["kernels", "shard", "router", "cluster"]
ALONE = {"kernels": {"torch", "triton", "numpy", "numba", "llvmlite"}}
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
