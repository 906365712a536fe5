"""The demo: a real model becomes 2:4 + low rank on the CPU, is saved and loaded back, and shows what that cost."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from sparlow import api, checkpoint, demo_data
from sparlow.atomic import check_target
from sparlow.dense import load_dense
from sparlow.evaluate import encode, evaluate, generate
from sparlow.precision import lent_module
from sparlow.recipe import Recipe
from sparlow.solve import method_info

BASELINES = ("magnitude", "wanda")
METHOD = "threebasil"


@dataclass(frozen=True)
class Settings:
    """What the demo does. Windows, for calibration and for evaluation, are of `window_tokens` tokens."""

    pattern: str = "2:4"
    rank: int = 32
    options: Mapping[str, Any] = field(default_factory=dict)
    include: tuple[str, ...] = ()
    calibration_windows: int = 32
    evaluation_windows: int = 24
    window_tokens: int = 512
    prompt: str = "The Atlantic Ocean is"
    new_tokens: int = 24
    seed: int = 0
    matching: bool = False

    def recipe(self, method: str, calibration: Path) -> Recipe:
        """The recipe of one method; only the last one has a low-rank part, and may be matched."""
        low_rank = {"rank": self.rank, "options": dict(self.options)} if method == METHOD else {}
        matching = {"matching": self.matching} if method == METHOD else {}
        windows = {"windows": self.calibration_windows, "window_tokens": self.window_tokens}
        # Given a source, a method that needs none would calibrate all the same, to report its losses.
        source = {} if method_info(method).needs_gram == "none" else {"source": str(calibration)}
        fields: dict[str, Any] = {
            "method": method,
            "pattern": self.pattern,
            "include": list(self.include),
            "calibration": source | windows,
            "seed": self.seed,
        }
        return Recipe.from_dict(fields | low_rank | matching)


@dataclass(frozen=True)
class Row:
    """One model: perplexity on the held-out articles, bytes of its linear layers, seconds of compression."""

    method: str
    pattern: str
    rank: int
    perplexity: float
    linear_bytes: int
    seconds: float


@dataclass(frozen=True)
class Stage:
    """A part of the run: wall time, and the highest resident memory of the process up to its end."""

    name: str
    seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Result:
    """What the demo ends with; `sentences` are what dense and compressed model write after the prompt."""

    settings: Settings
    data: demo_data.DemoData
    rows: list[Row]
    sentences: dict[str, str]
    checkpoint: Path
    stages: list[Stage]


class Watcher(Protocol):
    """Who hears how far the demo is."""

    def note(self, text: str) -> None: ...

    def compressing(self, method: str) -> AbstractContextManager[Any]:
        """Yields what `sparlow.compress` takes as `progress`."""

    def evaluating(self, windows: int) -> AbstractContextManager[Callable[[int], None]]:
        """Yields what `evaluate` takes as `advance`."""


def run(output: Path, cache: Path, settings: Settings, watcher: Watcher, *, from_hub: bool = False) -> Result:
    """Compresses SmolLM2-135M with two baselines and with 3BASiL, calibrated and evaluated on disjoint articles.

    The 3BASiL model is saved to `output`, in the place of an earlier checkpoint there. Errors: RuntimeError for data
    that cannot be had, FileExistsError for an `output` that is something else, and those of `sparlow.compress`.
    """
    check_target(output, overwrite=True)
    return _Run(settings, watcher).run(output, cache, from_hub)


class _Run:
    """One run of the demo: the settings and what it has found so far."""

    def __init__(self, settings: Settings, watcher: Watcher) -> None:
        self._settings, self._watcher = settings, watcher
        self._stages: list[Stage] = []
        self._rows: list[Row] = []
        self._tokens = torch.empty(0, dtype=torch.int64)

    def run(self, output: Path, cache: Path, from_hub: bool) -> Result:
        with self._stage("model and articles"):
            data = demo_data.prepare(cache, from_hub=from_hub, note=self._watcher.note)
        with self._stage("dense model"):
            perplexity, sentence = self._dense(data)
        for method in BASELINES:
            with self._stage(method):
                self._compressed(method, data)
        with self._stage(METHOD):
            result = self._compressed(METHOD, data)
        dense_bytes = sum(record.dense_bytes for record in result.layers)
        self._rows.insert(0, Row("dense", "", 0, perplexity, dense_bytes, 0.0))
        with self._stage("save, load back, write"):
            figures = {"perplexity": {row.method: row.perplexity for row in self._rows}}
            checkpoint.save(result, output, True, evaluation=figures, base_model=demo_data.HUB_MODEL)
            loaded = checkpoint.load(output, dtype=torch.float32)
            sentences = {"dense": sentence, METHOD: self._write(loaded, result.tokenizer)}
        return Result(self._settings, data, self._rows, sentences, output, self._stages)

    def _dense(self, data: demo_data.DemoData) -> tuple[float, str]:
        model, tokenizer = load_dense(data.model)
        self._tokens = encode(tokenizer, data.evaluation.read_text(encoding="utf-8"))
        with lent_module(model, torch.float32, "cpu"):
            return self._perplexity(model), self._write(model, tokenizer)

    def _compressed(self, method: str, data: demo_data.DemoData) -> api.Compressed:
        recipe = self._settings.recipe(method, data.calibration)
        with self._watcher.compressing(method) as progress:
            result = api.compress(str(data.model), recipe, progress=progress)
        # Computed in float32 like the dense model; the stored numbers stay as they are.
        with lent_module(result.model, torch.float32, "cpu"):
            perplexity = self._perplexity(result.model)
        stored = sum(record.stored_bytes for record in result.layers)
        rank = max(record.rank for record in result.layers)
        self._rows.append(Row(method, recipe.pattern, rank, perplexity, stored, result.seconds))
        return result

    def _perplexity(self, model: Any) -> float:
        windows = self._settings.evaluation_windows
        with self._watcher.evaluating(windows) as advance:
            found = evaluate(model, self._tokens, self._settings.window_tokens, limit=windows, advance=advance)
        return found.perplexity

    def _write(self, model: Any, tokenizer: Any) -> str:
        return generate(model, tokenizer, self._settings.prompt, self._settings.new_tokens)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self._watcher.note(name)
        started = time.perf_counter()
        yield
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        self._stages.append(Stage(name, time.perf_counter() - started, peak))
