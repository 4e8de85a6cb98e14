"""What is shipped is what is tracked, and it works from anywhere."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("kernels/", "shard/", "router/", "cluster/", "configs/", "benchmarks/")


def tracked_files(*folders: str) -> list[str]:
    listed = subprocess.run(["git", "ls-files", *folders], cwd=ROOT, capture_output=True, text=True, timeout=30)
    return listed.stdout.split()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from the tracked files alone, since a build in the checkout also ships what an older one left."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in tracked_files(*PACKAGES, "pyproject.toml", "README.md", "LICENSE"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr + done.stdout
    (file,) = out.glob("*.whl")
    return file


def test_the_wheel_holds_every_tracked_file_of_the_packages(wheel: Path) -> None:
    tracked = {f"silverray/{name}" for name in tracked_files(*PACKAGES) if not name.startswith("benchmarks/results/")}
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
    done = subprocess.run([sys.executable, "-S", "-c", program], cwd="/", capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr


def test_shard_and_kernels_import_without_ray_and_torchrec() -> None:
    program = (
        "import sys\n"
        "for name in ('ray', 'torchrec', 'fbgemm_gpu', 'fastapi', 'httpx'): sys.modules[name] = None\n"
        "import silverray.shard.local, silverray.shard.searcher, silverray.kernels.scan\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, timeout=100)
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
    done = subprocess.run([sys.executable, "-c", program], cwd="/", capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
