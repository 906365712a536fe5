"""Bitmaps and signed terms packed for the GPU: against float64, bit for bit back, many tokens, compiled."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparlow import packed_ops
from sparlow.decomposition import Signed
from sparlow.layers import SparseLowRankLinear

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]
LIMITS = {torch.bfloat16: 2.6e-3, torch.float16: 3.4e-4}
EXPANDED = {torch.bfloat16: 4e-3, torch.float16: 5e-4}  # many tokens: w was rounded once or twice before y is
FEW = (1, 3, 4, 5, 8, 9, 16, 17, 33, 64)  # tokens that run packed; the others expand the layer
ONE_ULP = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # where y is a single number


def two_of_four(w: Tensor) -> Tensor:
    groups = w.reshape(w.shape[0], -1, 4)
    kept = groups.abs().topk(2, dim=-1).indices
    return torch.zeros_like(groups).scatter_(-1, kept, groups.gather(-1, kept)).reshape(w.shape)


def make(
    pattern: str, d_out: int, d_in: int, rank: int, sign_rank: int, dtype: torch.dtype, bias: bool
) -> SparseLowRankLinear:
    random = torch.Generator().manual_seed(d_out + d_in + rank + sign_rank)
    s = torch.randn(d_out, d_in, generator=random)
    s = two_of_four(s) if pattern == "2:4" else s * (torch.rand(s.shape, generator=random) < 0.45)
    s[:: max(2, d_out // 3)] = 0
    s[torch.rand(s.shape, generator=random) < 0.05] = -0.0
    u, v = torch.randn(d_out, rank, generator=random), 0.2 * torch.randn(rank, d_in, generator=random)
    b = torch.randn(d_out, generator=random) if bias else None
    signed = None
    if sign_rank:
        signs = torch.rand(d_out, d_in, generator=random) < 0.5
        factors = torch.randn(d_out, sign_rank, generator=random), torch.randn(sign_rank, d_in, generator=random)
        signed = Signed(signs, *factors)
    return SparseLowRankLinear.from_decomposition(s, u, v, b, pattern, dtype, signed)


def reference(layer: SparseLowRankLinear, x: Tensor) -> Tensor:
    """float64 of the same stored numbers."""
    stored = layer.stored()
    w = layer.sparse_dense().double() + stored["low_rank_u"].double() @ stored["low_rank_v"].double()
    if layer.sign_rank:
        w = w + layer.signed_dense().double()
    return nn.functional.linear(x.double(), w, None if layer.bias is None else layer.bias.double())


def error(y: Tensor, want: Tensor) -> float:
    return float((y.double() - want).norm() / want.norm())


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


CASES = [
    ("0.5@matrix", 576, 1536, 64, 0),
    ("0.5@matrix", 70, 260, 5, 1),
    ("0.5@matrix", 1, 4, 1, 0),
    ("0.5@matrix", 333, 1032, 200, 3),
    ("0.5@matrix", 640, 512, 0, 0),
    ("0.5@matrix", 4300, 264, 24, 1),  # the planner gives a row block fewer warps the more there are
    ("0.5@matrix", 8500, 260, 5, 0),
    ("0.5@matrix", 8500, 136, 17, 1),
    ("2:4", 576, 1536, 64, 1),
    ("2:4", 70, 260, 5, 2),
    ("2:4", 333, 1032, 200, 4),
    ("2:4", 96, 132, 0, 7),  # more ranks under the signs than the kernel has
]


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(("pattern", "d_out", "d_in", "rank", "sign_rank"), CASES)
@torch.no_grad()
def test_forward_and_back(pattern: str, d_out: int, d_in: int, rank: int, sign_rank: int, dtype: torch.dtype) -> None:
    for bias in (False, True):
        layer = make(pattern, d_out, d_in, rank, sign_rank, dtype, bias)
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        layer.cuda().eval()
        assert layer.is_packed
        assert all(same_bits(layer.state_dict()[name].cpu(), tensor) for name, tensor in before.items())
        for tokens in (*FEW, 129):
            x = torch.randn(tokens, d_in, device="cuda").to(dtype)
            y, want = layer(x), reference(layer, x)
            assert y.shape == (tokens, d_out)
            assert y.dtype == dtype
            packed = tokens in FEW and sign_rank <= 4
            assert error(y, want) < (ONE_ULP if d_out == 1 else LIMITS if packed else EXPANDED)[dtype], (tokens, bias)
            assert same_bits(y, layer(x)), "the same input gives the same bits"
        twin = copy.deepcopy(layer).train().cpu()
        assert all(same_bits(twin.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("density", [0.0, 0.03, 0.3])
@torch.no_grad()
def test_any_density(density: float) -> None:
    s = torch.randn(200, 516) * (torch.rand(200, 516) < density)
    s[17:60] = torch.randn(43, 516)  # full blocks beside empty ones
    layer = SparseLowRankLinear.from_decomposition(s, None, None, None, "0.5@matrix", torch.bfloat16)
    assert layer.format == "bitmap"
    layer.cuda().eval()
    for tokens in (1, 4, 17):
        x = torch.randn(tokens, 516, device="cuda").bfloat16()
        assert error(layer(x), reference(layer, x)) < LIMITS[torch.bfloat16]


@torch.no_grad()
def test_nan_and_infinity_spread_as_in_a_dense_layer() -> None:
    layer = make("0.5@matrix", 64, 256, 4, 1, torch.bfloat16, False).cuda().eval()
    x = torch.randn(3, 256, device="cuda").bfloat16()
    clean = layer(x)
    x[1, 77] = float("nan")
    y = layer(x)
    assert y[1].isnan().all()
    assert same_bits(y[[0, 2]], clean[[0, 2]])


@torch.no_grad()
def test_memory_stays_that_of_the_packed_form() -> None:
    torch.cuda.synchronize()
    base = torch.cuda.memory_allocated()
    layer = make("0.5@matrix", 1024, 2048, 64, 1, torch.bfloat16, False).cuda().eval()
    assert torch.cuda.memory_allocated() - base < 1.03 * layer.stored_bytes


@torch.no_grad()
def test_operator_graphs_and_compiler() -> None:
    layer = make("2:4", 256, 512, 16, 1, torch.bfloat16, True).cuda().eval()
    x = torch.randn(5, 512, device="cuda").bfloat16()
    arguments = (x, layer.weight_packed.detach(), layer.bias.detach(), "nm24", 256, 16, 0, 1, 0)
    torch.library.opcheck(packed_ops.bits_linear, arguments)
    compiled = torch.compile(lambda x: layer(x).relu(), fullgraph=True, dynamic=True)
    for tokens in (2, 3, 70):
        x = torch.randn(tokens, 512, device="cuda").bfloat16()
        assert torch.equal(compiled(x), layer(x).relu())
    static, graph = torch.randn(2, 512, device="cuda").bfloat16(), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer(static)
    static.copy_(torch.randn_like(static))
    graph.replay()
    assert same_bits(y, layer(static))
