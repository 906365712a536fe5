"""Is the GPU there that was asked for?"""

from __future__ import annotations

import torch


def missing_gpu(device: str | torch.device) -> str | None:
    """Why a CUDA device cannot be used here; None if it can, or if `device` is of another kind.

    RuntimeError for a string that torch does not take for a device.
    """
    asked = torch.device(device)
    if asked.type != "cuda":
        return None
    if not torch.cuda.is_available():
        return f"device '{device}': this machine has no GPU that torch can use; use device 'cpu'"
    last = torch.cuda.device_count() - 1
    return f"device '{device}': the last GPU here is cuda:{last}" if (asked.index or 0) > last else None
