"""What a compression run reports: one record per layer, the plan before it, and the progress during it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol


@dataclass(frozen=True)
class LayerRecord:
    """How one d_out x d_in layer was compressed.

    relative_loss: of the solver's float32 result, stored_relative_loss: after rounding to the stored
    dtype; both tr(E G E^T) / tr(W G W^T) with the undamped Gram matrix G of `tokens` calibration tokens,
    None without them.
    density: share of entries kept in S. damping_used, iterations, status, dead_columns: see `solve.Report`.
    seconds: of the solver, shared with the layers of the same input by size. dense_bytes: of the weight
    in the stored dtype; stored_bytes: of all terms; the bias counts in neither. sign_rank: of the factor under the
    signs, 0 without a signed term.
    """

    name: str
    method: str
    pattern: str
    format: str
    rank: int
    d_out: int
    d_in: int
    density: float
    relative_loss: float | None
    stored_relative_loss: float | None
    iterations: int
    status: str
    damping_used: float
    dead_columns: int
    tokens: int
    seconds: float
    dense_bytes: int
    stored_bytes: int
    sign_rank: int = 0


@dataclass(frozen=True)
class Epoch:
    """One pass of matching; number 0 is the state before it.

    loss, held_out: mean loss of the training batches as they were trained on, and of the held-out ones afterwards,
    both as a fraction of the target's energy. gradient_norm: root mean square over the steps. learning_rate: of the
    last step. seconds: since the start of the block's matching. None where nothing was trained.
    """

    number: int
    loss: float | None
    held_out: float
    gradient_norm: float | None
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class MatchingRecord:
    """How the compressed layers of one block were trained together.

    parameters: trained numbers. held_out_before, held_out_after: loss on the held-out windows of the compressed block
    and of the weights kept, those of epoch `best_epoch`. lowered: how often a diverging loss made the learning rate
    smaller. stopped_early: the held-out loss had stopped falling. captured: steps were replayed as CUDA graphs.
    """

    block: str
    parameters: int
    held_out_before: float
    held_out_after: float
    best_epoch: int
    steps: int
    lowered: int
    stopped_early: bool
    captured: bool
    seconds: float
    curve: list[Epoch]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> MatchingRecord:
        """From what `dataclasses.asdict` made of one."""
        return cls(**{**data, "curve": [Epoch(**epoch) for epoch in data["curve"]]})


@dataclass(frozen=True)
class PlannedLayer:
    """One matched layer of a dry run. dense_bytes, stored_bytes: as in `LayerRecord`, but estimated."""

    name: str
    method: str
    pattern: str
    rank: int
    d_out: int
    d_in: int
    dense_bytes: int
    stored_bytes: int


@dataclass(frozen=True)
class Plan:
    """What a run would do.

    peak_bytes: estimated memory of the process at the worst moment. seconds: estimated time, every
    solver at its iteration limit, at the speed of a matrix product measured here. calibration_tokens: 0
    if none are needed. matching: what will be trained, in words; empty without matching.
    """

    layers: list[PlannedLayer]
    peak_bytes: int
    seconds: float
    calibration_tokens: int
    notes: list[str] = field(default_factory=list)
    matching: str = ""


class Progress(Protocol):
    """Told what a run is doing; an implementation may show it."""

    def start(self, total_blocks: int, total_layers: int) -> None:
        """The work begins: so many blocks are passed, so many layers compressed."""

    def block(self, index: int) -> None:
        """Block `index`, counted from 0, begins."""

    def layer(self, record: LayerRecord) -> None:
        """A layer is done."""

    def matched(self, record: MatchingRecord) -> None:
        """The layers of a block have been trained together."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, total_blocks: int, total_layers: int) -> None: ...

    def block(self, index: int) -> None: ...

    def layer(self, record: LayerRecord) -> None: ...

    def matched(self, record: MatchingRecord) -> None: ...

    def note(self, text: str) -> None: ...
