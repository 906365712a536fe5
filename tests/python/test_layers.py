"""Packing, unpacking and the compressed linear layer."""

from __future__ import annotations

import pytest
import torch
from checkpoint_helpers import keep_half_of_rows, keep_two_of_four
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sparlow import formats, host, native, ops
from sparlow.layers import SparseLowRankLinear
from sparlow.spec import LayerSpec

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
STORABLE = [*DTYPES, torch.float64]


def sparse_matrix(rows: int, cols: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """Random 2:4 with groups of no, one and two values, and some -0.0."""
    generator = torch.Generator().manual_seed(seed)
    s = keep_two_of_four(torch.randn(rows, cols, generator=generator))
    s[torch.rand(rows, cols, generator=generator) < 0.3] = -0.0
    return s.to(dtype)


def positive_zeros(s: Tensor) -> Tensor:
    return torch.where(s == 0, torch.zeros_like(s), s)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 9),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(STORABLE),
)
def test_nm24_round_trip_is_exact(rows: int, groups: int, seed: int, dtype: torch.dtype) -> None:
    s = sparse_matrix(rows, 4 * groups, dtype, seed)
    values, meta = formats.nm24_pack(s)
    assert all(map(same_bits, native.nm24_pack(s), (values, meta)))
    assert values.shape == (rows, 2 * groups)
    assert meta.shape == (rows, (groups + 1) // 2)
    formats.check_meta("nm24", meta, 4 * groups, None, "layer")
    for unpack in (formats.nm24_unpack, ops.nm24_unpack):
        assert same_bits(unpack(values, meta, 4 * groups), positive_zeros(s))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    cols=st.integers(1, 35),
    seed=st.integers(0, 2**31),
    dtype=st.sampled_from(STORABLE),
)
def test_bitmap_round_trip_is_exact(rows: int, cols: int, seed: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(seed)
    s = torch.randn(rows, cols, generator=generator).to(dtype)
    s[torch.rand(rows, cols, generator=generator) < 0.6] = -0.0
    values, meta = formats.bitmap_pack(s)
    assert all(map(same_bits, native.bitmap_pack(s), (values, meta)))
    assert values.numel() == torch.count_nonzero(s)
    formats.check_meta("bitmap", meta, cols, values.numel(), "layer")
    for unpack in (formats.bitmap_unpack, ops.bitmap_unpack):
        assert same_bits(unpack(values, meta, cols), positive_zeros(s))


def test_documented_layout() -> None:
    s = torch.tensor([[0, 5, 0, 7, -0.0, 0, 3, 0, 1, 2, 0, 0]])
    values, meta = formats.nm24_pack(s)
    # (1, 3) -> 0b1101; one value at 2, filled with the lowest free position -> (0, 2); (0, 1) -> 0b0100
    assert values.tolist() == [[5, 7, 0, 3, 1, 2]]
    assert meta.tolist() == [[0b1000_1101, 0b0100]]
    values, meta = formats.bitmap_pack(s)
    assert values.tolist() == [5, 7, 3, 1, 2]
    assert meta.tolist() == [[0b0100_1010, 0b0011]]


def test_three_of_four_is_refused_with_its_place() -> None:
    s = torch.zeros(3, 12)
    s[2, 4:7] = 1.0
    for pack in (formats.nm24_pack, native.nm24_pack):
        with pytest.raises(ValueError, match="row 2, columns 4 to 7 keep more than two values"):
            pack(s)


def test_the_first_violation_is_named_whatever_the_threads() -> None:
    s = torch.zeros(4096, 256)
    s[700::100, 8:11] = 1.0
    for _ in range(20):
        with pytest.raises(ValueError, match="row 700, columns 8 to 11"):
            native.nm24_pack(s)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_native_and_torch_agree_on_large_matrices(dtype: torch.dtype) -> None:
    s = sparse_matrix(700, 1028, dtype)
    for format in ("nm24", "bitmap"):
        values, meta = getattr(formats, f"{format}_pack")(s)
        assert all(map(same_bits, getattr(native, f"{format}_pack")(s), (values, meta)))
        assert same_bits(getattr(native, f"{format}_unpack")(values, meta, 1028), positive_zeros(s))


def test_native_checks_what_it_is_given() -> None:
    values, meta = native.nm24_pack(torch.zeros(3, 16))
    with pytest.raises(ValueError, match=r"must be \[3, 8\], got \[3, 7\]"):
        ops.nm24_unpack(values[:, 1:], meta, 16)
    with pytest.raises(ValueError, match=r"uint8 \[d_out, 3\], got \[3, 2\]"):
        ops.nm24_unpack(values, meta, 20)
    with pytest.raises(ValueError, match="divisible by 4"):
        ops.nm24_unpack(torch.zeros(3, 7), meta, 14)
    with pytest.raises(ValueError, match="elements of 2, 4 or 8 bytes, not 1"):
        ops.nm24_unpack(values.to(torch.int8), meta, 16)
    values, meta = native.bitmap_pack(torch.eye(9))
    with pytest.raises(ValueError, match="marks 9 values, 8 are stored"):
        ops.bitmap_unpack(values[1:], meta, 9)
    assert torch.equal(ops.bitmap_unpack(values[::1].repeat(2)[::2], meta, 9), torch.eye(9))


@pytest.mark.parametrize("byte", [0b0000_0100, 0b0100_0000, 0b0100_0001, 0b0101_0100])
def test_illegal_positions_are_found(byte: int) -> None:
    _, meta = formats.nm24_pack(sparse_matrix(4, 24, torch.float32))
    meta[3, 1] = byte
    with pytest.raises(ValueError, match=r"layer 'q': illegal 2:4 positions.*weight_meta\[3, 1\]"):
        formats.check_meta("nm24", meta, 24, None, "q")


def test_used_padding_is_found() -> None:
    _, meta = formats.nm24_pack(sparse_matrix(2, 12, torch.float32))
    meta[0, 1] |= 0b0100_0000
    with pytest.raises(ValueError, match="illegal"):
        formats.check_meta("nm24", meta, 12, None, "q")
    values, meta = formats.bitmap_pack(torch.eye(3))
    meta[0, 0] ^= 0b1001_0000 ^ 0b0001_0001
    meta[0, 0] &= 0b1000_0000
    with pytest.raises(ValueError, match="beyond column 2"):
        formats.check_meta("bitmap", meta, 3, values.numel(), "q")
    with pytest.raises(ValueError, match="marks 3 values but weight_packed holds 5"):
        formats.check_meta("bitmap", meta, 3, 5, "q")


def make_layer(
    pattern: str = "2:4", rank: int = 3, dtype: torch.dtype = torch.float32, bias: bool = True
) -> tuple[SparseLowRankLinear, Tensor, Tensor, Tensor, Tensor | None]:
    torch.manual_seed(1)
    sparsify = {"2:4": keep_two_of_four, "0.5@row": keep_half_of_rows, "dense": lambda w: w}[pattern]
    s, u, v = sparsify(torch.randn(12, 20)), torch.randn(12, rank), torch.randn(rank, 20)
    b = torch.randn(12) if bias else None
    return SparseLowRankLinear.from_decomposition(s, u, v, b, pattern, dtype), s, u, v, b


@pytest.mark.parametrize(("pattern", "format"), [("2:4", "nm24"), ("0.5@row", "bitmap"), ("dense", "dense")])
@pytest.mark.parametrize("rank", [0, 3])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_is_the_dense_product(pattern: str, format: str, rank: int, bias: bool) -> None:
    layer, s, u, v, b = make_layer(pattern, rank, bias=bias)
    assert (layer.format, layer.pattern, layer.rank) == (format, pattern, rank)
    assert (layer.in_features, layer.out_features) == (20, 12)
    x = torch.randn(2, 5, 20)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, s + u @ v, b))
    torch.testing.assert_close(layer.dense_weight(), s + u @ v)
    assert torch.equal(layer.sparse_dense(), s)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("used", DTYPES)
