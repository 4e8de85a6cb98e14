"""Free memory is what the system says, and no more than the limits of the cgroups around the process."""

from pathlib import Path

import pytest
import torch

from silverray.shard.index.free_memory import free_bytes, free_host_bytes

MIB = 1 << 20


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:    8192 kB\nHugePages_Total:  0\n")
    (tmp_path / "proc/self/cgroup").write_text("4:memory:/old\n0::/pods/one\n")
    return tmp_path / "proc"


def limit(folder: Path, most: str, used: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon {used - cached}\nactive_file {cached - 1}\ninactive_file 1\n")


def test_without_a_limit_it_is_what_the_kernel_holds_available(proc: Path, tmp_path: Path) -> None:
    assert free_host_bytes(proc, tmp_path / "none") == 8 * MIB
    limit(tmp_path / "groups/pods/one", "max", MIB, 0)
    assert free_host_bytes(proc, tmp_path / "groups") == 8 * MIB
    (proc / "self/cgroup").unlink()
    assert free_host_bytes(proc, tmp_path / "groups") == 8 * MIB


def test_the_tightest_cgroup_counts_and_cached_files_do_not(proc: Path, tmp_path: Path) -> None:
    limit(tmp_path / "groups/pods/one", str(7 * MIB), used=4 * MIB, cached=MIB)
    assert free_host_bytes(proc, tmp_path / "groups") == 4 * MIB
    limit(tmp_path / "groups/pods", str(9 * MIB), used=8 * MIB, cached=2 * MIB)
    assert free_host_bytes(proc, tmp_path / "groups") == 3 * MIB
    limit(tmp_path / "groups", str(2 * MIB), used=3 * MIB, cached=0)
    assert free_host_bytes(proc, tmp_path / "groups") == 0


def test_a_container_sees_its_own_limit_at_the_root(proc: Path, tmp_path: Path) -> None:
    limit(tmp_path / "groups", str(5 * MIB), used=MIB, cached=0)
    assert free_host_bytes(proc, tmp_path / "groups") == 4 * MIB


def test_a_cuda_device_is_asked_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (device.index * MIB, 9 * MIB))
    assert free_bytes(torch.device("cuda", 3)) == 3 * MIB
    assert 0 < free_bytes(torch.device("cpu")) < 1 << 50
