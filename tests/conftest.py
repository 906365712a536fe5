"""Fixtures that every folder of tests shares."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from synthetic import Layer, build_layer

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: tests of interruption need it as usual.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def make_layer() -> Callable[..., Layer]:
    """Factory of synthetic layers, see :func:`build_layer`."""
    return build_layer


@pytest.fixture
def layer() -> Layer:
    """A 48 x 64 layer with 256 tokens."""
    return build_layer()
