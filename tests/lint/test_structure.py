"""Who may look at whom: includes and imports against the table of ARCHITECTURE.md, sizes and forbidden words."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CPP = {".cpp", ".hpp", ".h", ".cu", ".cuh"}
CODE = CPP | {".py", ".pyi"}
FOLDERS = ["bench", "cmake", "cpp", "cuda", "docs", "python", "tests"]
INSTALLED = ROOT / "python" / "sparlow" / "include"  # what a build in place puts there
LONGEST_FILE, LONGEST_FUNCTION = 300, 60


@dataclass(frozen=True)
class Room:
    """A folder, the quoted includes it may use, and the angle-bracket headers it may use beside standard C++."""

    folder: str
    quoted: str
    system: str = r"$^"
    forbidden: str = r"$^"


THREADS = r"thread|mutex|atomic|condition_variable|future|omp\.h"
ROOMS = [
    Room("cpp/include", r"sparlow/", r"stddef\.h|stdint\.h"),
    Room("cpp/core", r"sparlow/|core/", r"dlfcn\.h", forbidden=THREADS),  # loads the CUDA plugin
    Room("cpp/solvers", r"sparlow/|solvers/", forbidden=THREADS),
    Room("cpp/cpu", r"sparlow/|cpu/", r"cblas\.h|immintrin\.h|sched\.h|unistd\.h"),
    Room("cpp/layer", r"sparlow/|layer/", forbidden=THREADS),
    Room("cpp/io", r"sparlow/(checkpoint|error|view)\.hpp|io/", r"fcntl\.h|unistd\.h|sys/.*"),
    Room("cpp/capi", r"sparlow/|capi/", r"stddef\.h|stdint\.h", forbidden=THREADS),
    Room("cpp/examples/llama", r"sparlow/(sparlow\.h|embed\.hpp)|[a-z_]+\.(hpp|cuh)", r"cu.*|nv/target"),
    Room("cpp/examples/server", r"server/|llama/engine\.hpp", r"boost/.*|nlohmann/json\.hpp|oniguruma\.h|utf8proc\.h"),
    Room("cuda/kernels", r"(?!.*sparlow/)(?!backend/).*", r"cuda.*|cub/.*|cooperative_groups.*|mma\.h"),
    Room("cuda/backend", r"sparlow/|kernels?[/.]|backend/|formats/|[a-z_]+\.hpp", r"cu.*|nv.*|dlfcn\.h"),
    Room("cuda/formats", r"sparlow/|kernels?[/.]|backend/|formats/|[a-z_]+\.hpp", r"cu.*|nv.*|dlfcn\.h"),
    Room("bench/cpp", r"sparlow/|[a-z_]+\.(hpp|cuh)", r"cblas\.h|cu[a-z_]+\w*\.h|dlfcn\.h"),
    Room("python/bindings", r"sparlow/|bindings\.hpp", r"pybind11/.*"),
]
INCLUDE = re.compile(r'^\s*#\s*include\s*(?:"([^"]+)"|<([^>]+)>)', re.MULTILINE)
STANDARD = re.compile(r"[a-z_0-9]+")  # standard C++ headers have no extension

RUNTIME = {"torch", "transformers", "safetensors", "pydantic", "yaml", "typer", "rich", "numpy"}
OPTIONAL = {"datasets", "gguf", "mwparserfromhell", "click"}
# Imports that only some modules may have: mathematics knows no models, recipes know no tensors' models.
ONLY = {"solve": {"torch"}, "recipe": {"pydantic", "yaml", "torch"}, "report": {"rich", "torch"}}
FORBIDDEN_CALLS = re.compile(r"\b(torch|np|numpy)\.(linalg|svd|cholesky|qr|eigh)\b")

FORBIDDEN_WORDS = {
    "unfinished work": r"\b(TO" + r"DO|FIX" + r"ME|X" + r"XX)\b",
    "a machine's folder": r"/(?:work|opt/w|root|home)/" + r"[\w.]",
    "a tracker's number": r"\bissue\s+#?\d",
}


def files(suffixes: set[str], folders: list[str]) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in suffixes and "__pycache__" not in path.parts and INSTALLED not in path.parents:
                yield path


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize(
    "room", [room for room in ROOMS if (ROOT / room.folder).exists()], ids=lambda room: room.folder
)
def test_includes_follow_the_table(room: Room) -> None:
    wrong = []
    for path in files(CPP, [room.folder]):
        for quoted, system in INCLUDE.findall(path.read_text()):
            header = quoted or system
            pattern = room.quoted if quoted else f"{STANDARD.pattern}|{room.system}"
            matches = re.match(pattern, header) if quoted else re.fullmatch(pattern, header)
            if not matches or re.fullmatch(room.forbidden, header):
                wrong.append(f"{name(path)} includes {header}")
    assert not wrong, wrong


def test_every_folder_of_sources_is_in_the_table() -> None:
    known = {room.folder for room in ROOMS}
    folders = {"/".join(path.relative_to(ROOT).parts[:2]) for path in files(CPP, ["cpp", "cuda", "python"])}
    assert folders <= known | {"cpp/examples"}, folders - known


def test_solvers_never_touch_elements_of_a_view() -> None:
    pattern = re.compile(r"\bdata\s*\[|\.data\b(?!\()|\.row\(|->data\b")
    wrong = [name(path) for path in files(CPP, ["cpp/solvers"]) if pattern.search(path.read_text())]
    assert not wrong, wrong


def test_shared_code_has_no_device_switches() -> None:
    pattern = re.compile(r"^\s*#\s*if.*CUDA", re.MULTILINE)
    shared = CPP - {".cu", ".cuh"}
    wrong = [name(path) for path in files(shared, ["cpp", "python"]) if pattern.search(path.read_text())]
    assert not wrong, wrong


def test_nothing_in_the_library_prints_or_exits() -> None:
    pattern = re.compile(r"\b(printf|std::cout|std::cerr|std::abort|std::exit|abort|exit)\s*(\(|<<)")
    wrong = [name(path) for path in files(CPP, ["cpp", "cuda", "python"]) if pattern.search(path.read_text())]
    assert not [path for path in wrong if not path.startswith("cpp/examples")], wrong


def imports(tree: ast.AST) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
    return {module.split(".")[0] for module in found}


@pytest.mark.parametrize("path", list(files({".py"}, ["python/sparlow"])), ids=lambda path: path.name)
def test_imports_follow_the_table(path: Path) -> None:
    text = path.read_text()
    allowed = ONLY.get(path.stem, RUNTIME | OPTIONAL) | {"sparlow"} | set(sys.stdlib_module_names)
    assert imports(ast.parse(text)) <= allowed, imports(ast.parse(text)) - allowed
    assert not FORBIDDEN_CALLS.search(text), "a factorisation that the core has"


@pytest.mark.parametrize("path", list(files({".py"}, ["python/sparlow"])), ids=lambda path: path.name)
def test_functions_are_short(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef):
            body = node.body[1:] if ast.get_docstring(node) else node.body  # a command's options are a long signature
            length = (node.end_lineno or 0) - body[0].lineno if body else 0
            assert length < LONGEST_FUNCTION, f"{name(path)}: {node.name}"


def test_files_are_short() -> None:
    lengths = {name(path): len(path.read_text().splitlines()) for path in files(CODE, FOLDERS)}
    long = {path: count for path, count in lengths.items() if count > LONGEST_FILE}
    stories = ("tests/", "bench/ladders/")  # read from top to bottom in one file
    assert not [path for path in long if not path.startswith(stories)], long


@pytest.mark.parametrize("what", FORBIDDEN_WORDS)
def test_forbidden_words(what: str) -> None:
    pattern = re.compile(FORBIDDEN_WORDS[what])
    texts = CODE | {".md", ".txt", ".toml", ".json", ".jsonl", ".yaml", ".yml"}
    paths = [*files(texts, FOLDERS), *(path for path in ROOT.iterdir() if path.suffix in texts)]
    wrong = [f"{name(path)}: {match[0]}" for path in paths if (match := pattern.search(path.read_text()))]
    assert not wrong, wrong
