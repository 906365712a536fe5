"""Microbenchmarks of the C++ library: `python -m sparlow.bench forward|project|factor|solvers|compare|plot`.

The programs are compiled and need no Python; this package runs the installed ones, compares two of their result files
and draws one.
"""

from sparlow.bench.comparison import Change, compare
from sparlow.bench.lines import Results, Row, read
from sparlow.bench.programs import NAMES, program

__all__ = ["NAMES", "Change", "Results", "Row", "compare", "program", "read"]
