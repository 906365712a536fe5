"""Bad input to decompose() and Gram: refused with a message that names it, or handled and recorded."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from solve_helpers import dense, exact_loss

from sparlow import Damping, Gram, MethodInfo, decompose, method_info, methods, parse_pattern

every_method = pytest.mark.parametrize("method", methods(), ids=lambda method: method.name)
every_gram_method = pytest.mark.parametrize(
    "method", [method for method in methods() if method.needs_gram != "none"], ids=lambda method: method.name
)
every_full_method = pytest.mark.parametrize(
    "method", [method for method in methods() if method.needs_gram == "full"], ids=lambda method: method.name
)


def run(w: Any, gram: Any, method: str = "threebasil", pattern: str = "2:4", rank: int = 0, **more: Any) -> Any:
    return decompose([w], gram, method=method, pattern=pattern, ranks=[rank], names=["block.0.q_proj"], **more)[0]


@every_method
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_non_finite_weight_names_the_layer(layer: Any, method: MethodInfo, poison: float) -> None:
    layer.w[7, 11] = poison
    with pytest.raises(ValueError, match=r"block\.0\.q_proj: the weight contains NaN or Inf"):
        run(layer.w, layer.gram, method.name)


@every_method
@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_non_finite_gram_is_refused(layer: Any, method: MethodInfo, poison: float) -> None:
    gram = layer.gram
    gram[3, 5] = poison
    with pytest.raises(ValueError, match="Gram matrix contains NaN or Inf"):
        run(layer.w, gram, method.name)


def test_non_finite_activations_name_the_stream_and_the_count(layer: Any) -> None:
    layer.x[5, 3] = math.inf
    layer.x[6, 3] = math.nan
    gram = Gram(64, name="block.0.attention input")
    with pytest.raises(ValueError, match=r"block\.0\.attention input: 2 of 16384 input activations are NaN or Inf"):
        gram.add(layer.x)
    assert gram.tokens == 0
    assert torch.equal(gram.matrix(), torch.zeros(64, 64))


@pytest.mark.parametrize("x", [torch.zeros(4, 63), torch.zeros(4, 64, dtype=torch.int64), torch.zeros(64, 4)])
def test_activations_of_the_wrong_shape_or_type(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="stream: expected float32, bfloat16 or float16 activations with 64 features"):
        Gram(64, name="stream").add(x)


@every_gram_method
def test_zero_samples_and_zero_activations(layer: Any, method: MethodInfo) -> None:
    with pytest.raises(ValueError, match="stream: no calibration token reached this input"):
        run(layer.w, Gram(64, name="stream"), method.name)
    with pytest.raises(ValueError, match="the Gram matrix is zero"):
        run(layer.w, torch.zeros(64, 64), method.name)
    with pytest.raises(ValueError, match=f"{method.name} needs the Gram matrix"):
        run(layer.w, None, method.name)


@every_gram_method
def test_a_negative_diagonal_is_not_a_gram_matrix(layer: Any, method: MethodInfo) -> None:
    gram = layer.gram
    gram[9, 9] = -1
    with pytest.raises(ValueError, match=r"negative diagonal entry \(-1 at 9\)"):
        run(layer.w, gram, method.name)


@every_full_method
def test_an_indefinite_matrix_is_not_a_gram_matrix(layer: Any, method: MethodInfo) -> None:
    gram = torch.eye(64)
    gram[0, 1] = gram[1, 0] = 9
    with pytest.raises(ValueError, match=r"not x\^T x"):
        run(layer.w, gram, method.name)


@every_full_method
def test_dead_inputs_get_no_weights_and_are_counted(layer: Any, method: MethodInfo) -> None:
    dead = [0, 1, 2, 3, 17, 63]  # a whole group of four among them
    layer.x[:, dead] = 0
    result = run(layer.w, layer.gram, method.name, rank=4 if method.low_rank else 0)
    assert result.report.dead_columns == 6
    assert (dense(result)[:, dead] == 0).all()
    assert torch.isfinite(dense(result)).all()
    assert result.report.loss == pytest.approx(exact_loss(layer.w, dense(result), layer.gram), rel=1e-4)


@every_gram_method
def test_dead_inputs_never_take_the_place_of_live_ones(layer: Any, method: MethodInfo) -> None:
    layer.x[:, [1, 2]] = 0
    layer.w[:, [1, 2]] *= 100
    result = run(layer.w, layer.gram, method.name)
    assert (result.s[:, [0, 3]] != 0).all()
    assert result.report.dead_columns == 2


@every_full_method
def test_a_singular_gram_without_damping_is_damped_and_recorded(
    make_layer: Callable[..., Any], method: MethodInfo
) -> None:
    layer = make_layer(tokens=10)
    layer.x[:, 32:] = layer.x[:, :32]
    rank = 4 if method.low_rank else 0
    undamped = run(layer.w, layer.gram, method.name, rank=rank, damping=Damping(0, 0))
    assert torch.isfinite(dense(undamped)).all()
    assert 0 <= undamped.report.damping_used <= 0.1
    indefinite = torch.eye(64)
    indefinite[0, 1] = indefinite[1, 0] = 1.15  # lowest eigenvalue -0.15: rounding of real data is far smaller
    raised = run(layer.w, indefinite, method.name, damping=Damping(0, 0))
    assert 0 < raised.report.damping_used <= 1
    assert torch.isfinite(dense(raised)).all()


@every_full_method
def test_damping_is_used_as_asked_when_it_suffices(layer: Any, method: MethodInfo) -> None:
    assert run(layer.w, layer.gram, method.name).report.damping_used == pytest.approx(0.01)
    strong = run(layer.w, layer.gram, method.name, damping=Damping(0.1, 0.02))
    assert strong.report.damping_used == pytest.approx(0.12)


@pytest.mark.parametrize("damping", [Damping(-0.1, 0), Damping(0, -1), Damping(0.6, 0.6), Damping(math.nan, 0)])
def test_impossible_damping(layer: Any, damping: Damping) -> None:
    with pytest.raises(ValueError, match="damping coefficients"):
        run(layer.w, layer.gram, damping=damping)


@every_method
def test_shapes_that_do_not_fit(layer: Any, method: MethodInfo) -> None:
    with pytest.raises(ValueError, match=r"block\.0\.q_proj: d_in = 64 is not divisible by 12 \(pattern 5:12\)"):
        run(layer.w, layer.gram, method.name, pattern="5:12")
    with pytest.raises(ValueError, match=r"d_in = 62 but the Gram matrix is 64 x 64"):
        run(layer.w[:, :62], layer.gram, method.name, pattern="0.5@row")
    with pytest.raises(ValueError, match=r"block\.0\.q_proj: expected a matrix, got a tensor of shape \(48,\)"):
        run(layer.w[:, 0], layer.gram, method.name)
    with pytest.raises(ValueError, match=r"weight is empty"):
        run(layer.w[:0], layer.gram, method.name)
    with pytest.raises(ValueError, match=r"the Gram matrix has shape \(64,\); expected \[d_in, d_in\]"):
        run(layer.w, layer.gram[0], method.name)
    with pytest.raises(ValueError, match=r"the Gram matrix has shape \(32, 64\)"):
        run(layer.w, layer.gram[:32], method.name)


@every_method
@pytest.mark.parametrize("rank", [49, -1, 10**6])
def test_rank_out_of_range(layer: Any, method: MethodInfo, rank: int) -> None:
    with pytest.raises(ValueError, match=rf"block\.0\.q_proj: rank {rank} is outside \[0, 48\]"):
        run(layer.w, layer.gram, method.name, rank=rank)


@pytest.mark.parametrize("method", [m.name for m in methods() if not m.low_rank])
def test_rank_for_a_method_without_low_rank(layer: Any, method: str) -> None:
    with pytest.raises(ValueError, match=f"{method} has no low-rank part, yet rank 3"):
        run(layer.w, layer.gram, method, rank=3)


def test_counts_that_do_not_match(layer: Any) -> None:
    with pytest.raises(ValueError, match="1 weights, 2 ranks and 1 names do not match"):
        decompose([layer.w], layer.gram, method="wanda", pattern="2:4", ranks=[0, 0])
    with pytest.raises(ValueError, match="1 weights, 1 ranks and 2 names do not match"):
        decompose([layer.w], layer.gram, method="wanda", pattern="2:4", ranks=[0], names=["a", "b"])
    with pytest.raises(ValueError, match="0 weights, 0 ranks and 0 names do not match"):
        decompose([], layer.gram, method="wanda", pattern="2:4", ranks=[])


def test_unknown_names_suggest_the_nearest(layer: Any) -> None:
    with pytest.raises(ValueError, match="unknown method 'wonda'; did you mean 'wanda'"):
        run(layer.w, layer.gram, "wonda")
    with pytest.raises(ValueError, match="did you mean 'threebasil'"):
        method_info("3basil")
    with pytest.raises(ValueError, match="threebasil has no option 'iteration'; did you mean 'iterations'"):
        run(layer.w, layer.gram, options={"iteration": 3})
    with pytest.raises(ValueError, match="magnitude has no option 'rho'; it takes none"):
        run(layer.w, layer.gram, "magnitude", options={"rho": 3})
    with pytest.raises(ValueError, match="eora has no option 'prunes'; did you mean 'pruner'"):
        run(layer.w, layer.gram, "eora", options={"prunes": "alps"})
    with pytest.raises(ValueError, match="option pruner = 'oats' is not one of magnitude, wanda, sparsegpt, alps"):
        run(layer.w, layer.gram, "eora", options={"pruner": "oats"})
    with pytest.raises(ValueError, match="eora: option pruner = '2' is not one of"):
        run(layer.w, layer.gram, "eora", options={"pruner": 2})


@every_method
def test_option_values_out_of_range(layer: Any, method: MethodInfo) -> None:
    for name, option in method.options.items():
        if option.kind == "choice":
            continue
        for value in (option.low - 1, option.high * 2 + 1, math.nan, math.inf):
            with pytest.raises(ValueError, match=rf"option {name} = .* is outside"):
                run(layer.w, layer.gram, method.name, options={name: value})
        if option.kind == "integer":
            with pytest.raises(ValueError, match=rf"option {name} = .* is not a whole number"):
                run(layer.w, layer.gram, method.name, options={name: option.low + 0.5})


@pytest.mark.parametrize(
    "text", ["", "2", "4:4", "0:4", "2:4:8", "2:4@row", "2:4@0.5", "0.5", "1.5@row", "0.5@column", "half"]
)
def test_unknown_patterns_list_the_accepted_forms(layer: Any, text: str) -> None:
    with pytest.raises(ValueError, match=r"accepted forms: '2:4' .*, '0\.5@row', '0\.5@matrix', 'dense'"):
        parse_pattern(text)
    with pytest.raises(ValueError, match="accepted forms"):
        run(layer.w, layer.gram, pattern=text)


@every_method
def test_a_density_that_keeps_nothing(layer: Any, method: MethodInfo) -> None:
    with pytest.raises(ValueError, match=r"block\.0\.q_proj: 0\.001@row keeps none of 64 inputs"):
        run(layer.w, layer.gram, method.name, pattern="0.001@row")


LONG_SOLVE = """
import signal, sys, torch
from sparlow import decompose
signal.signal(signal.SIGINT, signal.default_int_handler)
w, x = torch.randn(256, 256), torch.randn(600, 256)
print("ready", flush=True)
try:
    decompose([w], x.T @ x, method="threebasil", pattern="2:4", ranks=[16], options={"iterations": 10000})
except KeyboardInterrupt:
    print("interrupted", flush=True)
    sys.exit(7)
"""


def test_ctrl_c_ends_a_long_solve() -> None:
    child = subprocess.Popen([sys.executable, "-c", LONG_SOLVE], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "ready\n"
    time.sleep(0.5)
    child.send_signal(signal.SIGINT)
    start = time.monotonic()
    output, _ = child.communicate(timeout=60)
    assert (output, child.returncode) == ("interrupted\n", 7)
    assert time.monotonic() - start < 20


class Alarm(Exception):
    pass


def test_an_exception_of_a_signal_handler_arrives_as_it_is(make_layer: Callable[..., Any]) -> None:
    layer = make_layer(128, 256, tokens=400)

    def ring(*_: object) -> None:
        raise Alarm

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, 0.3)
    try:
        with pytest.raises(Alarm):
            run(layer.w, layer.gram, options={"iterations": 10000})
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
