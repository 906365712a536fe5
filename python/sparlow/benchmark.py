"""How fast compressed linear layers run, against dense ones of the same shapes in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from sparlow import formats, host, packed
from sparlow.layers import SparseLowRankLinear
from sparlow.spec import LayerSpec

# Enough to push earlier weights out of the caches: eight times the L2 of an H100, several times the L3 of a CPU.
COLD_BYTES = {"cuda": 400e6, "cpu": 300e6}
_LEGAL = [n for n in range(16) if n & 3 < n >> 2]
_REPLAYS = 11
_ENOUGH_US = 2000  # of replays one after the other, so that the clock is that of work


@dataclass(frozen=True)
class Timing:
    """One number of tokens through all layers: microseconds a pass, dense and compressed, and which kernels ran."""

    tokens: int
    dense_us: float
    compressed_us: float
    kernels: tuple[str, ...]

    @property
    def ratio(self) -> float:
        """Dense time over compressed time: above 1 is faster than dense."""
        return self.dense_us / self.compressed_us

    def divided(self, passes: int) -> Timing:
        """Of one of `passes` equal parts."""
        return replace(self, dense_us=self.dense_us / passes, compressed_us=self.compressed_us / passes)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ratio": self.ratio}


def random_layer(
    d_out: int,
    d_in: int,
    rank: int,
    dtype: torch.dtype,
    device: torch.device | str,
    format: str = "nm24",
    sign_rank: int = 0,
) -> SparseLowRankLinear:
    """A layer of random numbers without bias, in evaluation mode, made on `device`; a bitmap keeps half."""
    meta = _random_meta(format, d_out, d_in, device)
    nnz = int(formats.bitmap_mask(meta, d_in).sum()) if format == "bitmap" else None
    pattern = "2:4" if format == "nm24" else "0.5@matrix"
    spec = LayerSpec(format, pattern, rank, d_out, d_in, nnz, sign_rank)
    layer = SparseLowRankLinear(spec, False, dtype, device)
    with torch.no_grad():
        assert layer.weight_meta is not None
        layer.weight_meta.copy_(meta)
        layer.weight_packed.normal_(std=d_in**-0.5)
        layer.low_rank_u.normal_()
        layer.low_rank_v.normal_(std=0.3 * (max(rank, 1) * d_in) ** -0.5)
        if sign_rank:
            layer.sign_bits.copy_(_random_meta("bitmap", d_out, d_in, device))
            layer.sign_u.normal_()
            layer.sign_v.normal_(std=0.3 * (sign_rank * d_in) ** -0.5)
    layer.eval()
    return layer


def _random_meta(format: str, d_out: int, d_in: int, device: torch.device | str) -> Tensor:
    legal = [low | high << 4 for low in _LEGAL for high in _LEGAL] if format == "nm24" else range(256)
    table = torch.tensor(list(legal), dtype=torch.uint8, device=device)
    meta = table[torch.randint(len(table), (d_out, (d_in + 7) // 8), device=device)]
    if d_in % 8:
        meta[:, -1] &= (1 << d_in % 8) - 1
    return meta


def copies_of(d_out: int, d_in: int, dtype: torch.dtype, device: torch.device) -> int:
    """Layers of this shape that must take turns so that weights come from memory and not from a cache."""
    compressed = 0.56 * d_out * d_in * dtype.itemsize
    return max(2, int(COLD_BYTES.get(device.type, 300e6) / compressed) + 1)


def compare(
    layers: Sequence[SparseLowRankLinear], tokens: Sequence[int], advance: Callable[[], None] = lambda: None
) -> list[Timing]:
    """Times one pass through `layers`, one after another, and through their dense counterparts.

    On a GPU passes are CUDA graphs; else calls. Medians. ValueError without layers or with tokens below 1.
    """
    if not layers or min(tokens, default=0) < 1:
        raise ValueError(f"nothing to measure: {len(layers)} layers, tokens {list(tokens)}")
    with torch.no_grad():
        dense = [layer.dense_weight().to(layer.weight.dtype) for layer in layers]
        rows = []
        for count in tokens:
            rows.append(_compare(layers, dense, count))
            advance()
    return rows


def _compare(layers: Sequence[SparseLowRankLinear], dense: Sequence[Tensor], tokens: int) -> Timing:
    weight = layers[0].weight
    inputs = {
        layer.in_features: torch.randn(tokens, layer.in_features, device=weight.device).to(weight.dtype)
        for layer in layers
    }

    def run_dense() -> None:
        for layer, w in zip(layers, dense, strict=True):
            functional.linear(inputs[layer.in_features], w, layer.bias)

    def run_compressed() -> None:
        for layer in layers:
            _run_as_in_a_model(layer, inputs[layer.in_features])

    kernels = tuple(sorted({kernel_of(layer, tokens) for layer in layers}))
    dense_us, compressed_us = (
        statistics.median(times) for times in alternating([run_dense, run_compressed], weight.device)
    )
    return Timing(tokens, dense_us, compressed_us, kernels)


def _run_as_in_a_model(layer: SparseLowRankLinear, x: Tensor) -> None:
    """Layers of a stack follow one another: the first starts what the module around them would start."""
    stack = layer.stack
    if stack is not None and layer is stack.members[0]:
        stack.enter()
    layer(x)
    if stack is not None and layer is stack.members[-1]:
        stack.leave()


def kernel_of(layer: SparseLowRankLinear, tokens: int) -> str:
    """The kernel that runs `tokens` tokens, or what happens without one."""
    spec = layer.spec
    if why_not_packed(layer) is None and not layer.is_packed:
        return "rows" if tokens <= host.most_tokens(spec.d_out, spec.d_in, layer.weight.dtype) else "unpack + dense"
    if not layer.is_packed:
        return "unpack + dense"
    shape = packed.Shape.of(spec) if layer.stack is None else layer.stack.shape
    return packed.kernel_name(shape, layer.weight.dtype, tokens, layer.weight.device)


def why_not_packed(layer: SparseLowRankLinear) -> str | None:
    """Why a layer is unpacked to dense in every pass; None if it runs as it is, on the CPU for few tokens."""
    on_host = layer.format != "dense" and layer.weight.device.type == "cpu" and layer.sign_rank == 0
    if layer.is_packed or on_host:
        return None
    return layer.why_not_packed()


def alternating(
    runs: Sequence[Callable[[], object]], device: torch.device, replays: int = _REPLAYS
) -> list[list[float]]:
    """Microseconds of each of `runs`, `replays` each, by turns. On a GPU they only enqueue work and become graphs.

    So all meet the same clock, which power and heat change by a fifth within milliseconds. Turns go forth and back, as
    each also meets the clock that the one before it left.
    """
    timers = [_graph_timer(run, device) if device.type == "cuda" else _call_timer(run) for run in runs]
    for timer in timers * 2:
        timer()
    times: list[list[float]] = [[] for _ in timers]
    for i in range(replays):
        for turn in range(len(timers)) if i % 2 == 0 else reversed(range(len(timers))):
            times[turn].append(timers[turn]())
    return times


def _call_timer(run: Callable[[], object]) -> Callable[[], float]:
    def timer() -> float:
        start = time.perf_counter()
        run()
        return 1e6 * (time.perf_counter() - start)

    return timer


def _graph_timer(run: Callable[[], object], device: torch.device) -> Callable[[], float]:
    stream: Any = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.stream(stream):
        run()
        stream.synchronize()
        with torch.cuda.graph(graph, stream=stream):
            run()

    def replay(times: int) -> float:
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            start.record(stream)
            for _ in range(times):
                graph.replay()
            stop.record(stream)
        stop.synchronize()
        return 1e3 * float(start.elapsed_time(stop)) / times

    enough = max(1, round(_ENOUGH_US / max(replay(1), 1)))
    return partial(replay, enough)


@dataclass(frozen=True)
class Loading:
    """Bytes on a GPU while a model was loaded: the most there were, what stayed, and the same model dense."""

    peak_bytes: int
    held_bytes: int
    dense_bytes: int


def measure_loading(load: Callable[[], nn.Module], device: torch.device) -> tuple[nn.Module, Loading]:
    """Load a model onto a GPU where nothing else is allocated meanwhile."""
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    model = load()
    torch.cuda.synchronize(device)
    peak, held = torch.cuda.max_memory_allocated(device) - before, torch.cuda.memory_allocated(device) - before
    packed_bytes, dense_bytes = weight_bytes(model)
    return model, Loading(peak, held, held - packed_bytes + dense_bytes)


def weight_bytes(model: nn.Module) -> tuple[int, int]:
    """(as they lie in memory, as dense weights of the same dtype) of all compressed layers."""
    held = dense = 0
    for layer in model.modules():
        if isinstance(layer, SparseLowRankLinear):
            held += sum(p.numel() * p.element_size() for name, p in layer.named_parameters() if name != "bias")
            dense += layer.in_features * layer.out_features * layer.weight.element_size()
    return held, dense
