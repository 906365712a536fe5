"""Module name patterns and the "did you mean" hints that every user-facing error shares."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence

_REGEX_PREFIX = "re:"
_SHOWN_NAMES = 6


def check_pattern(pattern: str) -> str:
    """Return `pattern` if it is an exact module name or a valid `re:` expression, else raise ValueError."""
    if not pattern.startswith(_REGEX_PREFIX):
        if not pattern:
            raise ValueError("a module pattern is empty; give a module name or 're:<regular expression>'")
        return pattern
    try:
        re.compile(pattern[len(_REGEX_PREFIX) :])
    except re.error as error:
        raise ValueError(f"'{pattern}' is not a valid regular expression: {error}") from error
    return pattern


def matches(pattern: str, name: str) -> bool:
    """True if `name` is exactly `pattern`, or if a `re:` pattern matches the whole of `name`."""
    if pattern.startswith(_REGEX_PREFIX):
        return re.fullmatch(pattern[len(_REGEX_PREFIX) :], name) is not None
    return pattern == name


def matches_any(patterns: Iterable[str], name: str) -> bool:
    return any(matches(pattern, name) for pattern in patterns)


def suggest(word: str, choices: Iterable[str]) -> str:
    """'; did you mean 'x'?' for the choice nearest to `word`, else the list of choices."""
    options = sorted(choices)
    near = difflib.get_close_matches(word, options, n=1, cutoff=0.6)
    if near:
        return f"; did you mean '{near[0]}'?"
    return f"; choose one of: {', '.join(options)}"


def near_names(pattern: str, names: Sequence[str]) -> str:
    """The few of `names` that look most like a pattern which matched none of them."""
    plain = pattern.removeprefix(_REGEX_PREFIX).replace("\\", "").replace(".*", "")
    tails: dict[str, str] = {}
    for name in names:
        tails.setdefault(name.rpartition(".")[2], name)
    near = difflib.get_close_matches(plain, names, n=_SHOWN_NAMES, cutoff=0.5)
    near += [tails[tail] for tail in difflib.get_close_matches(plain.rpartition(".")[2], list(tails), n=3)]
    shown = list(dict.fromkeys(near)) or list(tails.values())
    return ", ".join(shown[:_SHOWN_NAMES])
