"""The recipe's `matching` section."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from sparlow.strict import Strict


class Matching(Strict):
    """How the layers of a block are trained together, after they were compressed, to give the dense block's output.

    epochs: passes over the training windows. batch: windows per step, and per forward pass of the calibration.
    learning_rate: of Adam, as a fraction of the root mean square of each trained tensor. schedule: how it falls over
    the run; warmup: share of the run in which it rises from 0 first.
    target: "compressed", the dense block on the inputs that the compressed blocks before it make (as in 3BASiL);
    "dense", the dense block on the dense model's own inputs, so that a block also repairs what those before it lost;
    "mixed", the mean of the two. loss: "squared" error, or "normalized", each token's divided by its target's norm.
    holdout: share of the calibration windows that are not trained on; after each epoch the loss on them decides which
    weights are kept, and training ends after `patience` epochs in a row without a better one. norms: train the
    normalisation weights of the block too. dtype: of the forward and backward passes (default: the recipe's
    compute_dtype); weights and optimizer state are float32. activations: where targets lie, "auto": on the device if
    they take less than 40 % of what is free there, else in host memory. graphs: on a GPU, replay the steps as CUDA
    graphs where the block allows it.
    """

    epochs: int = Field(default=8, ge=1)
    batch: int = Field(default=2, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0, le=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1)
    target: Literal["compressed", "dense", "mixed"] = "dense"
    loss: Literal["squared", "normalized"] = "normalized"
    holdout: float = Field(default=0.0625, gt=0, lt=1)
    patience: int = Field(default=3, ge=1)
    norms: bool = False
    dtype: Literal["bfloat16", "float32"] | None = None
    activations: Literal["auto", "device", "host"] = "auto"
    graphs: bool = True
