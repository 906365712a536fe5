"""How much the model's loss rises with that of each layer: one backward pass instead of a forward pass per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sparlow.allocation.measure import ModelLoss, lent_model, quick_plan, solve_layer
from sparlow.allocation.setting import Setting
from sparlow.allocation.slots import Slot
from sparlow.capture import hooked

_PROBE_WINDOWS = 16  # of the calibration, one backward pass each
_LEAST_SHARE = 20  # one layer in so many may count as less sensitive than it was found


class Sensitivity:
    """Collects, in one visit of all layers, what `weights` needs: each layer compressed alone at the mean share."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._losses: dict[str, float] = {}
        self._errors: dict[str, Tensor] = {}

    def add(self, slot: Slot, w: Tensor, gram: Tensor) -> None:
        """To be called for every slot, with its weight and Gram matrix."""
        if self._setting.settings.weight == "equal":
            return
        plan = quick_plan(self._setting.mean_plan(slot))
        found = solve_layer(slot.name, w, gram, plan, self._setting.recipe.seed)
        self._losses[slot.name] = found.report.relative_loss
        self._errors[slot.name] = (w - found.dense()).to(self._setting.recipe.forward_dtype).cpu()

    def weights(self) -> dict[str, float]:
        """Rise of the model's loss per relative loss of each layer; 1 for all where the setting weighs them equally."""
        setting = self._setting
        if setting.settings.weight == "equal":
            return {slot.name: 1.0 for slot in setting.slots}
        with lent_model(setting.model, setting.job, setting.recipe) as loss:
            rises = second_order_rises(loss, self._errors, setting.windows[:_PROBE_WINDOWS].to(setting.recipe.device))
        slopes = {name: rises[name] / max(self._losses[name], 1e-12) for name in self._errors}
        ordered = sorted(slope for slope in slopes.values() if slope > 0)
        least = ordered[len(ordered) // _LEAST_SHARE] if ordered else 1.0
        return {name: max(slope, least) for name, slope in slopes.items()}


def second_order_rises(loss: ModelLoss, errors: Mapping[str, Tensor], ids: Tensor) -> dict[str, float]:
    """By how much the mean loss of windows ids [batch, window] rises with the error of each layer alone.

    The second-order term with the empirical Fisher matrix in the place of the Hessian: half the sum over tokens of
    (g e x)², g the gradient of the summed loss by the layer's output, x its input, e [d_out, d_in] its error. The
    first-order term has no sign that lasts from one text to the next. Never negative, and free of the rounding in
    which the difference of two losses drowns.
    """
    totals = {name: torch.zeros((), dtype=torch.float64, device=ids.device) for name in errors}
    hooks = [loss.module(name).register_forward_hook(_hook(error, totals[name])) for name, error in errors.items()]
    with hooked(hooks), torch.enable_grad():
        for window in torch.split(ids, 1):
            loss.backward(window)
    tokens = ids.shape[0] * (ids.shape[1] - 1)
    return {name: float(total) / 2 / tokens for name, total in totals.items()}


def _hook(error: Tensor, total: Tensor) -> Any:
    def on_output(_: nn.Module, args: Sequence[Tensor], output: Tensor) -> None:
        x = args[0].detach()

        def on_gradient(gradient: Tensor) -> None:
            moved = x @ error.to(x.device).T
            total.add_((gradient.float() * moved.float()).sum(-1).square().sum(dtype=torch.float64))

        output.register_hook(on_gradient)  # type: ignore[no-untyped-call]

    return on_output
