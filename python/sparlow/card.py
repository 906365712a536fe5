"""The README.md that goes into every checkpoint."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from sparlow.inspect import Inspection, LayerBytes, natural_order

_INTRODUCTION = """\
# {title}

The linear layers of this model are stored as a sparse matrix plus a low-rank product, W ≈ S + U V, computed
by sparlow without retraining.

```python
import sparlow  # registers the format; without it transformers returns random linear layers
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained("path/to/this/folder")
# or, with every file checked first: model = sparlow.load("path/to/this/folder")
```
"""

_LIMITS = """\
## What to expect

- The files and the state dict are smaller by the figures above. The forward pass of this version unpacks each
  layer to dense before it multiplies: expect no speed-up over the dense model, and memory for one dense layer
  on top.
- "Read per token" is what a kernel for the packed form has to read; this version does not contain one.
- Adapters (PEFT) attach to the compressed layers, but merging them into a compressed layer is not possible.
"""

_LAYER_NOTE = """\
Relative loss: ‖X(W − Ŵ)ᵀ‖² / ‖XWᵀ‖² on the calibration inputs, Ŵ as stored. Damping: sum of the coefficients
in force, larger than the recipe's where it had to be raised.
"""

_MATCHING_NOTE = """\
The layers of each block were then trained together to give the dense block's output, S on its support only. Losses are
squared errors over the energy of the target, on calibration windows that were not trained on. The relative losses above
are from before.
"""

_COLUMNS = (
    "layer",
    "pattern",
    "format",
    "rank",
    "stored / bf16",
    "relative loss",
    "density",
    "iterations",
    "damping",
)


def card_text(
    inspection: Inspection,
    metrics: Sequence[Mapping[str, Any]],
    evaluation: Mapping[str, Any] | None = None,
    base_model: str | None = None,
) -> str:
    """Markdown with front matter. metrics: the lines of metrics.jsonl, of layers and of matched blocks."""
    title = f"{base_model.split('/')[-1]}, sparse + low-rank" if base_model else "Sparse + low-rank model"
    recipe = yaml.safe_dump(inspection.recipe, sort_keys=True, allow_unicode=True)
    parts = [
        _front_matter(base_model),
        _INTRODUCTION.format(title=title),
        _bytes_section(inspection),
        "" if evaluation is None else _evaluation_section(evaluation),
        _LIMITS,
        f"## Recipe\n\n```yaml\n{recipe}```\n",
        _layer_section(inspection.layers, [line for line in metrics if "name" in line]),
        _matching_section([line for line in metrics if line.get("kind") == "matching"]),
    ]
    return "\n".join(part for part in parts if part)


def _front_matter(base_model: str | None) -> str:
    fields: dict[str, Any] = {"library_name": "transformers", "tags": ["sparlow", "sparse", "low-rank"]}
    if base_model:
        fields["base_model"] = base_model
    return f"---\n{yaml.safe_dump(fields, sort_keys=True)}---\n"


def _table(header: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    names = list(header)
    lines = [names, ["---"] * len(names), *([str(cell) for cell in row] for row in rows)]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _bytes_section(inspection: Inspection) -> str:
    pairs = (
        ("compressed layers", inspection.layer_bytes, inspection.dense_layer_bytes),
        ("all tensors", inspection.tensor_bytes, inspection.dense_tensor_bytes),
        ("read per token", inspection.token_bytes, inspection.dense_token_bytes),
    )
    rows = [(name, f"{stored:,}", f"{dense:,}", f"{stored / dense:.4f}") for name, stored, dense in pairs]
    return "## Bytes\n\n" + _table(("", "this model", "dense bf16", "ratio"), rows)


def _evaluation_section(evaluation: Mapping[str, Any]) -> str:
    rows = []
    for name, value in evaluation.items():
        nested = value if isinstance(value, Mapping) else {"": value}
        rows += [(f"{name} {part}".strip(), _number(figure)) for part, figure in nested.items()]
    return "## Evaluation\n\n" + _table(("", "value"), rows)


def _layer_section(layers: Sequence[LayerBytes], metrics: Sequence[Mapping[str, Any]]) -> str:
    measured = {str(record.get("name")): record for record in metrics}
    order = {name: position for position, name in enumerate(measured)}
    rows = []
    for layer in sorted(layers, key=lambda layer: (order.get(layer.name, len(order)), natural_order(layer.name))):
        record = measured.get(layer.name, {})
        loss = record.get("stored_relative_loss", record.get("relative_loss"))
        figures = (loss, record.get("density"), record.get("iterations"), record.get("damping_used"))
        spec = layer.spec
        row = (
            f"`{layer.name}`",
            spec.pattern,
            spec.format,
            spec.rank,
            f"{layer.ratio:.4f}",
            *map(_number, figures),
        )
        rows.append(row)
    return f"## Layers\n\n{_LAYER_NOTE}\n{_table(_COLUMNS, rows)}"


def _matching_section(metrics: Sequence[Mapping[str, Any]]) -> str:
    if not metrics:
        return ""
    rows = []
    for record in metrics:
        figures = (record["held_out_before"], record["held_out_after"], record["best_epoch"], record["seconds"])
        rows.append((f"`{record['block']}`", *map(_number, figures)))
    header = ("block", "held-out loss before", "after", "best epoch", "seconds")
    return f"## Matching\n\n{_MATCHING_NOTE}\n{_table(header, rows)}"


def _number(value: object) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