def test_output_has_the_type_of_the_input(stored: torch.dtype, used: torch.dtype) -> None:
    layer, *_ = make_layer(dtype=stored)
    assert layer(torch.randn(3, 20, dtype=used)).dtype == used


def test_bytes_are_the_documented_share() -> None:
    s = keep_two_of_four(torch.randn(64, 128))
    layer = SparseLowRankLinear.from_decomposition(
        s, torch.randn(64, 8), torch.randn(8, 128), torch.zeros(64), "2:4", torch.bfloat16
    )
    dense = 64 * 128 * 2
    assert layer.stored_bytes == 0.5625 * dense + 8 * (64 + 128) * 2


def test_format_is_the_smallest_one() -> None:
    nearly_dense = torch.randn(8, 16)
    nearly_dense[0, 0] = 0
    layer = SparseLowRankLinear.from_decomposition(nearly_dense, None, None, None, "0.999@matrix", torch.bfloat16)
    assert (layer.format, layer.rank) == ("dense", 0)
    empty = SparseLowRankLinear.from_decomposition(torch.zeros(8, 16), None, None, None, "0.1@row", torch.bfloat16)
    assert (empty.format, empty.spec.nnz) == ("bitmap", 0)
    assert torch.equal(empty(torch.ones(1, 16)), torch.zeros(1, 8))


