"""The transformers side: quantization config, quantizer and their registration as `quant_method: "sparlow"`.

There is no entry point for quantizers: `import sparlow` must run before `from_pretrained`. Without it
transformers only warns and returns a model with random linear layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.auto import (
    AUTO_QUANTIZATION_CONFIG_MAPPING,
    AUTO_QUANTIZER_MAPPING,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.base import HfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from sparlow._core import __version__
from sparlow.layers import SparseLowRankLinear
from sparlow.manifest import FORMAT_VERSION, check_format_version
from sparlow.spec import LayerSpec
from sparlow.stacks import stack, unstack
from sparlow.verify import check_layers, layer_table, read_headers

METHOD = "sparlow"


class SparlowConfig(QuantizationConfigMixin):
    """`quantization_config` of a compressed model: format version, recipe and table of layers."""

    def __init__(
        self,
        format_version: int = FORMAT_VERSION,
        recipe: Mapping[str, Any] | None = None,
        layers: Mapping[str, Mapping[str, Any]] | None = None,
        sparlow_version: str = __version__,
        quant_method: str = METHOD,
        **unknown: Any,
    ) -> None:
        """Takes what `to_dict` writes. ValueError for a newer version, unknown keys or a bad layer entry."""
        check_format_version("quantization_config", format_version, sparlow_version)
        if quant_method != METHOD or unknown:
            what = f"quant_method {quant_method!r}, unknown keys {sorted(unknown)}"
            raise ValueError(f"not a sparlow quantization_config: {what}")
        layer_table(layers or {})
        self.quant_method = quant_method  # type: ignore[assignment]  # a string, the enum is closed
        self.format_version = format_version
        self.sparlow_version = sparlow_version
        self.recipe = dict(recipe or {})
        self.layers = {name: dict(entry) for name, entry in (layers or {}).items()}


class SparlowQuantizer(HfQuantizer):
    """Puts `SparseLowRankLinear` modules into a model on the meta device before its weights are read."""

    requires_calibration = True
    quantization_config: SparlowConfig

    def is_serializable(self) -> bool:
        """`save_pretrained` works; `sparlow.save` adds card, metrics and checksums."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Adapters can be trained on top: the gradient passes through to the input."""
        return True

    def _process_model_before_weight_loading(
        self, model: PreTrainedModel, checkpoint_files: Iterable[str] | None = None, **_: Any
    ) -> None:
        layers = layer_table(self.quantization_config.layers)
        if checkpoint_files is not None:
            tensors = read_headers(Path(file) for file in checkpoint_files)
            check_layers(layers, {name: info for name, (_, info) in tensors.items()})
        swap_modules(model, layers)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **_: Any) -> None:
        modules = compressed_modules(model)
        for name, module in modules.items():
            # Loading replaces parameters and makes every floating-point one trainable.
            module.weight_packed.requires_grad_(False)
            if module.weight_packed.device.type != "meta":
                module.check_meta(name)
        stack(model)
        for module in modules.values():
            if module.weight_packed.device.type != "meta":
                module.settle()

    def _dequantize(self, model: PreTrainedModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
        with torch.device("meta"):
            original = type(model)(model.config)
        unstack(model)
        for name, module in compressed_modules(model).items():
            dense = _dense_module(module, original.get_submodule(name), dtype or model.dtype)
            model.set_submodule(name, dense)
        return model


def _dense_module(module: SparseLowRankLinear, original: nn.Module, dtype: torch.dtype) -> nn.Module:
    # GPT-2 keeps its matrices transposed in Conv1D: an nn.Linear there would be saved the wrong way round.
    weight = module.dense_weight().to(dtype)
    original.weight = nn.Parameter(weight.T.contiguous() if isinstance(original, Conv1D) else weight)
    if module.bias is not None:
        original.bias = nn.Parameter(module.bias.detach().to(dtype))
    return original.train(module.training)


def compressed_modules(model: nn.Module) -> dict[str, SparseLowRankLinear]:
    """The compressed layers of a model by module name, in module order."""
    return {name: module for name, module in model.named_modules() if isinstance(module, SparseLowRankLinear)}


def attach(model: PreTrainedModel, recipe: Mapping[str, Any]) -> SparlowConfig:
    """Mark a freshly compressed model, so that `save_pretrained` and `dequantize` work.

    recipe: the JSON form of the recipe. The layer table is read off the modules.
    """
    layers = {name: module.spec.to_dict() for name, module in compressed_modules(model).items()}
    config = SparlowConfig(recipe=recipe, layers=layers)
    marked: Any = model  # attributes that transformers sets, and does not declare
    marked.config.quantization_config = config
    marked.hf_quantizer = SparlowQuantizer(config)
    marked.is_quantized = True
    marked.quantization_method = METHOD
    return config


def swap_modules(model: PreTrainedModel, layers: Mapping[str, LayerSpec]) -> None:
    """Replace the linear modules in the table by empty compressed ones. ValueError if one does not fit."""
    modules = dict(model.named_modules())
    for name, spec in layers.items():
        target = _find(model, modules, name)
        if target is None:
            continue
        module = modules[target]
        d_out, d_in = linear_shape(target, module)
        if (d_out, d_in) != (spec.d_out, spec.d_in):
            raise ValueError(f"layer {target!r} is {d_out} x {d_in}, the layer table says {spec.d_out} x {spec.d_in}")
        weight = module.weight
        model.set_submodule(target, SparseLowRankLinear(spec, module.bias is not None, weight.dtype, weight.device))


def linear_shape(name: str, module: nn.Module) -> tuple[int, int]:
    """(d_out, d_in) of an `nn.Linear` or of GPT-2's `Conv1D`; ValueError for anything else."""
    if isinstance(module, Conv1D):
        return module.weight.shape[1], module.weight.shape[0]
    if isinstance(module, nn.Linear):
        return module.out_features, module.in_features
    raise ValueError(f"layer {name!r} is a {type(module).__name__}, not a linear layer")


def _find(model: PreTrainedModel, modules: Mapping[str, nn.Module], name: str) -> str | None:
    """Name in this model of a layer in the table: AutoModel has no `model.` prefix, a causal LM has one."""
    prefix = f"{model.base_model_prefix}."
    for candidate in (name, name.removeprefix(prefix), prefix + name):
        if candidate in modules:
            return candidate
    if model.base_model is model and not name.startswith(prefix):
        return None  # part of a head that the bare model does not have
    raise ValueError(f"the layer table names {name!r}, but {type(model).__name__} has no such module")


def model_class(config: Mapping[str, Any]) -> Any:
    """The transformers class that a config's `architectures` names, else the causal language model class."""
    architectures = config.get("architectures") or [None]
    return getattr(transformers, str(architectures[0]), AutoModelForCausalLM)


def register() -> None:
    """Register with transformers. Running it again (module reload) replaces the earlier registration."""
    AUTO_QUANTIZATION_CONFIG_MAPPING.pop(METHOD, None)
    AUTO_QUANTIZER_MAPPING.pop(METHOD, None)
    register_quantization_config(METHOD)(SparlowConfig)
    register_quantizer(METHOD)(SparlowQuantizer)


register()
