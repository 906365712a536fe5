"""Recipe: everything that decides how a model is compressed, validated before any work starts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from .allocation.settings import Allocation
from .matching.settings import Matching
from .naming import check_pattern, matches, suggest
from .recipe_rules import Choice, LayerPlan, check_allocation, check_choice, check_low_rank
from .solve import Damping, OptionValue
from .strict import Strict
from .yaml_reader import read_yaml_mapping


def _damping_keys(value: Any) -> Any:
    if isinstance(value, Mapping):
        known = [entry.name for entry in fields(Damping)]
        for key in value:
            if key not in known:
                raise ValueError(f"unknown key '{key}' in damping{suggest(str(key), known)}")
    return value


def _damping_range(value: Damping) -> Damping:
    if not all(math.isfinite(x) and x >= 0 for x in (value.diagonal, value.mean)):
        raise ValueError(f"damping must be finite and >= 0, got diagonal={value.diagonal}, mean={value.mean}")
    return value


def _plain_options(value: Any) -> Any:
    if isinstance(value, Mapping):
        for name, setting in value.items():
            if not isinstance(setting, bool | int | float | str):
                raise ValueError(f"option '{name}' must be a number, true, false or a name, got {setting!r}")
    return value


def _switch(value: Any) -> Any:
    """`matching: true` means its defaults."""
    return ({} if value else None) if isinstance(value, bool) else value


ModulePattern = Annotated[str, AfterValidator(check_pattern)]
CheckedDamping = Annotated[Damping, BeforeValidator(_damping_keys), AfterValidator(_damping_range)]
Options = Annotated[dict[str, OptionValue], BeforeValidator(_plain_options)]
Rank = Annotated[int, Field(ge=0)]
Budget = Annotated[float, Field(gt=0, le=1)]


class Calibration(Strict):
    """Where the calibration tokens come from and how many are used.

    source: a .txt or .jsonl file, a token tensor (.pt, .npy, .safetensors), or the name of a `datasets`
    data set.
    field: the text field of a jsonl record or data set row, "messages" for chats (default: "text").
    windows, window_tokens: number and length of the packed windows; batch: windows per forward pass.
    """

    source: str | None = None
    field: str | None = None
    windows: int = Field(default=128, ge=1)
    window_tokens: int = Field(default=2048, ge=1)
    batch: int = Field(default=4, ge=1)


class Override(Strict):
    """Settings for the layers that `match`; whatever is not given is inherited from the recipe."""

    match: ModulePattern
    method: str | None = None
    options: Options | None = None
    pattern: str | None = None
    rank: Rank | None = None
    budget: Budget | None = None
    damping: CheckedDamping | None = None


class Recipe(Strict):
    """A compression recipe; the YAML keys are the field names.

    method, options: a name of `sparlow.methods()` and its options. pattern: "N:M" keeps N of every M
    consecutive inputs, "0.5@row" and "0.5@matrix" keep that fraction. rank: rank of the low-rank part.
    budget: fraction of the layer's parameters kept in total, instead of rank: rank = floor((budget -
    density) d_out d_in / (d_out + d_in)). With pattern "@row" or "@matrix" the budget decides the density
    instead: what rank (default 0) and signs leave. A sign counts as one bit of a value of `dtype`. With
    neither rank nor budget, the rank is 64 for methods with a low-rank part and 0 for the others.
    damping: multipliers of diag(H) and mean(diag H). include, exclude: exact module names or "re:"
    patterns that match the whole name; an empty include means every linear in the decoder blocks.
    overrides: the first one that matches a layer wins. allocation: shares `budget` among the layers instead
    of giving the same to each; see `allocation.settings.Allocation`.
    sequential: in a block, collect the inputs of later layers again when those before them (in the order in which the
    block defines them) are compressed, so that they see and repair what those lost; one more pass per shared input.
    repair: what a layer's outputs are fitted to, 0: those of its dense weight on the inputs that the compressed blocks
    before it make; 1: those on the dense model's own inputs, so that it also repairs what those blocks lost; between:
    the mean so weighted. Takes three more passes through each block, and the hidden states twice.
    matching: train the layers of each compressed block together, see `Matching`; true for its defaults.
    dtype: of the stored tensors. compute_dtype: of the calibration forward passes (default: float32 on
    the CPU, bfloat16 on a GPU). device: "cpu", "cuda" or "cuda:N". seed: of the windows drawn and of the
    solver.
    """

    method: str = "threebasil"
    options: Options = Field(default_factory=dict)
    pattern: str = "2:4"
    rank: Rank | None = None
    budget: Budget | None = None
    allocation: Allocation | None = None
    damping: CheckedDamping = Field(default_factory=Damping)
    calibration: Calibration = Field(default_factory=Calibration)
    include: list[ModulePattern] = Field(default_factory=list)
    exclude: list[ModulePattern] = Field(default_factory=list)
    overrides: list[Override] = Field(default_factory=list)
    sequential: bool = False
    repair: float = Field(default=0, ge=0, le=1)
    matching: Annotated[Matching | None, BeforeValidator(_switch)] = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    compute_dtype: Literal["bfloat16", "float16", "float32"] | None = None
    device: str = Field(default="cpu")
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> Recipe:
        if re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is None:
            raise ValueError(f"device '{self.device}' is not 'cpu', 'cuda' or 'cuda:N'")
        check_low_rank("the recipe", self.method, self.pattern, self.rank, self.budget)
        check_choice("the recipe", self._choice(None))
        if self.repair > 0 and self.sequential:
            raise ValueError(
                "repair compares the inputs of the dense block on both streams, sequential has replaced part of it by "
                "then; use one of them"
            )
        if self.allocation is not None:
            check_allocation(self._choice(None), self.allocation)
        for override in self.overrides:
            where = f"the override for '{override.match}'"
            choice = self._choice(override)
            check_low_rank(where, choice.method, choice.pattern, override.rank, override.budget)
            check_choice(where, choice)
            if self.allocation is not None and (override.rank is not None or override.budget is not None):
                raise ValueError(f"{where} gives rank or budget, but allocation decides them; remove one of the two")
        return self

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str = "recipe") -> Recipe:
        """Build from plain data; ValueError with one line per problem, prefixed by `where` and the key."""
        try:
            return cls.model_validate(dict(data))
        except ValidationError as error:
            raise ValueError("\n".join(_problem_lines(error, where))) from None

    @classmethod
    def from_yaml(cls, path: str | Path) -> Recipe:
        """Read a YAML file. Errors: OSError if unreadable, ValueError for bad YAML, keys or values."""
        return cls.from_dict(read_yaml_mapping(path), where=str(path))

    def to_yaml(self) -> str:
        """YAML text that `from_yaml` reads back to an equal recipe; settings left at None are omitted."""
        text: str = yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)
        return text

    def published(self) -> dict[str, Any]:
        """JSON form for a checkpoint: a calibration file goes by its name, not by its place on this machine."""
        data: dict[str, Any] = self.model_dump(mode="json")
        source = data["calibration"].get("source")
        if source is not None and Path(source).is_absolute():
            data["calibration"]["source"] = Path(source).name
        return data

    def updated(self, **changes: Any) -> Recipe:
        """A validated copy with some fields replaced."""
        return Recipe.from_dict({**self.model_dump(), **changes})

    def resolve(self, layer_name: str, d_out: int, d_in: int) -> LayerPlan:
        """The plan of one d_out x d_in layer; ValueError naming the layer if its rank does not fit."""
        return self._choice(self._override(layer_name)).plan(layer_name, d_out, d_in)

    def pattern_of(self, layer_name: str) -> str:
        """The pattern of a layer as the recipe has it, with its density open if it is."""
        return self._choice(self._override(layer_name)).pattern

    @property
    def forward_dtype(self) -> torch.dtype:
        """`compute_dtype`, or its default for the device."""
        name = self.compute_dtype or ("float32" if self.device == "cpu" else "bfloat16")
        dtype: torch.dtype = getattr(torch, name)
        return dtype

    def _override(self, layer_name: str) -> Override | None:
        return next((o for o in self.overrides if matches(o.match, layer_name)), None)

    def _choice(self, override: Override | None) -> Choice:
        bits = 8 * getattr(torch, self.dtype).itemsize
        allocated = self.allocation is not None
        base = Choice(self.method, self.options, self.pattern, self.rank, self.budget, self.damping, bits, allocated)
        if override is None:
            return base
        return base.overridden(
            override.method,
            override.options,
            override.pattern,
            override.rank,
            override.budget,
            override.damping,
        )


def _problem_lines(error: ValidationError, where: str) -> list[str]:
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ").removeprefix("the recipe: ")
        if problem["type"] != "value_error" and isinstance(problem["input"], (str, int, float)):
            message += f", got {problem['input']!r}"
        lines.append(f"{where}: {place}: {message}" if place else f"{where}: {message}")
    return lines
