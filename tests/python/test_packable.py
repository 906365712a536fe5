"""Packing of every format, with kernels that only pretend to be on a GPU."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from fake_kernels import FakeOps, fake_kernels

from sparlow.decomposition import Signed
from sparlow.layers import SparseLowRankLinear
from sparlow.packed import ALL_PARTS


@pytest.fixture
def ops() -> Iterator[FakeOps]:
    with fake_kernels() as found:
        yield found


def make(pattern: str, rank: int, sign_rank: int, bias: bool) -> SparseLowRankLinear:
    torch.manual_seed(rank + sign_rank)
    s = torch.randn(24, 40).reshape(24, 10, 4)
    s = s.masked_fill(s.argsort(-1).argsort(-1) < 2, 0).reshape(24, 40)
    u, v = torch.randn(24, rank), torch.randn(rank, 40)
    signed = Signed(torch.randn(24, 40) > 0, torch.randn(24, sign_rank), torch.randn(sign_rank, 40))
    b = torch.randn(24) if bias else None
    return SparseLowRankLinear.from_decomposition(
        s, u, v, b, pattern, torch.bfloat16, signed if sign_rank else None
    ).eval()


@pytest.mark.parametrize(("pattern", "rank", "sign_rank"), [("0.5@row", 3, 0), ("0.5@row", 0, 2), ("2:4", 3, 1)])
@torch.no_grad()
def test_bit_masks_run_packed_for_few_tokens(ops: FakeOps, pattern: str, rank: int, sign_rank: int) -> None:
    for bias in (False, True):
        layer = make(pattern, rank, sign_rank, bias)
        before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
        want = layer.dense_weight()
        layer.settle()
        assert layer.is_packed
        assert torch.equal(layer.dense_weight(), want)
        for tokens in (1, 32, 33):
            x = torch.randn(tokens, 40).bfloat16()
            y = torch.nn.functional.linear(x.float(), want, None if layer.bias is None else layer.bias.float())
            torch.testing.assert_close(layer(x).float(), y, rtol=2e-2, atol=0.15)
        assert ops.launches == [(ALL_PARTS, 1), (ALL_PARTS, 32)]
        ops.launches.clear()
        after = layer.train().state_dict()
        assert all(torch.equal(after[n].view(torch.uint8), t.view(torch.uint8)) for n, t in before.items())


def test_reasons_to_stay_unpacked(ops: FakeOps) -> None:
    del ops
    odd = SparseLowRankLinear.from_decomposition(torch.eye(6), None, None, None, "0.5@matrix", torch.bfloat16)
    assert odd.why_not_packed() == "kernels need d_in divisible by 4, not 6"
    assert make("2:4", 1, 0, False).float().why_not_packed() == (
        "kernels compute in bfloat16 and float16, not in torch.float32"
    )
    full = SparseLowRankLinear.from_decomposition(torch.ones(8, 8), None, None, None, "dense", torch.bfloat16)
    assert full.why_not_packed() == "format dense has no kernel yet"
