"""A Python that lacks a package, or a source tree that was never built, is told so in one sentence."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import sparlow
from sparlow.requirements import NEEDED

# As a Python without the package sees it.
WITHOUT = """
import importlib.util, sys
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name in sys.argv[1:] else real(name, *rest)
import sparlow
"""


def last_line(words: list[str], **environment: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, env={**os.environ, **environment})
    assert done.returncode == 1
    return done.stderr.splitlines()[-1]


def test_missing_packages_are_named_with_the_command_that_installs_them() -> None:
    message = last_line([sys.executable, "-c", WITHOUT, "transformers", "yaml"])
    assert message.startswith("ImportError: sparlow needs packages that ")
    assert message.endswith("lacks: transformers, pyyaml; pip install transformers pyyaml")


def test_a_tree_that_was_never_built_says_how(tmp_path: Path) -> None:
    folder = Path(sparlow.__file__).parent
    shutil.copytree(folder, tmp_path / "sparlow", ignore=shutil.ignore_patterns("_core*", "lib", "bin"))
    (message,) = subprocess.run(
        [sys.executable, "-m", "sparlow", "--version"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
    ).stderr.splitlines()
    assert f"{tmp_path / 'sparlow'} has no compiled part" in message
    assert "pip install ." in message


def test_the_list_is_that_of_the_package() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text()
    listed = text.split("dependencies = [")[1].split("]")[0]
    names = {line.strip().strip('",').split(">")[0] for line in listed.splitlines() if line.strip()}
    assert set(NEEDED.values()) == names
