"""Matching as a stage of the traversal: targets before a block is compressed, training after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from sparlow.capture import converted
from sparlow.layers import SparseLowRankLinear
from sparlow.matching.batches import Batches, shelved, use_host
from sparlow.matching.repeatable import repeatable
from sparlow.matching.settings import Matching
from sparlow.matching.student import Student
from sparlow.matching.trainer import Trainer, held_batches
from sparlow.models import Block
from sparlow.records import MatchingRecord
from sparlow.stream import Stream

Matched = tuple[dict[str, SparseLowRankLinear], dict[str, Tensor], MatchingRecord]


def batch_sizes(windows: int, settings: Matching) -> list[int]:
    """Windows of each batch of the stream: those to train on, then the held-out ones.

    ValueError if there are too few windows to hold any out.
    """
    held = held_windows(windows, settings)
    if held >= windows:
        raise ValueError(
            f"matching needs at least 2 calibration windows, one to train on and one held out, got {windows}; "
            f"raise calibration.windows (or lower window_tokens)"
        )
    return [*_cut(windows - held, settings.batch), *_cut(held, settings.batch)]


def held_windows(windows: int, settings: Matching) -> int:
    """How many calibration windows are not trained on."""
    return max(1, round(settings.holdout * windows))


class Matcher:
    """Matches one block after another along a stream."""

    def __init__(self, stream: Stream, settings: Matching, *, dtype: torch.dtype, device: str, seed: int) -> None:
        """dtype: of forward and backward passes, unless the settings name one."""
        self._stream, self._settings, self._seed, self._device = stream, settings, seed, device
        self._dtype = dtype if settings.dtype is None else getattr(torch, settings.dtype)
        self._dense: list[Tensor] = []
        self._targets: list[Tensor] = []
        self._host = use_host(settings.activations, 2 * stream.nbytes, device)
        if settings.target != "compressed":
            self._dense = [shelved(hidden.clone(), self._host) for hidden in stream.hidden]

    def before(self, index: int, block: Block, compress: bool) -> None:
        """Make the targets of block `index`, which must still be dense; only pass it if it will not be compressed.

        MemoryError as in `match`.
        """
        with self._memory(block):
            self._make_targets(index, compress)

    def _make_targets(self, index: int, compress: bool) -> None:
        outputs: list[Tensor] = []
        if compress and self._settings.target != "dense":
            outputs = [shelved(output, self._host) for output in self._stream.outputs(index, self._stream.hidden)]
        if self._dense:
            for position, output in enumerate(self._stream.outputs(index, self._dense)):
                self._dense[position] = shelved(output, self._host)
            outputs = [(a + b) / 2 for a, b in zip(outputs, self._dense, strict=True)] if outputs else self._dense
        self._targets = outputs

    def match(self, index: int, block: Block) -> Matched:
        """Train block `index`, whose layers are compressed: its new layers, its new vectors, and how it went.

        The block itself is left as it is. MemoryError, saying what to lower, if the device's memory is too small.
        """
        started = time.perf_counter()
        with self._memory(block), repeatable(self._device):
            return self._match(index, block, started)

    @contextmanager
    def _memory(self, block: Block) -> Iterator[None]:
        """Say what to lower when the device's memory does not suffice."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"{block.name}: matching {self._settings.batch} windows per step does not fit the memory of "
                f"{self._device}; lower matching.batch or calibration.window_tokens, or set matching.activations "
                f"to host ({error})"
            ) from error

    def _match(self, index: int, block: Block, started: float) -> Matched:
        student = Student(block, norms=self._settings.norms, dtype=self._dtype, device=self._device)
        batches = Batches(
            [hidden.to(self._dtype) for hidden in self._stream.hidden],
            self._targets,
            converted(self._stream.calls(index), self._stream.dtype, self._dtype),
            self._settings.loss,
            self._device,
        )
        sizes = [len(hidden) for hidden in self._stream.hidden]
        held = held_batches(sizes, held_windows(sum(sizes), self._settings))
        with student.installed() as module:
            trainer = Trainer(
                module, student, batches, held, self._settings, seed=self._seed + index, device=self._device
            )
            trainer.run()
            layers, vectors = student.layers(), student.vectors()
        self._targets = []
        seconds = time.perf_counter() - started
        return layers, vectors, _record(block, student, trainer, len(sizes) - held, seconds)


def trouble(record: MatchingRecord) -> str | None:
    """What the user should know about a matched block, None if all went well."""
    if record.lowered:
        return (
            f"{record.block}: matching diverged {record.lowered} time(s); each time the best weights were taken back "
            f"and the learning rate lowered; kept is epoch {record.best_epoch}; set a smaller matching.learning_rate"
        )
    if record.best_epoch == 0:
        return f"{record.block}: matching did not lower the held-out loss; the block stays as it was compressed"
    return None


def _record(block: Block, student: Student, trainer: Trainer, steps: int, seconds: float) -> MatchingRecord:
    return MatchingRecord(
        block=block.name,
        parameters=student.count,
        held_out_before=trainer.curve[0].held_out,
        held_out_after=trainer.best.held_out,
        best_epoch=trainer.best.number,
        steps=steps * (len(trainer.curve) - 1),
        lowered=trainer.lowered,
        stopped_early=trainer.stopped_early,
        captured=trainer.captured,
        seconds=seconds,
        curve=list(trainer.curve),
    )


def _cut(count: int, batch: int) -> list[int]:
    return [min(batch, count - start) for start in range(0, count, batch)]
