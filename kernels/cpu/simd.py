"""Vector instructions for Numba kernels, written as LLVM IR, and which of them this CPU gets.

Sixteen rows are worked on at a time, in vectors of 16 lanes: LLVM splits them where registers are narrower. Only the
int8 product sum differs between CPUs; its result is an integer, so every choice gives the same answer.
Letters: D dimensions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import config, types
from numba.core import cgutils
from numba.extending import intrinsic

from silverray.kernels.rows import LANES, LINE, WORDS

MAX_CHUNKS = 256
"""Most 16-lane chunks of a vector: 4,096 dimensions."""

_I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
_F32 = ir.FloatType()
_INTS, _FLOATS = ir.VectorType(_I32, LANES), ir.VectorType(_F32, LANES)
_BYTES = ir.VectorType(_I8, LINE)

DotStep = Callable[[ir.IRBuilder, ir.Value, ir.Value, ir.Value], ir.Value]
"""Adds to 16 int32 lanes the products of 64 codes (int8) and 64 query bytes (int8)."""


def host_features() -> frozenset[str]:
    """Instruction sets that Numba compiles for: the host's, unless `NUMBA_CPU_NAME` or `NUMBA_CPU_FEATURES` says."""
    if config.CPU_FEATURES is not None:
        return frozenset(part[1:] for part in config.CPU_FEATURES.split(",") if part.startswith("+"))
    if config.CPU_NAME is not None:
        return frozenset()
    return frozenset(name for name, present in llvm.get_host_cpu_features().items() if present)


def implementation() -> str:
    """Name of the int8 product sum in use: avx512-vnni, avx-vnni, avx2, neon-dotprod or portable."""
    features = host_features()
    for name, (needed, _) in _DOT_STEPS.items():
        if needed <= features:
            return name
    raise AssertionError("portable needs nothing")


def _parts(builder: ir.IRBuilder, value: ir.Value, size: int) -> list[ir.Value]:
    """Split a vector into vectors of `size` elements."""
    count = value.type.count
    undefined = ir.Constant(value.type, ir.Undefined)
    return [
        builder.shuffle_vector(value, undefined, ir.Constant(ir.VectorType(_I32, size), list(range(at, at + size))))
        for at in range(0, count, size)
    ]


def _join(builder: ir.IRBuilder, parts: list[ir.Value]) -> ir.Value:
    """Concatenate a power of two of equal vectors."""
    while len(parts) > 1:
        size = parts[0].type.count
        index = ir.Constant(ir.VectorType(_I32, 2 * size), list(range(2 * size)))
        parts = [builder.shuffle_vector(low, high, index) for low, high in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _call(builder: ir.IRBuilder, name: str, result: ir.Type, *values: ir.Value) -> ir.Value:
    function = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(result, [value.type for value in values]), name
    )
    return builder.call(function, values)


def _avx512_vnni(builder: ir.IRBuilder, total: ir.Value, codes: ir.Value, query: ir.Value) -> ir.Value:
    codes, query = builder.bitcast(codes, _INTS), builder.bitcast(query, _INTS)
    return _call(builder, "llvm.x86.avx512.vpdpbusd.512", _INTS, total, codes, query)


def _avx_vnni(builder: ir.IRBuilder, total: ir.Value, codes: ir.Value, query: ir.Value) -> ir.Value:
    half = ir.VectorType(_I32, 8)
    codes, query = builder.bitcast(codes, _INTS), builder.bitcast(query, _INTS)
    parts = zip(*(_parts(builder, value, 8) for value in (total, codes, query)), strict=True)
    return _join(builder, [_call(builder, "llvm.x86.avx512.vpdpbusd.256", half, *part) for part in parts])


def _avx2(builder: ir.IRBuilder, total: ir.Value, codes: ir.Value, query: ir.Value) -> ir.Value:
    words, half = ir.VectorType(_I16, 16), ir.VectorType(_I32, 8)
    sums = []
    for code, factor in zip(_parts(builder, codes, 16), _parts(builder, query, 16), strict=True):
        wide = builder.sext(code, words), builder.sext(factor, words)
        sums.append(_call(builder, "llvm.x86.avx2.pmadd.wd", half, *wide))
    low, high = builder.add(sums[0], sums[1]), builder.add(sums[2], sums[3])
    return builder.add(total, _join(builder, [low, high]))


