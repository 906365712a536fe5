"""What a compression run reports: one record per layer, the plan before it, and the progress during it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


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
    if none are needed.
    """

    layers: list[PlannedLayer]
    peak_bytes: int
    seconds: float
    calibration_tokens: int
    notes: list[str] = field(default_factory=list)


class Progress(Protocol):
    """Told what a run is doing; an implementation may show it."""

    def start(self, total_blocks: int, total_layers: int) -> None:
        """The work begins: so many blocks are passed, so many layers compressed."""

    def block(self, index: int) -> None:
        """Block `index`, counted from 0, begins."""

    def layer(self, record: LayerRecord) -> None:
        """A layer is done."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, total_blocks: int, total_layers: int) -> None: ...

    def block(self, index: int) -> None: ...

    def layer(self, record: LayerRecord) -> None: ...

    def note(self, text: str) -> None: ...
