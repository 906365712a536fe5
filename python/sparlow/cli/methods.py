"""`sparlow methods`."""

from __future__ import annotations

from rich.table import Table

from sparlow.cli.output import JsonFlag, show
from sparlow.report import methods_table, number_text, table
from sparlow.solve import OptionInfo
from sparlow.solve import methods as registry

_TERMS = "Terms: S sparse, L low rank, B signs times low rank."


def methods(as_json: JsonFlag = False) -> None:
    """List the methods: what they need, what they can do, whose they are, and their options."""
    rows = registry()
    show(rows, as_json, methods_table(rows), _TERMS, "", _options_table())


def _options_table() -> Table:
    rows = (
        (method.name, option.name, option.kind, _default(option), option.doc)
        for method in registry()
        for option in method.options.values()
    )
    return table(("method", "option", "kind", "default", "meaning"), rows, text_columns=5)


def _default(option: OptionInfo) -> str:
    return option.default if isinstance(option.default, str) else number_text(option.default)