def _neon_dotprod(builder: ir.IRBuilder, total: ir.Value, codes: ir.Value, query: ir.Value) -> ir.Value:
    quarter = ir.VectorType(_I32, 4)
    parts = zip(_parts(builder, total, 4), _parts(builder, codes, 16), _parts(builder, query, 16), strict=True)
    return _join(builder, [_call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", quarter, *part) for part in parts])


def _portable(builder: ir.IRBuilder, total: ir.Value, codes: ir.Value, query: ir.Value) -> ir.Value:
    for code, factor in zip(_parts(builder, codes, LANES), _parts(builder, query, LANES), strict=True):
        words = ir.VectorType(_I16, LANES)
        product = builder.mul(builder.sext(code, words), builder.sext(factor, words))
        total = builder.add(total, builder.sext(product, _INTS))
    return total


_DOT_STEPS: dict[str, tuple[frozenset[str], DotStep]] = {
    "avx512-vnni": (frozenset({"avx512vnni", "avx512bw"}), _avx512_vnni),
    "avx-vnni": (frozenset({"avxvnni"}), _avx_vnni),
    "avx2": (frozenset({"avx2"}), _avx2),
    "neon-dotprod": (frozenset({"dotprod"}), _neon_dotprod),
    "portable": (frozenset(), _portable),
}
_UNSIGNED = {"avx512-vnni", "avx-vnni"}
"""Those that take the codes as unsigned bytes: code + 128."""


def _load(builder: ir.IRBuilder, address: ir.Value, kind: ir.Type, align: int = LINE) -> ir.Value:
    return builder.load(builder.inttoptr(address, kind.as_pointer()), align=align)


def numbers_at(kind: type[Any]) -> Any:
    """A function for kernels that reads a named tuple of int64 numbers from memory at an address."""
    size = len(kind._fields)
    made = types.NamedUniTuple(types.int64, size, kind)

    @intrinsic
    def read(typingctx: Any, address: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
            places = [builder.add(arguments[0], _I64(8 * place)) for place in range(size)]
            return context.make_tuple(builder, made, [_load(builder, place, _I64, 8) for place in places])

        return made(types.int64), generate

    return read


def _store(builder: ir.IRBuilder, value: ir.Value, address: ir.Value, align: int = 4) -> None:
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


def _sum_lanes(builder: ir.IRBuilder, rows: list[ir.Value], add: Callable[[ir.Value, ir.Value], ir.Value]) -> ir.Value:
    """Sum the lanes of 16 vectors, upper half to lower half until one is left: lane r is the sum of row r."""
    width = LANES
    while width > 1:
        half = width // 2
        starts = range(0, 2 * LANES, width)
        low = ir.Constant(_INTS, [start + lane for start in starts for lane in range(half)])
        high = ir.Constant(_INTS, [start + half + lane for start in starts for lane in range(half)])
        rows = [
            add(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))
            for a, b in zip(rows[::2], rows[1::2], strict=True)
        ]
        width = half
    return rows[0]


RUN_CHUNKS = (1, 2, 3, 4, 6, 8, 12, 16)
"""Chunks of a row for which `dot_run` has code: 64 to 1,024 dimensions."""
RUN_AHEAD = 8_192
"""Bytes ahead, two pages: nearer would come too late, and further would leave the caches again."""


@intrinsic
def dot_run(typingctx: Any, codes: Any, query: Any, chunks: Any, out: Any) -> Any:
    """`dot_rows` for 16 rows that follow each other without gaps; `chunks` must be one of `RUN_CHUNKS`.

    All addresses are constants away from each other, so that there is nothing to compute but the products. The rows
    `RUN_AHEAD` bytes on are asked for from memory: a list is too short for the processor to see a stream in it.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        codes, query, chunks, out = arguments
        for count in RUN_CHUNKS:
            with builder.if_then(builder.icmp_signed("==", chunks, _I64(count))):
                totals = [ir.Constant(_INTS, [0] * LANES)] * LANES
                for chunk in range(count):
                    factors = _load(builder, builder.add(query, _I64(LINE * chunk)), _BYTES)
                    for row in range(LANES):
                        at = builder.add(codes, _I64(LINE * (count * row + chunk)))
                        _prefetch(builder, builder.add(at, _I64(RUN_AHEAD)))
                        totals[row] = _add_products(builder, totals[row], at, factors)
                _store(builder, _sum_lanes(builder, totals, builder.add), out)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 4), generate


def _add_products(builder: ir.IRBuilder, total: ir.Value, address: ir.Value, factors: ir.Value) -> ir.Value:
    values = _load(builder, address, _BYTES)
    if code_bias():
        values = builder.xor(values, ir.Constant(_BYTES, [-128] * LINE))
    return _DOT_STEPS[implementation()][1](builder, total, values, factors)


@intrinsic
def dot_rows(typingctx: Any, codes: Any, stride: Any, slots: Any, query: Any, chunks: Any, out: Any) -> Any:
    """Write to `out` the int32 dot products of a query with the codes of 16 slots.

    All arguments are int64: the address of the codes, bytes from row to row, the address of 16 int32 slots, the address
    of the query (int8, padded with zeros), the number of 64-byte chunks of a row, the address of the result. Where
    `code_bias()` is not 0, the products are those of the codes plus it.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        codes, stride, slots, query, chunks, out = arguments
        rows = _row_addresses(builder, codes, stride, slots)
        zero = ir.Constant(_INTS, [0] * LANES)
        totals = [cgutils.alloca_once(builder, _INTS) for _ in range(LANES)]
        for total in totals:
            builder.store(zero, total)
        with cgutils.for_range(builder, chunks) as loop:
            at = builder.mul(loop.index, _I64(LINE))
            factors = _load(builder, builder.add(query, at), _BYTES)
            for row, total in zip(rows, totals, strict=True):
                address = builder.add(row, at)
                builder.store(_add_products(builder, builder.load(total), address, factors), total)
        sums = _sum_lanes(builder, [builder.load(total) for total in totals], builder.add)
        _store(builder, sums, out)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 6), generate


def _row_addresses(builder: ir.IRBuilder, base: ir.Value, stride: ir.Value, slots: ir.Value) -> list[ir.Value]:
    places = [_load(builder, builder.add(slots, _I64(4 * row)), _I32, 4) for row in range(LANES)]
    return [builder.add(base, builder.mul(builder.sext(place, _I64), stride)) for place in places]


def _halving_rows(cache: ir.VectorType) -> Any:
    """Exact dot products of 16 slots with vectors stored as 16-lane chunks of float32, or of int16 for bfloat16."""
    size = LANES * cache.element.width // 8 if isinstance(cache.element, ir.IntType) else LINE

    def product(builder: ir.IRBuilder, row: ir.Value, query: ir.Value, chunk: int, chunks: ir.Value) -> ir.Value:
        # Past the last chunk of a row, the query's own zeros are read in its place.
        factors = builder.add(query, _I64(chunk * LINE))
        inside = builder.icmp_signed("<", _I64(chunk), chunks)
        values = _load(builder, builder.select(inside, builder.add(row, _I64(chunk * size)), factors), cache, size)
        if cache.element == _I16:
            words = builder.shl(builder.zext(values, _INTS), ir.Constant(_INTS, [16] * LANES))
            values = builder.bitcast(words, _FLOATS)
        return builder.fmul(values, _load(builder, factors, _FLOATS))

    def halve(builder: ir.IRBuilder, width: int, first: int, total: int, *row: ir.Value) -> ir.Value:
        """Chunk `first` of the products, halved from `total` chunks to `width`."""
        if width == total:
            return product(builder, row[0], row[1], first, row[2])
        low = halve(builder, 2 * width, first, total, *row)
        return builder.fadd(low, halve(builder, 2 * width, first + width, total, *row))

    @intrinsic
    def halving_rows(typingctx: Any, vectors: Any, stride: Any, slots: Any, query: Any, chunks: Any, out: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
            vectors, stride, slots, query, chunks, out = arguments
            lanes = cgutils.alloca_once(builder, _FLOATS, size=LANES)
            with cgutils.for_range(builder, _I64(LANES)) as loop:
                place = _load(builder, builder.add(slots, builder.mul(loop.index, _I64(4))), _I32, 4)
                row = builder.add(vectors, builder.mul(builder.sext(place, _I64), stride))
                end = builder.append_basic_block("halved")
                for total in (1 << power for power in range(MAX_CHUNKS.bit_length())):
                    with builder.if_then(builder.icmp_signed("<=", chunks, _I64(total))):
                        lane_sums = halve(builder, 1, 0, total, row, query, chunks)
                        builder.store(lane_sums, builder.gep(lanes, [loop.index]))
                        builder.branch(end)
                builder.branch(end)
                builder.position_at_end(end)
            rows = [builder.load(builder.gep(lanes, [_I64(row)])) for row in range(LANES)]
            _store(builder, _sum_lanes(builder, rows, builder.fadd), out)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return halving_rows


halving_rows_float = _halving_rows(_FLOATS)
halving_rows_bfloat = _halving_rows(ir.VectorType(_I16, LANES))


@intrinsic
def prefetch(typingctx: Any, address: Any) -> Any:
    """Ask for the cache line at an address (int64)."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        _prefetch(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _prefetch(builder: ir.IRBuilder, address: ir.Value) -> None:
    pointer = builder.inttoptr(address, _I8.as_pointer())
    _call(builder, "llvm.prefetch.p0", ir.VoidType(), pointer, _I32(0), _I32(3), _I32(1))


@intrinsic
def pointer(typingctx: Any, address: Any) -> Any:
    """The address (int64) as a pointer, for `numba.carray`."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), generate


def code_bias() -> int:
    """What `dot_rows` adds to every code: some instructions multiply unsigned by signed bytes."""
    return 128 if implementation() in _UNSIGNED else 0


def _on_words(combine: Callable[[ir.IRBuilder, ir.Value, ir.Value], ir.Value]) -> Any:
    @intrinsic
    def on_words(typingctx: Any, target: Any, source: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
            target, source = arguments
            kind = ir.VectorType(_I64, WORDS)
            _store(builder, combine(builder, _load(builder, target, kind), _load(builder, source, kind)), target, 64)
            return context.get_dummy_value()

        return types.void(types.int64, types.int64), generate

    return on_words


copy_words = _on_words(lambda builder, target, source: source)
"""Copy 8 words of 64 bits from one address (int64) to another, both multiples of 64."""
and_words = _on_words(lambda builder, target, source: builder.and_(target, source))
or_words = _on_words(lambda builder, target, source: builder.or_(target, source))
and_not_words = _on_words(lambda builder, target, source: builder.and_(target, builder.not_(source)))
not_words = _on_words(lambda builder, target, source: builder.not_(source))


@intrinsic
def count_bits(typingctx: Any, word: Any) -> Any:
    """Number of set bits of an int64."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), generate


@intrinsic
def first_bit(typingctx: Any, word: Any) -> Any:
    """Place of the lowest set bit of an int64 that is not 0."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.int64), generate


@intrinsic
def coarse_scores(typingctx: Any, sums: Any, bias: Any, scales: Any, bases: Any, scale: Any) -> Any:
    """Turn 16 dot products into scores in place: `base + (scale · row scale) · (sum - bias)`, each step rounded.

    `sums`, `scales` and `bases` are int64 addresses of 16 values, `bias` is an int32 and `scale` a float32.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        sums, bias, scales, bases, scale = arguments
        dots = builder.sub(_load(builder, sums, _INTS, 4), _broadcast(builder, bias))
        steps = builder.fmul(_broadcast(builder, scale), _load(builder, scales, _FLOATS, 4))
        scores = builder.fadd(_load(builder, bases, _FLOATS, 4), builder.fmul(steps, builder.sitofp(dots, _FLOATS)))
        _store(builder, scores, sums)
        return context.get_dummy_value()

    kinds = types.int64, types.int32, types.int64, types.int64, types.float32
    return types.void(*kinds), generate


@intrinsic
def rank_scores(typingctx: Any, scores: Any, threshold: Any) -> Any:
    """Turn 16 scores (at an int64 address) into ranks in place; bit r of the result: rank r reaches the threshold."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        scores, threshold = arguments
        # -0.0 + 0.0 is 0.0: they are equal scores.
        floats = builder.fadd(_load(builder, scores, _FLOATS, 4), ir.Constant(_FLOATS, [0.0] * LANES))
        bits = builder.bitcast(floats, _INTS)
        sign = builder.ashr(bits, ir.Constant(_INTS, [31] * LANES))
        ranks = builder.xor(bits, builder.and_(sign, ir.Constant(_INTS, [0x7FFFFFFF] * LANES)))
        _store(builder, ranks, scores)
        return _reaching(builder, ranks, threshold)

    return types.int64(types.int64, types.int32), generate


@intrinsic
def lanes_reaching(typingctx: Any, ranks: Any, threshold: Any) -> Any:
    """Bit r of the result: of 16 int32 ranks at an address (int64), rank r reaches the threshold."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        ranks, threshold = arguments
        return _reaching(builder, _load(builder, ranks, _INTS, 4), threshold)

    return types.int64(types.int64, types.int32), generate


def _reaching(builder: ir.IRBuilder, ranks: ir.Value, threshold: ir.Value) -> ir.Value:
    reached = builder.icmp_signed(">=", ranks, _broadcast(builder, threshold))
    return builder.zext(builder.bitcast(reached, ir.IntType(LANES)), _I64)


@intrinsic
def append_lanes(typingctx: Any, source: Any, lanes: Any, target: Any) -> Any:
    """Write those of 16 int32 at address `source` whose bit is set in `lanes` (int64) to `target`, one after another.

    All 16 places of the target may be written.
    """

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
        source, lanes, target = arguments
        values = _load(builder, source, _INTS, 4)
        if "avx512f" in host_features():
            mask = builder.bitcast(builder.trunc(lanes, ir.IntType(LANES)), ir.VectorType(ir.IntType(1), LANES))
            packed = _call(builder, "llvm.x86.avx512.mask.compress.v16i32", _INTS, values, values, mask)
            _store(builder, packed, target)
            return context.get_dummy_value()
        for lane in range(LANES):
            value = builder.extract_element(values, _I32(lane))
            _store(builder, value, target)
            bit = builder.and_(builder.lshr(lanes, _I64(lane)), _I64(1))
            target = builder.add(target, builder.shl(bit, _I64(2)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


def _broadcast(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
    vector = ir.VectorType(value.type, LANES)
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), value, _I32(0))
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), ir.Constant(_INTS, [0] * LANES))


def _loader(kind: ir.Type, result: types.Type) -> Any:
    @intrinsic
    def load(typingctx: Any, address: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
            return _load(builder, arguments[0], kind, result.bitwidth // 8)

        return result(types.int64), generate

    return load


def _storer(value: types.Type) -> Any:
    @intrinsic
    def store(typingctx: Any, address: Any, number: Any) -> Any:
        def generate(context: Any, builder: ir.IRBuilder, signature: Any, arguments: list[ir.Value]) -> ir.Value:
            _store(builder, arguments[1], arguments[0], value.bitwidth // 8)
            return context.get_dummy_value()

        return types.void(types.int64, value), generate

    return store


# Inner loops read and write through addresses: an array that is passed on costs reference counting each time.
load_int32, load_int64 = _loader(_I32, types.int32), _loader(_I64, types.int64)
load_float = _loader(_F32, types.float32)
store_int32, store_int64, store_float = _storer(types.int32), _storer(types.int64), _storer(types.float32)
