"""The command line: `sparlow` and `python -m sparlow`."""

from sparlow.cli.main import app, main

__all__ = ["app", "main"]
