"""Sharing one budget among layers: the parts of the strategies, then each of them on a small model."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_helpers import tiny_model

import sparlow
from sparlow.allocation.groups import keep_best, split_by_method, split_by_rpca
from sparlow.allocation.knapsack import Option, choose, lower_hull
from sparlow.allocation.measure import lent_model, outlying_share
from sparlow.allocation.policy import Policy, project, start
from sparlow.allocation.ratios import shares_by_statistic, split
from sparlow.allocation.sensitivity import second_order_rises
from sparlow.allocation.slots import Slot, check_feasible
from sparlow.job import make_job
from sparlow.recipe import Recipe
from sparlow.recipe_rules import LayerPlan
from synthetic import build_layer

STRATEGIES = ["owl", "loss", "greedy", "score", "policy"]


def slot(
    d_out: int = 48, d_in: int = 64, pattern: str = "@matrix", fixed: float = 0, method: str = "threebasil"
) -> Slot:
    return Slot("q", 0, (d_out, d_in), LayerPlan(method), pattern, fixed, method != "wanda")


def recipe(strategy: str, **changes: Any) -> Recipe:
    options = changes.pop("allocation", {})
    data = {"method": "threebasil", "pattern": "@matrix", "budget": 0.7, **changes}
    data["calibration"] = {"windows": 8, "window_tokens": 32}
    return Recipe.from_dict(data | {"allocation": {"strategy": strategy, **options}})


def tokens() -> torch.Tensor:
    return torch.randint(3, 60, (8 * 32,), generator=torch.Generator().manual_seed(0))


# Costs and shares ------------------------------------------------------------------------------------------------


def test_what_a_decision_costs() -> None:
    assert slot(fixed=10).cost(slot(fixed=10).decided(100.7, 3)) == 10 + 100 + 3 * 112
    assert slot(pattern="@row").decided(200, 0).pattern == "0.0625@row"  # 4 of 64 in each of 48 rows, 8 left over
    assert slot(pattern="2:4").decided(1e9, 5).pattern == "2:4"
    assert slot().decided(1e9, 0).pattern == "dense"
    assert (slot(pattern="2:4").least, slot(pattern="2:4").most) == (1536, 1536 + 48 * 112)
    assert (slot().least, slot(pattern="@row").least, slot(fixed=7).most) == (1, 48, 7 + 3072)


def test_infeasible_budgets_name_the_nearest_feasible_one() -> None:
    slots = [slot(pattern="2:4", fixed=192), slot(96, 64, "2:4", 384)]
    with pytest.raises(ValueError, match=r"need 0\.5625 of their values, the budget is 0\.55; the nearest .* 0\.5625$"):
        check_feasible(slots, 0.55)
    assert check_feasible(slots, 0.5625) == 0.5625 * 144 * 64
    with pytest.raises(ValueError, match=r"at most 0\.5000 .* the budget is 0\.9; the nearest feasible budget is 0\.5"):
        check_feasible([slot(pattern="2:4", method="wanda")], 0.9)


@pytest.mark.parametrize("pattern", ["@matrix", "2:4"])
def test_shares_follow_the_statistic_and_keep_the_total(pattern: str) -> None:
    slots = [slot(48 + 16 * i, 64, pattern) for i in range(6)]
    statistics, total = [3.0, 1.0, 2.0, 8.0, 1.0, 5.0], check_feasible(slots, 0.75)
    values = shares_by_statistic(slots, statistics, total, 0.08)
    assert sum(values) == pytest.approx(total, rel=1e-9)
    shares = [value / x.size for value, x in zip(values, slots, strict=True)]
    assert max(shares) - min(shares) == pytest.approx(0.16)
    ranked = sorted(range(6), key=statistics.__getitem__)
    assert [shares[i] for i in ranked] == sorted(shares)
    assert shares_by_statistic(slots, [1.0] * 6, total, 0.08) == pytest.approx([0.75 * x.size for x in slots])


def test_a_layer_at_its_limit_leaves_its_share_to_the_others() -> None:
    slots = [slot(pattern="2:4") for _ in range(4)]
    total = check_feasible(slots, 0.52)
    values = shares_by_statistic(slots, [0.0, 1.0, 2.0, 3.0], total, 0.3)
    assert values[0] == slots[0].least
    assert sum(values) == pytest.approx(total, rel=1e-9)
    assert values == sorted(values)


def test_split_between_rank_and_density() -> None:
    plan = split(slot(fixed=100), 1700, 0.25)
    assert (plan.rank, plan.pattern) == (3, f"{(1600 - 336) / 3072:.12g}@matrix")
    assert split(slot(pattern="2:4"), 1536 + 5.9 * 112, 0.25).rank == 5
    assert split(slot(method="wanda"), 1500, 0.25).rank == 0
    with pytest.raises(
        ValueError, match=r"q: allocation.low_rank 0.05 .* rank vanishes; raise low_rank to at least 0.0700"
    ):
        split(slot(), 1600, 0.05)


# Greedy ----------------------------------------------------------------------------------------------------------


def menus(seed: int, layers: int = 4, options: int = 5) -> list[list[Option]]:
    random = torch.Generator().manual_seed(seed)
    return [
        [Option(LayerPlan("wanda"), *torch.rand(2, generator=random).tolist()) for _ in range(options)]
        for _ in range(layers)
    ]


@pytest.mark.parametrize("seed", range(20))
def test_choose_is_within_one_upgrade_of_the_optimum(seed: int) -> None:
    found = menus(seed)
    cheapest = sum(lower_hull(menu)[0].cost for menu in found)
    for total in (cheapest, cheapest + 0.3, cheapest + 1, 100.0):
        chosen = choose(found, total)
        assert sum(option.cost for option in chosen) <= total + 1e-12
        fits = [c for c in itertools.product(*found) if sum(o.cost for o in c) <= total + 1e-12]
        best = min(sum(option.loss for option in c) for c in fits)
        largest = max(a.loss - b.loss for menu in found for a, b in itertools.pairwise([*lower_hull(menu)] * 2))
        assert sum(option.loss for option in chosen) <= best + max(largest, 0)
    assert sum(o.loss for o in choose(found, 100.0)) == pytest.approx(sum(min(o.loss for o in m) for m in found))


def test_the_hull_is_convex_and_below_every_option() -> None:
    for menu in menus(3, layers=10, options=9):
        hull = lower_hull(menu)
        slopes = [(a.loss - b.loss) / (b.cost - a.cost) for a, b in itertools.pairwise(hull)]
        assert slopes == sorted(slopes, reverse=True)
        assert all(slope > 0 for slope in slopes)
        assert hull[-1].loss == min(option.loss for option in menu)


def test_outlying_share() -> None:
    w, gram = torch.ones(10, 10), torch.eye(10)
    w[0, :2] = 30
    assert outlying_share([(w, gram)], 5) == pytest.approx(0.02)
    assert outlying_share([(w, gram), (torch.ones(10, 10), gram)], 5) == pytest.approx(0.01)
    assert outlying_share([(torch.ones(10, 10), torch.diag(torch.tensor([900.0] + [1.0] * 9)))], 5) == pytest.approx(
        0.1
    )


# Groups and policy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bins", [1, 7, 500])
def test_groups_are_the_whole_of_both_parts(bins: int) -> None:
    layer = build_layer()
    found = split_by_rpca(slot(), layer.w, layer.gram, bins)
    everything = torch.ones(len(found.costs), dtype=torch.bool)
    torch.testing.assert_close(found.dense(everything), found.s + found.u @ found.v)
    assert not found.dense(~everything).any()
    assert (len(found.triplets) <= bins, len(found.entries) <= min(bins, 255)) == (True, True)
    low, high = found.scores[: len(found.triplets)], found.scores[len(found.triplets) :]
    for part in (low, high):
        assert torch.equal(part, part.sort(descending=True).values)
    plan = found.plan(everything)
    assert (plan.rank, found.slot.cost(plan)) == (found.u.shape[1], int(found.costs.sum()))
    first = torch.zeros_like(everything)
    first[len(found.triplets)] = True
    kept = found.dense(first) != 0
    assert int(kept.sum()) == found.entries[0]
    value = found.s.square() * layer.gram.diagonal()
    assert value[kept].min() >= value[~kept & (found.s != 0)].max() if found.entries[0] < kept.sum() else True


def test_groups_of_a_given_pattern_are_triplets_of_the_method() -> None:
    layer = build_layer()
    solved = sparlow.decompose([layer.w], layer.gram, method="threebasil", pattern="2:4", ranks=[8])[0]
    fixed = slot(pattern="2:4")
    found = split_by_method(fixed, solved.s, solved.u, solved.v, layer.w, layer.gram, 4)
    assert (found.triplets, found.entries, found.base) == ([2, 2, 2, 2], [], 1536)
    half = torch.tensor([True, True, False, False])
    torch.testing.assert_close(found.dense(half), solved.s + solved.u[:, :4] @ solved.v[:4])
    assert (found.plan(half).pattern, found.plan(half).rank) == ("2:4", 4)


def test_a_layer_of_zeros_has_no_groups() -> None:
    found = split_by_rpca(slot(), torch.zeros(48, 64), torch.eye(64), 4)
    nothing = torch.zeros(0, dtype=torch.bool)
    assert (found.triplets, found.entries, len(found.scores)) == ([], [], 0)
    assert not found.dense(nothing).any()
    assert (found.plan(nothing).rank, found.plan(nothing).pattern) == (0, f"{1 / 3072:.12g}@matrix")


def test_keep_best_skips_what_does_not_fit() -> None:
    costs = torch.tensor([5.0, 4.0, 3.0, 1.0])
    assert keep_best([0, 1, 2, 3], costs, 9.5).tolist() == [True, True, False, False]
    assert keep_best([2, 0, 1, 3], costs, 5.0).tolist() == [False, False, True, True]


def test_projection_meets_the_budget_and_keeps_probabilities_away_from_0_and_1() -> None:
    random = torch.Generator().manual_seed(0)
    p, costs = torch.rand(200, generator=random).double() * 1.4 - 0.2, 10 ** torch.rand(200, generator=random).double()
    full = float((costs * p.clamp(0.05, 0.95)).sum())
    assert torch.equal(project(p, costs, full + 1, 0.05), p.clamp(0.05, 0.95))
    for budget in (0.9 * full, 0.5 * full):
        q = project(p, costs, budget, 0.05)
        assert float((costs * q).sum()) == pytest.approx(budget, rel=1e-6)
        assert float(q.min()) >= 0.05
        assert float(q.max()) <= 0.95
    assert torch.equal(project(p, costs, 0.0, 0.05), torch.full_like(p, 0.05))
    begun = start(p.clamp(min=0), costs, 0.5 * full, 0.05)
    assert float((costs * begun).sum()) == pytest.approx(0.5 * full, rel=1e-6)


@pytest.mark.parametrize("paired", [False, True])
def test_the_policy_learns_which_groups_the_loss_needs(paired: bool) -> None:
    """Equal costs, equal start; half of the groups matter, and every batch has its own offset."""
    random = torch.Generator().manual_seed(1)
    matters, costs = torch.arange(20) % 2 == 0, torch.ones(20, dtype=torch.float64)
    policy = Policy(torch.full((20,), 0.5, dtype=torch.float64), costs, 10.0, 0.02, 0.05, 5)
    for _ in range(300):
        mask, offset = policy.sample(random), float(torch.randn(1, generator=random)) * (1 if paired else 0.1)
        value = offset + float((matters & ~mask).sum())
        if paired:
            kept = keep_best(policy.probabilities.argsort(descending=True).tolist(), costs, 10.0)
            value -= offset + float((matters & ~kept).sum())
        policy.learn(mask, value)
        assert float((costs * policy.probabilities).sum()) <= 10 + 1e-6
    assert policy.probabilities[matters].mean() > policy.probabilities[~matters].mean() + 0.4


def test_one_policy_step_is_that_of_the_formula() -> None:
    """s -= eta (l - baseline) (m - s) / (s (1 - s)), the baseline a mean of the last losses."""
    costs = torch.ones(4, dtype=torch.float64)
    first = torch.tensor([0.2, 0.4, 0.6, 0.8], dtype=torch.float64)
    policy = Policy(first, costs, 4.0, 0.05, 0.01, 2)
    masks = [torch.tensor(bits).bool() for bits in ([1, 0, 1, 0], [0, 0, 1, 1], [1, 1, 0, 0], [0, 1, 0, 1])]
    s, seen = first.numpy().copy(), []
    for mask, loss in zip(masks, [3.0, 3.5, 2.0, 2.5], strict=True):
        policy.learn(mask, loss)
        if seen:
            score = (mask.numpy() - s) / (s * (1 - s))
            s = (s - 0.05 * (loss - np.mean(seen[-2:])) * score).clip(0.01, 0.99)
        seen.append(loss)
        np.testing.assert_allclose(policy.probabilities.numpy(), s, rtol=1e-4)


def test_a_calibration_that_teaches_nothing_is_refused() -> None:
    chosen = recipe("policy", allocation={"passes": 1}).updated(
        calibration={"windows": 4, "window_tokens": 32, "batch": 4}
    )
    with pytest.raises(ValueError, match="4 calibration windows in batches of 4 and 1 pass give one loss"):
        sparlow.compress(tiny_model(), chosen, tokens=tokens())


def test_the_estimate_counts_what_an_allocation_holds() -> None:
    model = tiny_model()
    without = sparlow.plan(model, recipe("owl")).peak_bytes
    assert sparlow.plan(model, recipe("policy")).peak_bytes >= without + 9 * 16_896


def test_rises_are_half_the_squared_directional_gradients() -> None:
    """Against gradients of the layers' outputs that autograd keeps, on the same windows."""
    model = tiny_model(dtype=torch.float32)
    job = make_job(model, recipe("greedy"))
    random = torch.Generator().manual_seed(5)
    names = [layer.layer.name for layer in job.layers]
    errors = {n: 0.1 * torch.randn(model.get_submodule(n).weight.shape, generator=random) for n in names}
    ids = tokens().reshape(8, 32)
    with lent_model(model, job, recipe("greedy")) as loss:
        found = second_order_rises(loss, errors, ids)
        doubled = second_order_rises(loss, {n: 2 * e for n, e in errors.items()}, ids)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    for name in names:
        model.get_submodule(name).register_forward_hook(lambda *call, n=name: seen.update({n: (call[1][0], call[2])}))
    wanted = dict.fromkeys(names, 0.0)
    for window in ids:
        logits = model(input_ids=window[None]).logits[0, :-1]
        total = torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum")
        gradients = torch.autograd.grad(total, [seen[name][1] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            moved = seen[name][0] @ errors[name].T
            wanted[name] += float((gradient * moved).sum(-1).square().sum()) / 2 / ids[:, 1:].numel()
    for name in names:
        assert found[name] == pytest.approx(wanted[name], rel=1e-3)
        assert doubled[name] == pytest.approx(4 * found[name], rel=1e-3)


def test_a_selection_may_decide_how_much_and_not_what() -> None:
    """low_rank divides what each layer was given; null keeps ranks and entries as selected."""
    shares = {}
    for low_rank in (0.25, None):
        chosen = recipe("score", allocation={"low_rank": low_rank})
        done = sparlow.compress(tiny_model(dtype=torch.float32), chosen, tokens=tokens())
        sizes = [(r.rank * (r.d_out + r.d_in), r.density * r.d_out * r.d_in) for r in done.layers if r.density < 1]
        shares[low_rank] = [low / (low + sparse) for low, sparse in sizes]
    assert all(share <= 0.2501 for share in shares[0.25])
    assert max(shares[None]) > 0.3


# Recipes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"budget": None}, "pattern '@matrix' leaves the density to the budget, but there is none"),
        ({"budget": None, "pattern": "2:4"}, "allocation shares out the budget of the whole model; give budget"),
        ({"rank": 8}, "allocation decides the ranks, but rank 8 is given too"),
        ({"pattern": "2:4", "allocation": {"strategy": "owl", "low_rank": 0.3}}, "low_rank has nothing to share out"),
        ({"method": "wanda", "pattern": "2:4"}, "asks for a low-rank part, but method 'wanda' has none"),
        (
            {"method": "wanda", "allocation": {"strategy": "policy"}},
            "'policy' selects singular triplets, but method 'w",
        ),
        ({"allocation": {"strategy": "policy", "floor": 0.0}}, "floor is 0.0: probabilities of 0 and 1"),
        ({"allocation": {"strategy": "owl", "bins": 4}}, "'bins' is not read by strategy 'owl', only by score, policy"),
        ({"allocation": {"strategy": "owl", "low_rank": None}}, "'owl' selects no ranks: give low_rank a number"),
        ({"allocation": {"strategi": "owl"}}, "unknown key 'strategi'; did you mean 'strategy'"),
    ],
)
def test_recipes_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    data = {"method": "threebasil", "pattern": "@matrix", "budget": 0.7, "allocation": {"strategy": "owl"}} | changes
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(data)


