"""What is shipped is what is tracked, and it works from anywhere."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from processes import PATIENCE_S

ROOT = Path(__file__).parent.parent
PACKAGES = ("kernels/", "shard/", "router/", "cluster/", "configs/", "benchmarks/")


def tracked_files(*folders: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    return listed.stdout.split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone, since a build in the checkout also ships what an older one left."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked_files(*PACKAGES, ".typing", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name, follow_symlinks=False)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr + done.stdout
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_holds_every_tracked_file_of_the_packages(wheel: Path) -> None:
    tracked = {f"silverray/{name}" for name in tracked_files(*PACKAGES) if not name.startswith("benchmarks/results/")}
    tracked |= {name.removeprefix(".typing/") for name in tracked_files(".typing") if Path(name).suffix}
    assert {"silverray/__init__.py", "silverray/py.typed"} <= tracked
    shipped = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("silverray/")}
    assert len(tracked) > 40
    assert shipped == tracked


def test_every_module_imports_from_the_wheel_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    zipfile.ZipFile(wheel).extractall(tmp_path)
    names = [name[:-3].replace("/", ".") for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")]
    modules = [name.removesuffix(".__init__") for name in names]
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import importlib\n"
        f"for name in {modules!r}:\n"
        f"    assert importlib.import_module(name).__file__.startswith({str(tmp_path)!r}), name"
    )
    # -S keeps the editable install's import hook out; the environment's packages come by path.
    packages = [path for path in sys.path if path.endswith("site-packages")]
    program = f"import sys; sys.path += {packages!r}\n" + program
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd="/", capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr


def test_a_bare_folder_named_silverray_does_not_replace_the_package(tmp_path: Path) -> None:
    """Ray puts the working directory first on the workers' path, and there a clone may lie."""
    (tmp_path / "silverray" / "cluster").mkdir(parents=True)
    (tmp_path / "silverray" / "cluster" / "cli.py").write_text("raise SystemExit('not the installed package')")
    command = [sys.executable, "-m", "silverray.cluster.cli", "--help"]  # -m puts the working directory first
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_the_command_runs_what_is_installed_whatever_package_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "silverray").mkdir()
    (tmp_path / "silverray" / "__init__.py").write_text("raise SystemExit('not the installed package')")
    program = Path(sys.executable).parent / "silverray"
    for command in ([str(program)], [sys.executable, "-P", "-m", "silverray.cluster.cli"]):  # the other: serve --detach
        done = subprocess.run([*command, "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        assert "Usage" in done.stdout


def test_shard_and_kernels_import_without_ray_and_torchrec() -> None:
    modules = [name[:-3].replace("/", ".") for name in tracked_files("shard", "kernels") if name.endswith(".py")]
    program = (
        "import importlib, sys\n"
        "for name in ('ray', 'torchrec', 'fbgemm_gpu', 'fastapi', 'httpx'): sys.modules[name] = None\n"
        f"for name in {modules!r}: importlib.import_module('silverray.' + name.removesuffix('.__init__'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_without_torchrec_vectors_are_searched_and_towers_say_what_is_missing(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "for name in ('torchrec', 'fbgemm_gpu'): sys.modules[name] = None\n"
        "import numpy as np, pyarrow as pa\n"
        "import silverray.cluster.serving.deployments, silverray.cluster.cli, silverray.cluster.commands.train\n"
        "from silverray import LocalSearcher, Schema, publish\n"
        "from silverray.shard.towers.tables import TablesUnavailable\n"
        "from silverray.shard.towers.towers import Table, TowerShape, UserTower\n"
        "vectors = np.eye(8, dtype=np.float32)\n"
        "schema = Schema.parse('{id: id, vector: {dimension: 8, metric: ip}, fields: {}}')\n"
        "publish(pa.table({'id': np.arange(8)}), schema, Path('store'), vectors=vectors, partitions=2, version='v1')\n"
        "assert LocalSearcher.open('store/v1').search_batch(vectors, k=1).ids[:, 0].tolist() == list(range(8))\n"
        "try: UserTower(TowerShape((Table('seen', 9, 4, ('seen',), 'mean'),)))\n"
        "except TablesUnavailable as error: assert 'requirements/torchrec-cpu.txt' in str(error), error\n"
        "else: raise AssertionError('a tower without tables')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr


def test_torchrec_loads_beside_this_torch_and_looks_up_embeddings() -> None:
    program = (
        "import torch\n"
        "from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor\n"
        "config = EmbeddingBagConfig(name='t', embedding_dim=4, num_embeddings=8, feature_names=['f'])\n"
        "bags = EmbeddingBagCollection(tables=[config])\n"
        "ids = KeyedJaggedTensor(['f'], torch.tensor([1, 2, 5]), lengths=torch.tensor([2, 1]))\n"
        "weight = bags.embedding_bags['t'].weight\n"
        "assert torch.allclose(bags(ids).values(), torch.stack([weight[1] + weight[2], weight[5]]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