@pytest.mark.parametrize(
    ("pattern", "place"),
    [("2:4", r"group of 4 \[1, 2\] keeps 3 values, 2"), ("0.125@row", r"row \[1\] keeps 3 values, 2")],
)
def test_a_sparse_term_off_its_pattern_is_refused(pattern: str, place: str) -> None:
    s = torch.zeros(2, 16)
    s[1, 9:12] = 1.0
    with pytest.raises(ValueError, match=place):
        SparseLowRankLinear.from_decomposition(s, None, None, None, pattern, torch.float32)
    with pytest.raises(ValueError, match="3 values, 2 are allowed"):
        SparseLowRankLinear.from_decomposition(s, None, None, None, "0.0625@matrix", torch.float32)


def test_bad_arguments_are_refused() -> None:
    make, w = SparseLowRankLinear.from_decomposition, torch.eye(4)
    with pytest.raises(ValueError, match=r"not finite in torch.float16 \(largest magnitude 1e\+05\)"):
        make(1e5 * w, None, None, None, "2:4", torch.float16)
    with pytest.raises(ValueError, match="shapes do not fit"):
        make(w, torch.ones(4, 2), torch.ones(3, 4), None, "2:4", torch.float32)
    with pytest.raises(ValueError, match="bias must have 4 elements"):
        make(w, None, None, torch.ones(3), "2:4", torch.float32)
    with pytest.raises(ValueError, match="divisible by 4"):
        make(torch.eye(6), None, None, None, "2:4", torch.float32)
    with pytest.raises(ValueError, match="pattern 'half'"):
        make(w, None, None, None, "half", torch.float32)


@pytest.mark.parametrize(
    "entry",
    [
        {"format": "nm25"},
        {"rank": -1},
        {"rank": True},
        {"shape": [4]},
        {"shape": [4, 6]},
        {"nnz": 3},
        {"format": "bitmap"},
        {"format": "bitmap", "nnz": 17},
        {"color": "red"},
    ],
)
def test_bad_layer_entries_name_the_layer(entry: dict[str, object]) -> None:
    good = LayerSpec("nm24", "2:4", 2, 4, 4).to_dict()
    with pytest.raises(ValueError, match="layer table entry 'q'"):
        LayerSpec.from_dict("q", good | entry)
    assert LayerSpec.from_dict("q", good).to_dict() == good


def test_gradient_reaches_input_and_factors() -> None:
    layer, s, u, v, b = make_layer()
    x = torch.randn(5, 20, requires_grad=True)
    layer(x).square().sum().backward()
    y = torch.randn(1) * 0 + x.detach()
    reference = y.clone().requires_grad_(True)
    (reference @ (s + u @ v).T + b).square().sum().backward()
    torch.testing.assert_close(x.grad, reference.grad, rtol=1e-4, atol=1e-4)
    assert layer.low_rank_u.grad is not None
    assert layer.low_rank_v.grad is not None
    assert layer.weight_packed.grad is None


def test_gradient_of_packed_weights_is_a_clear_error() -> None:
    layer, *_ = make_layer()
    layer.weight_packed.requires_grad_(True)
    with pytest.raises(RuntimeError, match="packed sparse weights have no gradient"):
        layer(torch.randn(1, 20))
    with torch.no_grad():
        layer(torch.randn(1, 20))
    values, meta = formats.nm24_pack(sparse_matrix(2, 8, torch.float32))
    with pytest.raises(RuntimeError, match="packed sparse weights have no gradient"):
        ops.nm24_unpack(values.requires_grad_(True), meta, 8).sum().backward()


