"""Training one block to give the dense block's output, with the best weights on held-out windows kept."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sparlow.matching.batches import Batches
from sparlow.matching.settings import Matching
from sparlow.matching.steps import Stepper
from sparlow.matching.student import Student
from sparlow.records import Epoch

# A held-out loss this many times the best one is divergence, not noise.
_DIVERGED = 1.1
_LOWER = 0.3
_MOST_LOWERED = 4
_FINAL_RATE = 0.05


class Trainer:
    """Trains an installed student. After `run`, or whatever ends it, the student holds the best weights so far."""

    def __init__(
        self,
        block: nn.Module,
        student: Student,
        batches: Batches,
        held: int,
        settings: Matching,
        *,
        seed: int,
        device: str,
    ) -> None:
        """held: number of batches, the last ones, that are not trained on."""
        self._student, self._batches, self._settings = student, batches, settings
        self._train = list(range(len(batches) - held))
        self._held = list(range(len(batches) - held, len(batches)))
        self._order = torch.Generator().manual_seed(seed)
        self._stepper = Stepper(block, student, device, graphs=settings.graphs)
        self._factor = 1.0
        self._fruitless = 0
        self._best: list[Tensor] = []
        self.curve: list[Epoch] = []
        self.lowered = 0
        self.stopped_early = False

    @property
    def captured(self) -> bool:
        """Whether steps were replayed as CUDA graphs."""
        return self._stepper.captured

    @property
    def best(self) -> Epoch:
        """The epoch whose weights are kept; number 0 is before training."""
        return min(self.curve, key=lambda epoch: (not math.isfinite(epoch.held_out), epoch.held_out))

    def run(self) -> None:
        """All epochs, or fewer when the held-out loss stops falling."""
        started = time.perf_counter()
        self._record(Epoch(0, None, self.held_out(), None, 0.0, time.perf_counter() - started))
        try:
            for number in range(1, self._settings.epochs + 1):
                self._record(self._epoch(number, started))
                if self._fruitless >= self._settings.patience or self.lowered > _MOST_LOWERED:
                    self.stopped_early = number < self._settings.epochs
                    break
        finally:
            self._restore()
            self._stepper.release()

    def held_out(self) -> float:
        """Mean loss of the held-out batches with the student's present weights."""
        losses = [self._stepper.loss(batch) for batch in self._batches.walk(self._held)]
        return float(torch.stack(losses).mean())

    def _epoch(self, number: int, started: float) -> Epoch:
        count = len(self._train)
        order = torch.randperm(count, generator=self._order).tolist()
        rate = 0.0
        for position, batch in enumerate(self._batches.walk([self._train[i] for i in order])):
            rate = self._factor * rate_at(self._settings, (number - 1) * count + position, count)
            self._stepper.step(batch, rate)
        loss, norm = self._stepper.means(count)
        return Epoch(number, loss, self.held_out(), norm, rate, time.perf_counter() - started)

    def _record(self, epoch: Epoch) -> None:
        best = self.best.held_out if self.curve else math.inf
        self.curve.append(epoch)
        if epoch.held_out < best or epoch.number == 0:
            self._fruitless = 0
            self._keep()
        elif epoch.held_out <= _DIVERGED * best:
            self._fruitless += 1
        else:
            self._restore()
            self._stepper.reset()
            self._factor *= _LOWER
            self.lowered += 1

    def _keep(self) -> None:
        if not self._best:
            self._best = [master.clone() for master in self._student.masters]
        else:
            torch._foreach_copy_(self._best, self._student.masters)

    def _restore(self) -> None:
        if self._best:
            torch._foreach_copy_(self._student.masters, self._best)
            for part in self._student.parts:
                part.form()


def rate_at(settings: Matching, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step, counted from 0."""
    total = settings.epochs * steps_per_epoch
    warm = max(1, round(settings.warmup * total))
    if step < warm:
        return settings.learning_rate * (step + 1) / warm
    done = (step - warm) / max(1, total - warm)
    if settings.schedule == "constant":
        return settings.learning_rate
    left = 1 - done if settings.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2
    return settings.learning_rate * (_FINAL_RATE + (1 - _FINAL_RATE) * left)


def held_batches(sizes: Sequence[int], windows: int) -> int:
    """How many of the last batches, of `sizes` windows each, hold `windows` windows."""
    count = 0
    while sum(sizes[len(sizes) - count :]) < windows:
        count += 1
    return count
