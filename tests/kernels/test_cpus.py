"""Other CPUs than this one: run where this machine can be told to be one, else compiled and looked at."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import llvmlite.binding as llvm
import numba
import pytest
from llvmlite import ir
from numba import types
from processes import PATIENCE_S

from silverray.kernels.cpu import simd

HERE = Path(__file__).parent
AVX2 = "+sse4.2,+popcnt,+avx,+f16c,+avx2,+fma,+bmi,+bmi2,+lzcnt"
CHOICES = {
    "portable": ("generic", None),
    "avx2": ("x86-64-v3", AVX2),
    "avx-vnni": ("x86-64-v3", f"{AVX2},+avxvnni"),
    "avx512-vnni": ("x86-64-v4", f"{AVX2},+avx512f,+avx512bw,+avx512dq,+avx512vl,+avx512cd,+avx512vnni"),
}
"""Name of the CPU and its instruction sets, as in `NUMBA_CPU_NAME` and `NUMBA_CPU_FEATURES`."""


def run_on(name: str, folder: Path, *tests: str) -> str:
    """Run tests in a process that compiles for another CPU, into a cache of its own; returns what it printed."""
    cpu, features = CHOICES[name]
    present = {part for part, has in llvm.get_host_cpu_features().items() if has}
    missing = sorted({part[1:] for part in (features or "").split(",") if part} - present)
    if missing or not llvm.get_default_triple().startswith("x86_64"):
        pytest.skip(f"this machine cannot run {name}: it lacks {missing or 'the x86-64 instruction set'}")
    environment = {"NUMBA_CACHE_DIR": str(folder), "NUMBA_CPU_NAME": cpu}
    environment |= {} if features is None else {"NUMBA_CPU_FEATURES": features}
    return run(environment, *tests)


def run(settings: dict[str, str], *tests: str) -> str:
    """Run tests in a process of three threads with other settings; returns what it printed."""
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CPU_FEATURES"}
    environment |= {"NUMBA_NUM_THREADS": "3"} | settings
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *(str(HERE / test) for test in tests)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    return done.stdout


@pytest.mark.parametrize("name", CHOICES)
def test_every_vector_instruction_is_right_on(name: str, tmp_path: Path) -> None:
    if name == simd.implementation():
        pytest.skip("this is what this process runs, and so all other tests")
    assert f"int8 product sum: {name}\n" in run_on(name, tmp_path, "test_simd.py")


def test_the_scan_is_right_on_a_cpu_without_wide_vectors_in_three_threads(tmp_path: Path) -> None:
    # The portable choice differs in the product sum alone, and takes twice as long to compile.
    name, test = "avx2", "test_scan.py::test_the_kernel_agrees_with_the_reference"
    here = name == simd.implementation()  # then such a CPU's kernels are those that all tests compile
    printed = run({}, test) if here else run_on(name, tmp_path, test)
    assert f"int8 product sum: {name}\n" in printed
    assert here or list(tmp_path.rglob("*scan_lists*.nbc"))


@pytest.mark.parametrize(
    ("cpu", "features", "name"),
    [
        ("generic", "", "portable"),
        ("skylake", None, "portable"),
        ("skylake", "+avx2,+avx512f,+avx512bw", "avx2"),
        ("alderlake", "+avx2,+avxvnni", "avx-vnni"),
        (None, "+avx2,+avxvnni,+avx512f,+avx512bw,+avx512vnni", "avx512-vnni"),
        (None, "+avx2,-avx512vnni,+avx512bw", "avx2"),
        (None, "+neon,+dotprod", "neon-dotprod"),
        (None, "+neon", "portable"),
    ],
)
def test_the_choice_follows_the_instruction_sets_that_are_compiled_for(
    cpu: str | None, features: str | None, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CPU_NAME", cpu)
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    assert simd.implementation() == name
    assert simd.code_bias() == (128 if name in ("avx-vnni", "avx512-vnni") else 0)


def assemble(intrinsic: Any, kinds: list[Any], triple: str, cpu: str, features: str) -> str:
    """Assembly of a function that does nothing but one vector instruction of ours."""
    module = ir.Module()
    module.triple = triple
    signature, generate = intrinsic._defn(None, *kinds)
    words = {types.int64: ir.IntType(64), types.int32: ir.IntType(32), types.float32: ir.FloatType()}
    result = words.get(signature.return_type, ir.VoidType())
    function = ir.Function(module, ir.FunctionType(result, [words[kind] for kind in signature.args]), "alone")
    builder = ir.IRBuilder(function.append_basic_block())
    value = generate(SimpleNamespace(get_dummy_value=lambda: None), builder, signature, list(function.args))
    builder.ret(value) if value is not None else builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(triple)
    except RuntimeError as error:
        pytest.skip(f"llvmlite has no such target: {error}")
    machine = target.create_target_machine(cpu=cpu, features=features, opt=2)
    parsed = llvm.parse_assembly(str(module))
    parsed.verify()
    assembly: str = machine.emit_assembly(parsed)
    return assembly


@pytest.mark.parametrize(
    ("triple", "cpu", "features", "wanted"),
    [
        ("aarch64-linux-gnu", "generic", "+neon,+dotprod", "sdot"),
        ("aarch64-linux-gnu", "generic", "+neon", "smull"),
        ("x86_64-linux-gnu", *CHOICES["avx2"], "vpmaddwd"),
        ("x86_64-linux-gnu", *CHOICES["avx-vnni"], "{vex}\tvpdpbusd"),
        ("x86_64-linux-gnu", *CHOICES["avx512-vnni"], "zmm"),
        ("x86_64-linux-gnu", "x86-64", "", "pmullw"),
    ],
)
def test_the_product_sum_compiles_to_the_instruction_it_is_named_after(
    triple: str, cpu: str, features: str, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(numba.config, "CPU_FEATURES", features)
    assembly = assemble(simd.dot_rows, [types.int64] * 6, triple, cpu, features)
    assert assembly.count(wanted) >= 16
    assert ("vpdpbusd" in assembly) == (simd.code_bias() != 0)


@pytest.mark.parametrize(
    ("name", "kinds"),
    [
        ("halving_rows_float", [types.int64] * 6),
        ("halving_rows_bfloat", [types.int64] * 6),
        ("coarse_scores", [types.int64, types.int32, types.int64, types.int64, types.float32]),
        ("rank_scores", [types.int64, types.int32]),
        ("lanes_reaching", [types.int64, types.int32]),
        ("append_lanes", [types.int64] * 3),
        ("and_not_words", [types.int64] * 2),
        ("prefetch", [types.int64]),
        ("count_bits", [types.int64]),
        ("first_bit", [types.int64]),
    ],
)
def test_everything_else_compiles_for_a_neon_cpu(name: str, kinds: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.config, "CPU_FEATURES", "+neon,+dotprod")
    assert "alone:" in assemble(getattr(simd, name), kinds, "aarch64-linux-gnu", "generic", "+neon,+dotprod")
