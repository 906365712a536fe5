"""What matching will take, from shapes alone."""

from __future__ import annotations

from sparlow.job import BlockJob, Job
from sparlow.matching.settings import Matching
from sparlow.matching.stage import held_windows
from sparlow.recipe import Recipe

# Per weight of a block: parameter, two moments, gradient and the kept best in float32.
_STATE_BYTES = 20
# Activations that one step keeps, in units of the widest layer's output and of the hidden state.
_KEPT_WIDE, _KEPT_HIDDEN = 6, 24


def training_flops(job: Job, settings: Matching, tokens: int) -> float:
    """Forward and backward passes of all epochs, and one forward pass for the targets."""
    weights = sum(_weights(block) for block in job.blocks if block.layers)
    return tokens * weights * (6.0 * settings.epochs + 2.0)


def training_bytes(job: Job, settings: Matching, recipe: Recipe) -> float:
    """Optimizer state, one step's activations and the targets, at the largest block."""
    size, tokens = recipe.forward_dtype.itemsize, recipe.calibration.window_tokens
    weights = max(_weights(block) for block in job.blocks)
    hidden = max(layer.layer.shape[1] for layer in job.blocks[0].layers) if job.blocks[0].layers else 0
    wide = max(max(layer.layer.shape) for layer in job.layers)
    step = settings.batch * tokens * (_KEPT_WIDE * wide + _KEPT_HIDDEN * hidden)
    targets = 2 * recipe.calibration.windows * tokens * hidden
    return float(weights * (_STATE_BYTES + 3 * size) + size * (step + targets))


def describe(settings: Matching, windows: int) -> str:
    """What will be trained, in one line."""
    held = held_windows(windows, settings)
    return (
        f"up to {settings.epochs} epochs over {windows - held} windows, {settings.batch} a step, {held} held out; "
        f"target {settings.target}, {settings.loss} loss"
    )


def _weights(block: BlockJob) -> int:
    return sum(parameter.numel() for parameter in block.block.module.parameters() if parameter.ndim == 2)