def test_an_override_may_not_decide_what_the_allocation_does() -> None:
    with pytest.raises(ValueError, match="the override for 'q' gives rank or budget, but allocation decides them"):
        recipe("owl", overrides=[{"match": "q", "rank": 3}])
    assert recipe("owl", overrides=[{"match": "q", "method": "slab_joint"}]).overrides


def test_an_allocation_survives_yaml(tmp_path: Any) -> None:
    made = recipe("policy", allocation={"bins": 4})
    path = tmp_path / "recipe.yaml"
    path.write_text(made.to_yaml())
    assert Recipe.from_yaml(path) == made


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    ("method", "pattern", "budget"),
    [("threebasil", "@matrix", 0.7), ("threebasil", "2:4", 0.8), ("slab_joint", "@row", 0.75), ("cap", "@matrix", 0.6)],
)
def test_every_strategy_stays_within_the_budget(strategy: str, method: str, pattern: str, budget: float) -> None:
    chosen = recipe(strategy, method=method, pattern=pattern, budget=budget, allocation={"count": "bytes"})
    model = tiny_model(dtype=torch.float32)
    done = sparlow.compress(model, chosen, tokens=tokens())
    stored = sum(record.stored_bytes for record in done.layers) / sum(record.dense_bytes for record in done.layers)
    assert 0.9 * budget <= stored <= budget
    assert len({(record.rank, round(record.density, 3)) for record in done.layers}) > 1
    again = sparlow.compress(tiny_model(dtype=torch.float32), chosen, tokens=tokens())
    assert [(r.pattern, r.rank) for r in again.layers] == [(r.pattern, r.rank) for r in done.layers]


