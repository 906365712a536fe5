"""A folder that appears complete or not at all."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparlow.manifest import MANIFEST_NAME


@contextmanager
def new_folder(path: str | os.PathLike[str], overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder beside `path`; when the block ends well it is synced and takes the name `path`.

    When the block fails, for whatever reason (full disk, Ctrl-C), the folder is removed and what was at
    `path` stays as it was. Raises FileExistsError if `path` exists and `overwrite` is False, or if it exists
    and is not a checkpoint; OSError, with the free space in its message, if the disk refuses.
    """
    target = Path(os.path.realpath(path))
    check_target(target, overwrite)
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = _sibling(target, "unfinished")
    folder.mkdir()
    try:
        yield folder
        _sync(folder)
        _take_place(folder, target)
    except OSError as error:
        raise refused_by_disk(target, error, ", nothing was left behind") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def refused_by_disk(target: Path, error: OSError, more: str = "") -> OSError:
    """The error with what could not be written, and the bytes that are free there, in its message."""
    free = shutil.disk_usage(target.parent).free
    reason = f"{error.strerror or error}; {free} bytes are free there{more}"
    return OSError(error.errno, f"could not write {target}: {reason}")


def check_target(path: str | os.PathLike[str], overwrite: bool) -> None:
    """Raise FileExistsError if a checkpoint may not be written to `path`. Ask before the work, not after."""
    target = Path(os.path.realpath(path))
    if not os.path.lexists(target):
        return
    if not overwrite:
        raise FileExistsError(
            f"{target} exists; choose another folder, or replace it with overwrite=True (--overwrite)"
        )
    if not target.is_dir() or (any(target.iterdir()) and not (target / MANIFEST_NAME).is_file()):
        raise FileExistsError(
            f"{target} is not a sparlow checkpoint (it has no {MANIFEST_NAME}) and is not replaced; remove it"
        )


def _sibling(target: Path, state: str) -> Path:
    return target.with_name(f".{target.name}.{state}-{secrets.token_hex(4)}")


def _sync(folder: Path) -> None:
    for path in (*(p for p in folder.rglob("*") if p.is_file()), folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _take_place(folder: Path, target: Path) -> None:
    if not target.exists():
        os.rename(folder, target)
        return
    retired = _sibling(target, "replaced")
    try:
        os.rename(target, retired)
        os.rename(folder, target)
    finally:
        # Whatever came between the two renames, Ctrl-C included: the old folder takes its place again.
        if not target.exists():
            os.rename(retired, target)
    shutil.rmtree(retired, ignore_errors=True)
