"""The README's Python runs as it stands, its commands exist, and the docstrings' examples hold."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import silverray
from silverray.cluster.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
ROOMS = ("kernels", "shard", "router", "cluster", "configs", "benchmarks")
FOLDERS = "|".join((*ROOMS, "requirements", "docs", "tests"))
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))


def test_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = [
        (file, block) for file in DOCUMENTS for block in re.findall(r"```python\n(.*?)```", file.read_text(), re.DOTALL)
    ]
    assert {file.name for file, _ in blocks} >= {"README.md", "value.md"}
    for file, block in blocks:
        exec(compile(block, file.name, "exec"), {})


def test_commands_and_options_exist() -> None:
    lines = re.findall(r"^    silverray (\w+)(.*?)(?:#.*)?$", README, re.MULTILINE)
    assert {name for name, _ in lines} >= {"publish", "serve", "search", "loadtest", "status", "stop"}
    for name, rest in lines:
        help_text = CliRunner().invoke(app, [name, "--help"], env={"COLUMNS": "200", "TERM": "dumb"}).output
        for option in re.findall(r"(--?[a-z][\w-]*)", rest):
            assert option in help_text, f"{name} has no {option}"
    assert re.findall(r"^    make (\w+)", README, re.MULTILINE) == ["demo", "test"]


def test_the_files_that_documents_name_are_there() -> None:
    for document in DOCUMENTS:
        for name in re.findall(rf"(?<![\w/.-])(?:{FOLDERS})/[\w/.-]*\w\.\w+", document.read_text()):
            assert (ROOT / name).exists(), f"{document.name}: {name}"


def test_the_page_of_the_structure_names_every_room_in_sixty_lines() -> None:
    page = (ROOT / "docs" / "structure.md").read_text()
    cells = re.findall(r"^\| (`[^|]+/`) \|", page, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`([\w/]+)/`", cell)]
    rooms = {str(file.parent.relative_to(ROOT)) for top in ROOMS for file in (ROOT / top).rglob("*.py")}
    assert sorted(named) == sorted(rooms)
    assert len(page.splitlines()) <= 60


def test_decisions_are_numbered_in_order_and_those_cited_are_there() -> None:
    number, entries, numbers = 0, 0, set()
    text = (ROOT / "docs" / "decisions.md").read_text()
    for line in text.splitlines():
        if line.startswith("## "):
            number, entries = number + 1, 0
            assert line.startswith(f"## {number}. "), line
        elif line.startswith("**"):
            entries += 1
            start = rf"\*\*{number}\.{entries} \(20\d\d-\d\d-\d\d\)\. "
            assert re.match(start, line), f"expected number {number}.{entries} and the date, got {line[:60]}"
            numbers.add(f"{number}.{entries}")
    for file in (*DOCUMENTS, ROOT / "CHANGELOG.md", *(file for top in ROOMS for file in (ROOT / top).rglob("*.py"))):
        for mentioned in re.findall(r"\bdecisions? (\d+\.\d+)", file.read_text()):
            assert mentioned in numbers, f"{file}: decision {mentioned}"


def test_documents_teach_the_public_names_only() -> None:
    taught = set()
    for document in (*DOCUMENTS, *(ROOT / "configs").glob("*.yaml")):
        text = document.read_text()
        deep = re.findall(r"silverray\.(?:kernels|shard|router|cluster|benchmarks|configs)\b[\w.]*", text)
        assert not deep, f"{document.name} teaches {deep}"
        code = [
            *re.findall(r"```python\n(.*?)```", text, re.DOTALL),
            *re.findall(r"`[^`\n]*\bsilverray\.[^`\n]*`", text),
        ]
        for block in code:
            taught |= {
                name
                for line in re.findall(r"^from silverray import (.*)$", block, re.MULTILINE)
                for name in line.split(", ")
            }
            taught |= set(re.findall(r"\bsilverray\.(\w+)", block))
    assert {"LocalSearcher", "Schema", "publish", "HttpSearcher"} <= taught <= {*silverray.__all__}


MODULES = [
    ".".join(file.relative_to(ROOT).with_suffix("").parts)
    for package in ("kernels", "shard", "router", "cluster")
    for file in (ROOT / package).rglob("*.py")
    if ">>> " in file.read_text()
]


@pytest.mark.parametrize("module", MODULES)
def test_docstring_examples(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"silverray.{module}"))
    assert results.attempted > 0
    assert results.failed == 0