@pytest.mark.parametrize("strategy", ["greedy", "policy"])
def test_measuring_leaves_the_model_alone(strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(dtype=torch.float32)
    before = {name: value.clone() for name, value in model.state_dict().items()}

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparlow.api.traverse", stop)
    with pytest.raises(KeyboardInterrupt):
        sparlow.compress(model, recipe(strategy), tokens=tokens())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layers_may_stay_dense_beside_two_of_four() -> None:
    chosen = recipe("greedy", pattern="2:4", budget=0.85, allocation={"dense": True, "weight": "equal"})
    done = sparlow.compress(tiny_model(), chosen, tokens=tokens())
    formats = {record.format for record in done.layers}
    assert formats == {"nm24", "dense"}
    dense = [record for record in done.layers if record.format == "dense"]
    assert all((record.rank, record.density, record.relative_loss) == (0, 1, 0) for record in dense)


def test_a_dry_run_of_an_allocation_shows_equal_shares() -> None:
    shown = sparlow.plan(tiny_model(), recipe("policy"))
    assert len(shown.layers) == 14
    assert any("allocation" in note for note in shown.notes)


def test_allocation_without_calibration_is_refused() -> None:
    with pytest.raises(ValueError, match=r"allocation .* needs calibration data"):
        sparlow.compress(tiny_model(), recipe("score", method="cap"))
