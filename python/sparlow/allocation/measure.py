"""What strategies measure: statistics of every layer on the dense model's activations, and the loss of the model."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sparlow.capture import hooked
from sparlow.evaluate import window_losses
from sparlow.job import BlockJob, Job, LayerJob
from sparlow.precision import lent_module
from sparlow.recipe import Recipe
from sparlow.recipe_rules import LayerPlan
from sparlow.solve import Decomposition, OptionValue, check_options, decompose
from sparlow.stream import Stream

Visit = Callable[[LayerJob, Tensor, Tensor], None]
_FEW_ITERATIONS = 24


def visit_layers(model: Any, job: Job, windows: Tensor, recipe: Recipe, visit: Visit) -> None:
    """visit(layer, w, gram) for every layer of the job, block by block: w and the Gram matrix of its input in the dense
    model, both f32 on the recipe's device. Only one block's Gram matrices exist at a time."""
    stream = Stream(
        model,
        job.all_blocks,
        windows,
        batch=recipe.calibration.batch,
        dtype=recipe.forward_dtype,
        device=recipe.device,
    )
    for index, block in enumerate(job.blocks):
        if block.layers:
            _visit_block(block, index, stream, recipe.device, visit)
        if index + 1 < len(job.blocks):
            stream.advance(index)


def _visit_block(block: BlockJob, index: int, stream: Stream, device: str, visit: Visit) -> None:
    jobs = {job.layer.name: job for job in block.layers}
    for group in stream.grams(index, [job.layer for job in block.layers]):
        gram = group.gram.matrix()
        for layer in group.layers:
            visit(jobs[layer.name], layer.weight.to(device, torch.float32), gram)


def outlying_share(weights: Sequence[tuple[Tensor, Tensor]], factor: float) -> float:
    """Share of the Wanda scores |w_ij| ||x_j|| above `factor` times their mean; weights: (w, gram) of one block."""
    scores = torch.cat([(w.abs() * gram.diagonal().sqrt()).flatten() for w, gram in weights])
    return float((scores > factor * scores.mean()).float().mean())


def quick_plan(plan: LayerPlan) -> LayerPlan:
    """The plan with its method's iterations cut, where it has such an option and the recipe does not set it."""
    values = check_options(plan.method, plan.options)
    if plan.options.get("iterations") is not None or values.get("iterations", 0) <= _FEW_ITERATIONS:
        return plan
    few: dict[str, OptionValue] = {"iterations": _FEW_ITERATIONS}
    if "update_every" in values:
        few["update_every"] = _FEW_ITERATIONS // 4
    return dataclasses.replace(plan, options={**plan.options, **few})


def solve_layer(name: str, w: Tensor, gram: Tensor, plan: LayerPlan, seed: int) -> Decomposition:
    """`decompose` of one layer by its plan."""
    return decompose(
        [w],
        gram,
        method=plan.method,
        pattern=plan.pattern,
        ranks=[plan.rank],
        damping=plan.damping,
        options=plan.options,
        seed=seed,
        names=[name],
    )[0]


class ModelLoss:
    """Next-token loss of a model whose layers can be replaced; the whole model is on the recipe's device."""

    def __init__(self, model: Any, job: Job) -> None:
        """Use inside `lent_model`."""
        self._model = model
        self._layers = {layer.layer.name: layer.layer for layer in job.layers}

    def weight(self, name: str) -> Tensor:
        """The weight [d_out, d_in] in use now, as a view that may be written to."""
        return self._layers[name].weight

    def __call__(self, ids: Tensor) -> float:
        """Mean cross-entropy in nats of windows ids [batch, window]."""
        with torch.inference_mode():
            return window_losses(self._model, ids) / len(ids)

    def module(self, name: str) -> Any:
        """The linear itself."""
        return self._layers[name].module

    def backward(self, ids: Tensor) -> None:
        """Gradients of the summed cross-entropy of windows ids [batch, window], by activations only."""
        embeddings = self._model.get_input_embeddings()
        with hooked([embeddings.register_forward_hook(lambda *call: call[2].detach().requires_grad_())]):
            logits = self._model(input_ids=ids, use_cache=False).logits
        predicted, wanted = logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten()
        total = torch.nn.functional.cross_entropy(predicted, wanted, reduction="sum")
        total.backward()  # type: ignore[no-untyped-call]


@contextmanager
def lent_model(model: Any, job: Job, recipe: Recipe) -> Iterator[ModelLoss]:
    """The model on the recipe's device, in the dtype of its forward passes, on copies that may be written to."""
    copies = [layer.layer.module for layer in job.layers]
    with _frozen(model), lent_module(model, recipe.forward_dtype, recipe.device), torch.no_grad():
        for module in copies:  # a tensor that needs no conversion would be the model's own
            parameter = module.get_parameter("weight")
            parameter.data = parameter.data.clone()
        yield ModelLoss(model, job)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No parameter asks for a gradient."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
