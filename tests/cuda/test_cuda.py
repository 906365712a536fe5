"""The CUDA backend through the Python interface, against the CPU backend and against f64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import sparlow
from sparlow import _core
from sparlow.solve import Damping, backend_for, retarget

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no NVIDIA GPU"),
]


def layer(d_out: int, d_in: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    spectrum = torch.arange(1, d_in + 1).float().pow(-0.4)
    mixing = torch.randn(d_in, d_in, generator=random) / d_in**0.5
    x = (torch.randn(2 * d_in, d_in, generator=random) * spectrum) @ mixing
    x[:, :: max(1, d_in // 7)] *= 10
    return 0.02 * torch.randn(d_out, d_in, generator=random), x.T @ x


def loss_f64(w: Tensor, result: sparlow.Decomposition, gram: Tensor) -> float:
    w, gram = w.double().cpu(), gram.double().cpu()
    error = w - result.s.double().cpu() - result.u.double().cpu() @ result.v.double().cpu()
    if result.signed is not None:
        signs = torch.where(result.signed.signs.cpu(), 1.0, -1.0).double()
        error -= signs * (result.signed.u.double().cpu() @ result.signed.v.double().cpu())
    return float((error @ gram * error).sum() / (w @ gram * w).sum())


@pytest.mark.parametrize("method", [method.name for method in sparlow.methods()])
@pytest.mark.parametrize("pattern", ["2:4", "4:8", "0.5@row", "0.4@matrix"])
@pytest.mark.parametrize("shape", [(48, 64), (320, 512)])
def test_losses_match_the_cpu(method: str, pattern: str, shape: tuple[int, int]) -> None:
    w, gram = layer(*shape)
    info = sparlow.method_info(method)
    options = {"max_iterations": 60} if "max_iterations" in info.options else {}
    if {"iterations", "low_rank_steps"} <= set(info.options):  # every turn magnifies differences of rounding
        options["iterations"] = 6
    rank = 8 if info.low_rank else 0
    results = {}
    for device in ("cpu", "cuda"):
        found = sparlow.decompose(
            [w.to(device)], gram.to(device), method=method, pattern=pattern, ranks=[rank], options=options
        )[0]
        assert int((found.s != 0).sum()) <= sparlow.parse_pattern(pattern).kept(*shape)
        recomputed = loss_f64(w, found, gram)
        assert found.report.relative_loss == pytest.approx(recomputed, rel=1e-4)
        results[device] = recomputed
    # Supports differ in the end where rounding decides; on layers this small that moves the loss by a percent.
    assert results["cuda"] == pytest.approx(results["cpu"], rel=2e-2)


def test_same_bits_twice() -> None:
    w, gram = (x.cuda() for x in layer(512, 768))
    first, second = (
        sparlow.decompose([w[:300], w[300:]], gram, method="threebasil", pattern="2:4", ranks=[16, 5]) for _ in range(2)
    )
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a.s, b.s)
        assert torch.equal(a.u, b.u)
        assert torch.equal(a.v, b.v)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gram_matches_f64(dtype: torch.dtype) -> None:
    x = torch.randn(3, 700, 1288, generator=torch.Generator().manual_seed(1)).to(dtype)
    gram = sparlow.Gram(1288, device="cuda")
    for part in x:
        gram.add(part.cuda())
    rows = x.reshape(-1, 1288).double()
    expected = rows.T @ rows
    assert gram.tokens == 2100
    assert (gram.matrix().cpu() - expected).norm() <= 5e-6 * expected.norm()


def test_retargeted_weights_match_the_cpu() -> None:
    random = torch.Generator().manual_seed(4)
    x, w = torch.randn(2000, 320, generator=random), torch.randn(64, 320, generator=random)
    y = x + 0.3 * torch.randn(2000, 320, generator=random)
    arguments = y.T @ y, (x - y).T @ y
    (cpu,) = retarget([w], *arguments, damping=Damping(), share=0.7)
    (gpu,) = retarget([w.cuda()], *(a.cuda() for a in arguments), damping=Damping(), share=0.7)
    assert (cpu - w).norm() > 0.05 * w.norm()
    assert (gpu.cpu() - cpu).norm() < 1e-3 * (cpu - w).norm()


def test_work_is_ordered_with_the_current_stream() -> None:
    w, gram = (x.cuda() for x in layer(256, 256))
    expected = sparlow.decompose([w], gram, method="threebasil", pattern="2:4", ranks=[4])[0]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        stream.wait_stream(torch.cuda.default_stream())
        torch.cuda._sleep(50_000_000)
        late = w.clone().mul_(1)
        found = sparlow.decompose([late], gram, method="threebasil", pattern="2:4", ranks=[4])[0]
    torch.cuda.synchronize()
    assert torch.equal(found.s, expected.s)


def test_strided_weights_and_precisions() -> None:
    w, gram = (x.cuda() for x in layer(400, 512))
    backend = backend_for("cuda")
    losses = []
    try:
        for precision in ("f32", "tf32", "f16"):
            backend.set_precision(precision)
            found = sparlow.decompose([w], gram, method="threebasil", pattern="2:4", ranks=[16])[0]
            losses.append(found.report.relative_loss)
        with pytest.raises(ValueError, match="not f32, tf32 or f16"):
            backend.set_precision("fp8")
    finally:
        backend.set_precision("f16")
    assert losses[1:] == pytest.approx([losses[0]] * 2, rel=2e-2)


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(RuntimeError, match=r"cuda:99 does not exist; \d+ GPU"):
        _core.make_backend("cuda:99")
    gram = layer(8, 64)[1].cuda()
    gram[3, 5] = float("nan")
    with pytest.raises(ValueError, match="NaN or Inf"):
        sparlow.decompose([torch.ones(8, 64).cuda()], gram, method="threebasil", pattern="2:4", ranks=[0])


def test_out_of_memory_says_how_much_and_the_backend_survives() -> None:
    free, _ = torch.cuda.mem_get_info()
    hog = torch.empty(free - (700 << 20), dtype=torch.uint8, device="cuda")
    w, gram = torch.randn(4096, 4096, device="cuda"), torch.eye(4096, device="cuda")
    with pytest.raises(MemoryError, match=r"MiB requested, \d+ MiB of \d+ MiB free, .*high-water mark"):
        sparlow.decompose([w], gram, method="threebasil", pattern="2:4", ranks=[4])
    del hog
    torch.cuda.empty_cache()
    found = sparlow.decompose([w[:64]], gram, method="threebasil", pattern="2:4", ranks=[4])[0]
    assert torch.isfinite(found.s).all()
