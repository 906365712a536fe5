"""Recipe: defaults, YAML, overrides, ranks from a budget, and every refusal."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparlow.recipe import Recipe
from sparlow.solve import Damping


def test_defaults_are_two_four_plus_rank_sixty_four() -> None:
    plan = Recipe().resolve("model.layers.0.q_proj", 128, 256)
    assert (plan.method, plan.pattern, plan.rank, plan.damping) == ("threebasil", "2:4", 64, Damping())


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_methods_without_low_rank_default_to_rank_zero(method: str) -> None:
    assert Recipe(method=method).resolve("a", 8, 8).rank == 0


def test_budget_gives_the_rank_of_the_formula() -> None:
    plan = Recipe(budget=0.6, pattern="2:4").resolve("a", 576, 1536)
    assert plan.rank == int(0.1 * 576 * 1536 / (576 + 1536))


def test_budget_survives_binary_rounding() -> None:
    # (0.7 - 0.5) * 20 * 20 / 40 is 2, but 1.9999999999999996 in binary floating point.
    assert Recipe(budget=0.7).resolve("a", 20, 20).rank == 2


def test_first_matching_override_wins() -> None:
    recipe = Recipe.from_dict(
        {
            "rank": 8,
            "overrides": [
                {"match": "re:.*down_proj", "rank": 4, "damping": {"diagonal": 0.1}},
                {"match": "re:.*", "pattern": "0.5@row"},
            ],
        }
    )
    first, second = recipe.resolve("b.0.down_proj", 32, 32), recipe.resolve("b.0.q_proj", 32, 32)
    assert (first.rank, first.pattern, first.damping) == (4, "2:4", Damping(diagonal=0.1))
    assert (second.rank, second.pattern) == (8, "0.5@row")


def test_override_with_another_method_leaves_rank_and_options_behind() -> None:
    option = {"iterations": 5}
    recipe = Recipe.from_dict({"rank": 8, "options": option, "overrides": [{"match": "a", "method": "wanda"}]})
    assert (recipe.resolve("a", 32, 32).rank, recipe.resolve("a", 32, 32).options) == (0, {})
    assert recipe.resolve("b", 32, 32).options == option


def test_override_budget_replaces_the_rank() -> None:
    recipe = Recipe.from_dict({"rank": 8, "overrides": [{"match": "a", "budget": 0.75}]})
    assert recipe.resolve("a", 64, 64).rank == 8
    assert recipe.resolve("a", 128, 128).rank == 16


def test_yaml_round_trip(tmp_path: Path) -> None:
    recipe = Recipe.from_dict(
        {
            "method": "wanda",
            "pattern": "4:8",
            "exclude": ["re:.*o_proj"],
            "overrides": [{"match": "x", "pattern": "2:4"}],
        }
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    assert Recipe.from_yaml(path) == recipe


def test_yaml_numbers_people_write(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("pattern: 2:4\nrank: 16\ndamping: {diagonal: 1e-3, mean: .5}\n")
    recipe = Recipe.from_yaml(path)
    assert (recipe.pattern, recipe.rank, recipe.damping) == ("2:4", 16, Damping(0.001, 0.5))


def test_empty_yaml_is_the_default_recipe(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    assert Recipe.from_yaml(tmp_path / "recipe.yaml") == Recipe()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"metod": "wanda"}, "unknown key 'metod'; did you mean 'method'"),
        ({"calibration": {"window": 3}}, "calibration: unknown key 'window'; did you mean 'windows'"),
        ({"damping": {"diag": 0.1}}, "damping: unknown key 'diag'"),
        (
            {"overrides": [{"match": "a", "patern": "2:4"}]},
            "overrides.0: unknown key 'patern'; did you mean 'pattern'",
        ),
        ({"method": "threebasl"}, "unknown method 'threebasl'; did you mean 'threebasil'"),
        ({"overrides": [{"match": "a", "method": "wnda"}]}, "did you mean 'wanda'"),
        (
            {"options": {"iteration": 1}},
            "recipe: threebasil has no option 'iteration'; did you mean 'iterations'",
        ),
        ({"options": {"iterations": [3]}}, "options: option 'iterations' must be a number, true, false or a name"),
        ({"options": {"iterations": "yes"}}, "threebasil: option iterations = 'yes' is not a number"),
        (
            {"method": "hassle_free", "options": {"pruner": "alp"}},
            "hassle_free: option pruner = 'alp' is not one of sparsegpt, alps",
        ),
        ({"options": {"iterations": 1.5}}, "iterations = 1.5 is not a whole number"),
        ({"options": {"iterations": -1}}, "iterations = -1 is outside"),
        ({"pattern": "two of four"}, "two of four"),
        ({"overrides": [{"match": "a", "pattern": "5:4"}]}, "5:4"),
        ({"rank": 4, "budget": 0.6}, "both rank .4. and budget .0.6."),
        ({"rank": -1}, "rank: .*greater than or equal to 0"),
        ({"budget": 0.4}, "budget 0.4 is below the density 0.5 .*nearest feasible budget is 0.5, or"),
        ({"method": "wanda", "rank": 4}, "method 'wanda' has none"),
        ({"damping": {"mean": -1.0}}, "damping must be finite and >= 0"),
        ({"device": "gpu"}, "device 'gpu' is not"),
        ({"dtype": "int8"}, "dtype: .*bfloat16"),
        ({"include": ["re:(["]}, "not a valid regular expression"),
        ({"exclude": [""]}, "module pattern is empty"),
        ({"calibration": {"windows": 0}}, "calibration.windows: "),
    ],
)
def test_bad_recipes_say_what_is_wrong(data: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        Recipe.from_dict(data)
    assert "pydantic" not in str(caught.value)


def test_constructor_refuses_unknown_keys_too() -> None:
    with pytest.raises(ValueError, match="did you mean 'pattern'"):
        Recipe(patern="2:4")  # type: ignore[call-arg]


@pytest.mark.parametrize(("text", "message"), [("- a\n- b\n", "expected a mapping"), ("a: [", "not valid YAML")])
def test_bad_yaml_names_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        Recipe.from_yaml(path)
    assert "bad.yaml" in str(caught.value)


def test_rank_above_the_shape_names_the_layer() -> None:
    with pytest.raises(ValueError, match=r"layers\.3\.k_proj: rank 65 is larger than min.* = 64"):
        Recipe(rank=65).resolve("layers.3.k_proj", 64, 128)


def test_a_rank_that_vanishes_is_refused_with_the_budgets_around_it() -> None:
    message = r"q: budget 0\.51 leaves 82 values .* triplet \(192\).*budgets are 0\.5 without .* and 0\.5235"
    with pytest.raises(ValueError, match=message):
        Recipe(budget=0.51).resolve("q", 64, 128)
    assert Recipe(budget=0.5).resolve("q", 64, 128).rank == 0
    assert Recipe(budget=0.5235).resolve("q", 64, 128).rank == 1
    shared = Recipe.from_dict({"budget": 0.51, "allocation": {"strategy": "owl"}})
    assert shared.resolve("q", 64, 128).rank == 0  # other layers may use what this one cannot


def test_updated_validates() -> None:
    assert Recipe(rank=4).updated(rank=None, budget=0.6).budget == 0.6
    with pytest.raises(ValueError, match="did you mean 'seed'"):
        Recipe().updated(sede=1)


def test_a_published_recipe_keeps_the_folders_of_this_machine_to_itself() -> None:
    recipe = Recipe.from_dict({"calibration": {"source": "/private/text.txt"}})
    assert recipe.published()["calibration"]["source"] == "text.txt"
    relative = Recipe.from_dict({"calibration": {"source": "data/text.txt"}})
    assert relative.published()["calibration"]["source"] == "data/text.txt"
