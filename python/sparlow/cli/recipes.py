"""A recipe from a file and the flags that override it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from sparlow.recipe import Recipe
from sparlow.solve import method_info


def build_recipe(file: Path | None, flags: Mapping[str, Any], calibration: Mapping[str, Any]) -> Recipe:
    """The recipe of `file` (default: the defaults) with every flag that is not None in the place of its field.

    A rank replaces a budget and the other way round; another method drops the options, and the low-rank part if it has
    none. `options` and `matching_options` are "name=value" texts; the latter switch matching on. Errors as of
    `Recipe.from_yaml`.
    """
    no_low_rank: dict[str, Any] = {"rank": None, "budget": None}
    recipe = Recipe() if file is None else Recipe.from_yaml(file)
    changes = {name: value for name, value in flags.items() if value is not None and value != []}
    if "rank" in changes or "budget" in changes:
        changes = no_low_rank | changes
    options = parse_options(changes.pop("options", []), "--option")
    if (matching := _matching(recipe, changes.pop("matching", None), changes.pop("matching_options", []))) is not None:
        changes["matching"] = matching
    method = changes.get("method", recipe.method)
    if method != recipe.method and not method_info(method).low_rank:
        changes = no_low_rank | changes
    kept = recipe.options if method == recipe.method else {}
    changes["options"] = {**kept, **options}
    given = {name: value for name, value in calibration.items() if value is not None}
    changes["calibration"] = {**recipe.calibration.model_dump(), **given}
    return recipe.updated(**changes)


def _matching(recipe: Recipe, wanted: bool | None, texts: Sequence[str]) -> dict[str, Any] | bool | None:
    """What replaces the recipe's matching section, None for nothing."""
    settings = parse_options(texts, "--matching-option")
    if wanted is False:
        if settings:
            raise ValueError("--no-matching and --matching-option contradict each other; leave one out")
        return False
    if wanted is None and not settings:
        return None
    return {**({} if recipe.matching is None else recipe.matching.model_dump()), **settings}


def parse_options(texts: Sequence[str], flag: str) -> dict[str, Any]:
    """{"iterations": 50} of ["iterations=50"]; values are read as YAML scalars. ValueError for a text without '='."""
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise ValueError(f"{flag} {text!r} is not of the form name=value")
        options[name.strip()] = yaml.safe_load(value)
    return options
