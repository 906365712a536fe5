"""Plain prose from a MediaWiki dump."""

from __future__ import annotations

import bz2
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

# Shorter pages are disambiguation lists and stubs: names, not prose.
_SHORTEST_ARTICLE = 2000

_DROPPED_TAGS = "ref|table|gallery|math|timeline|imagemap|score|code|source|syntaxhighlight|pre|div"
_MARKUP = re.compile(
    rf"<!--.*?-->|<ref\b[^>]*/>|<({_DROPPED_TAGS})\b[^>]*>.*?</\1>|^\{{\|.*?^\|\}}|^[*:;#][^\n]*", re.S | re.I | re.M
)
_APPENDIX = re.compile(
    r"^==\s*(see also|(notes and )?references|(foot)?notes|external links|further reading|bibliography|sources"
    r"|citations)\s*==\s*$",
    re.M | re.I,
)
_FOREIGN_LINK = re.compile(r"\s*(file|image|category|wikt|[a-z]{2,3}):", re.I)
# Rests of tables and captions (prose has no bars), and parentheses that lost what they held.
_LEFTOVERS = re.compile(r"^[!{}].*$|^.*(?:\||\[\[).*$|\(\s*[;,]?\s*\)", re.M)


def plain_articles(dump: Path) -> list[str]:
    """Title and prose of every article of a .bz2 dump that is longer than a stub, in the dump's order.

    RuntimeError if mwparserfromhell is not installed.
    """
    texts = (f"{title}\n\n{plain_text(source)}" for title, source in _articles(dump))
    return [text for text in texts if len(text) >= _SHORTEST_ARTICLE]


def plain_text(source: str) -> str:
    """Prose of one page of wiki markup: no tables, notes, links, lists or appendices."""
    try:
        import mwparserfromhell
    except ImportError as error:
        raise RuntimeError("the demo needs the package mwparserfromhell: pip install 'sparlow[demo]'") from error
    page = mwparserfromhell.parse(_APPENDIX.split(_MARKUP.sub("", source), maxsplit=1)[0])
    for link in page.filter_wikilinks(recursive=False):
        if _FOREIGN_LINK.match(str(link.title)):
            page.remove(link)
    text = _LEFTOVERS.sub("", page.strip_code(normalize=True, collapse=True))
    text = re.sub(r"[ \t]+", " ", text)
    return re.sub(r"\s*\n\s*\n\s*", "\n\n", text).strip()


def _articles(dump: Path) -> Iterator[tuple[str, str]]:
    """Title and wiki markup of each page of the main namespace that is no redirect."""
    with bz2.open(dump) as file:
        for _, element in ElementTree.iterparse(file):
            if not element.tag.endswith("}page"):
                continue
            if element.findtext("{*}ns") == "0" and element.find("{*}redirect") is None:
                yield element.findtext("{*}title") or "", element.findtext("{*}revision/{*}text") or ""
            element.clear()
