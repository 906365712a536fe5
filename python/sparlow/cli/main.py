"""The commands, and how an error becomes one line and an exit code."""

from __future__ import annotations

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from transformers import logging as transformers_logging

import sparlow
from sparlow import __version__
from sparlow.cli.bench import bench
from sparlow.cli.compress import compress
from sparlow.cli.demo import demo
from sparlow.cli.eval import evaluate
from sparlow.cli.generate import generate
from sparlow.cli.inspect import inspect
from sparlow.cli.methods import methods
from sparlow.cli.output import Interrupted, error_text
from sparlow.cli.reporting import report

USER_ERROR, FAILURE, INTERRUPTED = 2, 1, 130
_REFUSED_BY_DISK = (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG, errno.EROFS)

# click's ClickException; releases of typer differ in whose copy of click they use.
_UsageProblem: type[Exception] = typer.BadParameter.__mro__[2]

app = typer.Typer(
    name="sparlow",
    help="Compress language models into sparse + low-rank layers, and see what it cost.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(compress)
app.command("eval")(evaluate)
app.command()(inspect)
app.command()(report)
app.command()(generate)
app.command()(bench)
app.command()(methods)
app.command()(demo)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"sparlow {__version__}")
        raise typer.Exit


def _print_cmake_dir(wanted: bool) -> None:
    if wanted:
        typer.echo(str(Path(sparlow.__file__).parent / "lib" / "cmake" / "sparlow"))
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    cmake_dir: Annotated[
        bool, typer.Option("--cmake-dir", callback=_print_cmake_dir, is_eager=True, help="Print sparlow_DIR for CMake.")
    ] = False,
) -> None:
    del version, cmake_dir


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 1 (a failure of machine or program), 2 (a mistake in what was
    asked), 130 (Ctrl-C). Errors are one line on stderr; with SPARLOW_TRACEBACK=1 the traceback comes first.
    """
    transformers_logging.set_verbosity(logging.ERROR)
    # It tells each attempt to reach the hub; that it failed is in the error.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(args=words or ["--help"], standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except Interrupted as error:
        return _fail(str(error), INTERRUPTED)
    except _UsageProblem as error:
        message = error.format_message()  # type: ignore[attr-defined]
        return _fail(message.replace("Value error, ", ""), USER_ERROR)
    except (ValueError, OSError, RuntimeError, MemoryError) as error:
        if os.environ.get("SPARLOW_TRACEBACK"):
            traceback.print_exc()
        return _fail("; ".join([error_text(error), *getattr(error, "__notes__", [])]), _exit_code(error))
    if code == INTERRUPTED:
        return _fail("interrupted; nothing half-written was left behind", INTERRUPTED)
    return code if isinstance(code, int) else 0


def _exit_code(error: Exception) -> int:
    """Bad values and wrong files are the user's; a full disk, missing memory and a broken environment are not."""
    if isinstance(error, OSError):
        return FAILURE if error.errno in _REFUSED_BY_DISK else USER_ERROR
    return USER_ERROR if isinstance(error, ValueError) else FAILURE


def _fail(message: str, code: int) -> int:
    line = "; ".join(part.strip() for part in message.splitlines() if part.strip())
    print(f"sparlow: {line}" if code == INTERRUPTED else f"sparlow: error: {line}", file=sys.stderr)
    return code
