"""`sparlow.json`, the last file written into a checkpoint: its presence says that the folder is complete."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT_VERSION = 1
MANIFEST_NAME = "sparlow.json"


@dataclass(frozen=True)
class ShardRecord:
    """Size in bytes and sha256 (hex) of one file as it was written."""

    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What `sparlow.json` says: who wrote the folder, from which model and data, and what its shards must be.

    calibration_hash: SHA-256 of the calibration windows, None without calibration.
    """

    sparlow_version: str
    shards: dict[str, ShardRecord]
    base_model: str | None = None
    calibration_hash: str | None = None
    format_version: int = FORMAT_VERSION

    def to_json(self) -> str:
        """Text of the file."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def check_format_version(where: str | Path, version: object, written_by: str | None = None) -> None:
    """ValueError, naming `where` it stands, for a version that only a newer sparlow reads, or that is not a number."""
    if type(version) is not int or version < 1:
        raise ValueError(f"{where}: format_version must be a positive whole number, got {version!r}")
    if version > FORMAT_VERSION:
        wanted = f"sparlow >= {written_by}" if written_by else "a newer sparlow"
        command = f'pip install "sparlow>={written_by}"' if written_by else "pip install --upgrade sparlow"
        raise ValueError(
            f"{where}: this checkpoint has format version {version}, the installed sparlow reads up to "
            f"{FORMAT_VERSION}: install {wanted} ({command})"
        )


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file; ValueError naming the file if it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object")
    return content


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's config.json; ValueError naming it if it is missing or no JSON object."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"{folder} has no config.json: it is not the folder of a model")
    return read_json(folder / "config.json")


def read_manifest(folder: Path) -> Manifest:
    """Read `sparlow.json`. FileNotFoundError without the folder, ValueError for an unfinished checkpoint."""
    if not folder.is_dir():
        raise FileNotFoundError(f"no checkpoint folder at {folder}; download a model of the hub into a folder first")
    path = folder / MANIFEST_NAME
    if not path.is_file():
        raise ValueError(
            f"{folder} is not a finished sparlow checkpoint: {MANIFEST_NAME}, the last file of a save, is "
            "missing. Compress again, or write a loaded model with sparlow.save"
        )
    content = read_json(path)
    version = content.get("sparlow_version")
    check_format_version(path, content.get("format_version"), version if isinstance(version, str) else None)
    return _manifest(path, content)


def _manifest(path: Path, content: Mapping[str, Any]) -> Manifest:
    try:
        shards = {
            name: ShardRecord(int(entry["bytes"]), str(entry["sha256"])) for name, entry in content["shards"].items()
        }
        return Manifest(
            sparlow_version=str(content["sparlow_version"]),
            shards=shards,
            base_model=content["base_model"],
            calibration_hash=content["calibration_hash"],
            format_version=content["format_version"],
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"{path} is damaged: {type(error).__name__} {error}") from error