@pytest.mark.parametrize("pattern", ["2:4", "0.5@row"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_opcheck(pattern: str, dtype: torch.dtype) -> None:
    layer, *_ = make_layer(pattern, dtype=dtype)
    op = torch.ops.sparlow.nm24_unpack if pattern == "2:4" else torch.ops.sparlow.bitmap_unpack
    torch.library.opcheck(op.default, (layer.weight_packed.detach(), layer.weight_meta, 20))


@pytest.mark.parametrize("pattern", ["2:4", "0.5@row"])
def test_compiles_as_one_graph(pattern: str) -> None:
    layer, *_ = make_layer(pattern)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for tokens in (1, 3, 7):
        x = torch.randn(tokens, 20)
        torch.testing.assert_close(compiled(x), layer(x))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    groups=st.integers(1, 40),
    rank=st.integers(0, 20),
    tokens=st.integers(0, 11),
    dtype=st.sampled_from(DTYPES),
    bias=st.booleans(),
)
def test_host_product_against_float64(
    rows: int, groups: int, rank: int, tokens: int, dtype: torch.dtype, bias: bool
) -> None:
    torch.manual_seed(rows + groups + rank + tokens)
    s = positive_zeros(sparse_matrix(rows, 4 * groups, dtype))
    u, v = torch.randn(rows, rank).to(dtype), torch.randn(rank, 4 * groups).to(dtype)
    b = torch.randn(rows).to(dtype) if bias else None
    x = torch.randn(tokens, 4 * groups).to(dtype)
    w = s.double() + u.double() @ v.double()
    want = torch.nn.functional.linear(x.double(), w, None if b is None else b.double())
    layer = SparseLowRankLinear.from_decomposition(s, u, v, b, "2:4", dtype)
    with torch.no_grad():
        y = layer(x)
    assert y.dtype == dtype
    scale = x.double().abs() @ w.abs().T + (s.abs().double() + u.abs().double() @ v.abs().double()).sum() + 1
    tolerance = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
    assert bool(((y.double() - want).abs() <= tolerance * scale).all())
    if tokens <= 8:  # sums are float32: only y is rounded
        torch.testing.assert_close(y, want.to(dtype), rtol=2 * tolerance, atol=1e-4)


def test_host_product_carries_nan_to_its_token_only() -> None:
    layer, *_ = make_layer()
    x = torch.randn(3, 20)
    x[1, 7] = float("nan")
    with torch.no_grad():
        assert torch.isnan(layer(x)).any(dim=1).tolist() == [False, True, False]


def test_compiles_as_one_graph_without_gradients() -> None:
    layer, *_ = make_layer()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    with torch.no_grad():
        for tokens in (2, 9):
            x = torch.randn(tokens, 20)
            torch.testing.assert_close(compiled(x), layer(x))


def test_print_names_format_and_rank() -> None:
    layer, *_ = make_layer()
    assert "format=nm24, pattern=2:4, rank=3, bias=True" in repr(layer)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("pattern", "rank"), [("2:4", 5), ("0.5@row", 0)])
def test_on_the_cpu_a_layer_runs_from_its_packed_tensors(
    dtype: torch.dtype, pattern: str, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    s = torch.randn(33, 44)
    s = keep_two_of_four(s) if pattern == "2:4" else keep_half_of_rows(s)
    u, v = torch.randn(33, rank), torch.randn(rank, 44)
    layer = SparseLowRankLinear.from_decomposition(s, u, v, torch.randn(33), pattern, dtype).eval()
    x = torch.randn(2, 3, 44, dtype=dtype)
    with torch.no_grad():
        fast = layer(x)
        monkeypatch.setattr(host, "runs", lambda *_: False)
        slow = layer(x)
    exact = x.double() @ layer.dense_weight().double().T + layer.bias.double()
    assert fast.shape == (2, 3, 33)
    assert fast.dtype == dtype
    error, bound = (fast.double() - exact).abs().max(), (slow.double() - exact).abs().max()
    assert error <= 1.5 * bound


def test_the_cpu_operator_is_a_proper_operator() -> None:
    s, u, v = keep_two_of_four(torch.randn(8, 16)), torch.randn(8, 2), torch.randn(2, 16)
    values, meta = formats.nm24_pack(s)
    arguments = (torch.randn(3, 16), values, meta, u, v, torch.randn(8), "nm24")
    torch.library.opcheck(host.host_linear, arguments, test_utils=("test_schema", "test_faketensor"))
    with pytest.raises(ValueError, match=r"x \[3, 15\] and meta"):
        host.host_linear(torch.randn(3, 15), *arguments[1:])
    with pytest.raises(ValueError, match="must have the type of x"):
        host.host_linear(arguments[0].bfloat16(), *arguments[1:])
    with pytest.raises(RuntimeError, match="packed sparse weights have no gradient"):
        host.host_linear(arguments[0].requires_grad_(), *arguments[1:]).sum().backward()


def test_gradients_and_autocast_keep_the_way_that_has_them() -> None:
    s = keep_two_of_four(torch.randn(8, 16))
    layer = SparseLowRankLinear.from_decomposition(s, None, None, None, "2:4", torch.float32).eval()
    x = torch.randn(3, 16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, s.sum(0).expand(3, 16), atol=1e-5)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
