"""One step of training, and the loss of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sparlow.matching.batches import Batch
from sparlow.matching.graphs import Replay
from sparlow.matching.student import Student


class Stepper:
    """Adam on the student's masters, step by step; sums of losses and gradient norms stay on the device."""

    def __init__(self, block: nn.Module, student: Student, device: str, *, graphs: bool) -> None:
        """graphs: replay steps as CUDA graphs, where all batches of a shape call the block with the same arguments."""
        self._block, self._student = block, student
        self._leaves = [part.leaf for part in student.parts]
        cuda = torch.device(device).type == "cuda"
        self._rate = torch.zeros((), device=device)
        self._sums = torch.zeros(2, device=device, dtype=torch.float64)
        masters = [master for master in student.masters if master.numel()]
        # Entries off the support have no gradient: eps only has to keep 0 / 0 away, and gradients are as small as 1e-9.
        self._adam = torch.optim.Adam(masters, lr=self._rate, eps=1e-14, fused=True, capturable=cuda)
        self._train = Replay(self._update, enabled=cuda and graphs)
        self._evaluate = Replay(self._loss, enabled=cuda and graphs)

    @property
    def captured(self) -> bool:
        """Whether steps are replayed as CUDA graphs."""
        return self._train.captured

    def release(self) -> None:
        """Free what replaying holds."""
        self._train.release()
        self._evaluate.release()

    def reset(self) -> None:
        """Forget moments and sums."""
        for state in self._adam.state.values():
            for value in state.values():
                value.zero_()
        self._sums.zero_()

    def step(self, batch: Batch, rate: float) -> None:
        """One update at learning rate `rate`."""
        self._rate.fill_(rate)
        self._train(batch)

    def loss(self, batch: Batch) -> Tensor:
        """The loss of a batch with the present weights."""
        with torch.no_grad():
            return self._evaluate(batch).clone()

    def means(self, steps: int) -> tuple[float, float]:
        """Mean loss and root mean square gradient norm of the last `steps` steps; the sums start again."""
        loss, squares = (self._sums / steps).tolist()
        self._sums.zero_()
        return loss, squares**0.5

    def _loss(self, batch: Batch) -> Tensor:
        output = batch.call.run(self._block, batch.inputs)
        errors = (output.float() - batch.targets.float()).square().sum(-1)
        return (errors * batch.weights).sum()

    def _update(self, batch: Batch) -> Tensor:
        with torch.enable_grad():
            loss = self._loss(batch)
            found = torch.autograd.grad(loss, self._leaves, allow_unused=True)
        with torch.no_grad():
            for part, gradient in zip(self._student.parts, found, strict=True):
                part.spread(gradient)
            gradients = [master.grad for master in self._student.masters if master.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            self._sums += torch.stack((loss.detach().double(), norm.double().square()))
            self._adam.step()
            for part in self._student.parts:
                part.form()
        return loss.detach()
