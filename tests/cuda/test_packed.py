"""Layers packed for the GPU: against float64, bit for bit back, compiled, captured in graphs."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from sparlow import packed, packed_ops
from sparlow.layers import SparseLowRankLinear

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]
LIMITS = {torch.bfloat16: 2.6e-3, torch.float16: 3.4e-4}  # relative; rounding y alone makes 1.7e-3 and 2.1e-4,
ONE_ULP = {torch.bfloat16: 2**-8, torch.float16: 2**-11}  # or so much where y is a single number


def two_of_four(w: Tensor) -> Tensor:
    groups = w.reshape(w.shape[0], -1, 4)
    kept = groups.abs().topk(2, dim=-1).indices
    return torch.zeros_like(groups).scatter_(-1, kept, groups.gather(-1, kept)).reshape(w.shape)


def make(
    d_out: int, d_in: int, rank: int, dtype: torch.dtype = torch.bfloat16, bias: bool = True
) -> SparseLowRankLinear:
    """In training mode on the CPU."""
    random = torch.Generator().manual_seed(d_out + d_in + rank)
    s = two_of_four(torch.randn(d_out, d_in, generator=random))
    s[:: max(2, d_out // 3)] = 0
    s[torch.rand(s.shape, generator=random) < 0.05] = -0.0
    u, v = torch.randn(d_out, rank, generator=random), 0.2 * torch.randn(rank, d_in, generator=random)
    b = torch.randn(d_out, generator=random) if bias else None
    return SparseLowRankLinear.from_decomposition(s, u, v, b, "2:4", dtype)


def reference(layer: SparseLowRankLinear, x: Tensor) -> Tensor:
    """float64 of the same stored numbers."""
    stored = layer.stored()
    w = layer.sparse_dense().double() + stored["low_rank_u"].double() @ stored["low_rank_v"].double()
    return nn.functional.linear(x.double(), w, None if layer.bias is None else layer.bias.double())


def error(y: Tensor, want: Tensor) -> float:
    return float((y.double() - want).norm() / want.norm())


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("dtype", LIMITS)
@pytest.mark.parametrize(
    ("d_out", "d_in", "rank"), [(576, 1536, 64), (70, 260, 5), (1, 4, 1), (333, 1032, 200), (640, 512, 0)]
)
@torch.no_grad()
def test_forward_against_float64(d_out: int, d_in: int, rank: int, dtype: torch.dtype) -> None:
    for bias in (False, True):
        layer = make(d_out, d_in, rank, dtype, bias).cuda().eval()
        assert layer.is_packed
        for tokens in (1, 3, 17, 64, 65, 129, 1000):
            x = torch.randn(tokens, d_in, device="cuda").to(dtype)
            y, want = layer(x), reference(layer, x)
            assert y.shape == (tokens, d_out)
            assert y.dtype == dtype
            assert error(y, want) < LIMITS[dtype], (tokens, bias)
            assert same_bits(y, layer(x)), "the same input gives the same bits"


@torch.no_grad()
def test_the_error_is_no_worse_than_that_of_a_dense_layer() -> None:
    layer = make(1024, 2048, 64, bias=False).cuda().eval()
    dense = layer.dense_weight().bfloat16()
    for tokens in (1, 16, 64, 256, 2048):
        x = torch.randn(tokens, 2048, device="cuda").bfloat16()
        want = reference(layer, x)
        assert error(layer(x), want) <= 1.01 * error(nn.functional.linear(x, dense), want)


@torch.no_grad()
def test_inputs_of_every_shape_and_layout() -> None:
    layer = make(96, 256, 8).cuda().eval()
    x = torch.randn(2, 3, 512, device="cuda").bfloat16()
    for view in (x[..., :256], x[..., 1:257], x[..., 4:260], x[:, :1, :256], x[0, 0, :256]):
        y = layer(view)
        assert y.shape == (*view.shape[:-1], 96)
        assert error(y, reference(layer, view)) < 3e-3
    assert layer(x[:0, :, :256]).shape == (0, 3, 96)
    assert layer(x[..., :256].float()).dtype == torch.float32
    with torch.autocast("cuda", torch.bfloat16):
        assert same_bits(layer(x[..., :256].float()), layer(x[..., :256].contiguous()))


def test_everything_comes_back_bit_for_bit() -> None:
    layer = make(70, 260, 5)
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    parameters = dict(layer.named_parameters())
    layer.cuda().eval()
    assert layer.is_packed
    assert list(layer.state_dict()) == list(before)
    twin = copy.deepcopy(layer)
    for state in (layer.state_dict(), twin.state_dict(), layer.train().state_dict(), layer.eval().cpu().state_dict()):
        assert all(same_bits(state[name].cpu(), tensor) for name, tensor in before.items())
    assert not layer.is_packed
    assert all(parameters[name] is parameter for name, parameter in layer.named_parameters())
    layer.cuda()
    layer.load_state_dict(
        {name: tensor * 2 if tensor.is_floating_point() else tensor for name, tensor in before.items()}
    )
    assert layer.is_packed
    assert torch.equal(layer.state_dict()["low_rank_u"].cpu(), 2 * before["low_rank_u"])


def test_memory_is_that_of_one_packed_copy() -> None:
    torch.cuda.synchronize()
    base = torch.cuda.memory_allocated()
    layer = make(2048, 2048, 64, bias=False).cuda().eval()
    assert torch.cuda.memory_allocated() - base < 0.66 * 2048 * 2048 * 2
    assert layer.stored_bytes == int((0.5625 + 0.0625) * 2048 * 2048 * 2)


def test_training_mode_has_gradients_and_packed_layers_say_why_not() -> None:
    layer = make(64, 128, 4).cuda()
    x = torch.randn(5, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert layer.low_rank_u.grad is not None
    layer.eval()
    with pytest.raises(RuntimeError, match=r"packed for inference has no backward pass; call model.train\(\)"):
        layer(x).sum().backward()


def test_formats_and_types_without_a_kernel_stay_as_they_are() -> None:
    assert not make(64, 128, 4, torch.float32).cuda().eval().is_packed
    s = torch.randn(16, 30) * (torch.rand(16, 30) < 0.3)
    layer = SparseLowRankLinear.from_decomposition(s, None, None, None, "0.5@matrix", torch.bfloat16).cuda().eval()
    assert not layer.is_packed
    assert "d_in divisible by 4" in str(layer.why_not_packed())
    assert "cpu" in str(packed.why_not(torch.device("cpu")))


def test_operator_checks() -> None:
    layer = make(64, 128, 4).cuda().eval()
    x = torch.randn(5, 128, device="cuda").bfloat16()
    arguments = (x, layer.weight_packed.detach(), layer.bias.detach(), 64, 4)
    torch.library.opcheck(packed_ops.nm24_linear, arguments)
    torch.library.opcheck(packed_ops.nm24_linear, (x, layer.weight_packed.detach(), None, 64, 4))
    with pytest.raises(ValueError, match=r"x is torch\.float16 on cuda:0, the packed layer torch\.bfloat16"):
        packed_ops.nm24_linear(x.half(), *arguments[1:])
    with pytest.raises(ValueError, match=r"bias must be torch\.bfloat16 \[64\]"):
        packed_ops.nm24_linear(*arguments[:2], layer.bias.detach()[:3], 64, 4)
    needed = 64 * 128 * 2 * 9 // 16 + 2 * 16 * (64 + 128)  # the rank is padded to 16
    with pytest.raises(ValueError, match=f"has {needed} bytes in a row, got {needed - 2}"):
        packed_ops.nm24_linear(x, arguments[1][:-1], None, 64, 4)


@torch.no_grad()
def test_compiles_as_one_graph() -> None:
    layer = make(256, 512, 16).cuda().eval()
    compiled = torch.compile(lambda x: layer(x).relu(), fullgraph=True, dynamic=True)
    for tokens in (2, 3, 70):
        x = torch.randn(tokens, 512, device="cuda").bfloat16()
        assert torch.equal(compiled(x), layer(x).relu())


@torch.no_grad()
def test_graphs_may_be_captured_and_replayed_in_any_order() -> None:
    layers = nn.Sequential(make(512, 512, 16), make(512, 512, 48), make(512, 512, 0)).cuda().eval()
    inputs, outputs, graphs = [], [], []
    for tokens in (1, 16, 64, 200):
        x = torch.randn(tokens, 512, device="cuda").bfloat16()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):  # no warm-up: the first use of a workspace happens here
            y = layers(x)
        inputs.append(x), outputs.append(y), graphs.append(graph)
    streams = [torch.cuda.Stream() for _ in graphs]
    for _ in range(20):
        for x in inputs:
            x.copy_(torch.randn_like(x))
        torch.cuda.synchronize()
        for graph, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
        torch.cuda.synchronize()
        assert all(same_bits(y, layers(x)) for x, y in zip(inputs, outputs, strict=True))


@torch.no_grad()
def test_streams_do_not_disturb_each_other() -> None:
    layer = make(1024, 1024, 64).cuda().eval()
    x = torch.randn(16, 1024, device="cuda").bfloat16()
    want = layer(x)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    found = []
    for _ in range(50):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(layer(x))
    torch.cuda.synchronize()
    assert all(same_bits(y, want) for y in found)
