"""Pages show the figures of their result files."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_on_matching_shows_its_result_files() -> None:
    tables = runpy.run_path(str(ROOT / "bench" / "matching_tables.py"))
    page = (ROOT / "docs" / "matching.md").read_text(encoding="utf-8")
    assert page.count("<!-- table ") == page.count("<!-- end -->") > 3
    assert tables["rendered"](page) == page, "run python bench/matching_tables.py"
