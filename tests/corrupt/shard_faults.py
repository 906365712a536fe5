"""Ways to damage a safetensors file, one per rule of the reader. Each returns the damaged bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

Header = dict[str, Any]


def split(content: bytes) -> tuple[Header, bytes]:
    """Header and data of a file."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(header: Header | bytes, data: bytes) -> bytes:
    """A file of a header, as an object or as raw text, and data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def _edit(change: Callable[[Header, str], None]) -> Callable[[bytes], bytes]:
    def fault(content: bytes) -> bytes:
        header, data = split(content)
        name = max((n for n in header if n != "__metadata__"), key=lambda n: header[n]["data_offsets"][1])
        change(header, name)
        return join(header, data)

    return fault


def _set(key: str, value: object) -> Callable[[bytes], bytes]:
    return _edit(lambda header, name: header[name].update({key: value}))


def _shift(begin: int, end: int) -> Callable[[bytes], bytes]:
    def change(header: Header, name: str) -> None:
        first, last = header[name]["data_offsets"]
        header[name]["data_offsets"] = [first + begin, last + end]

    return _edit(change)


def _duplicate_key(content: bytes) -> bytes:
    header, data = split(content)
    name = next(n for n in header if n != "__metadata__")
    text = json.dumps(header)
    return join((text[:-1] + f", {json.dumps(name)}: {json.dumps(header[name])}}}").encode(), data)


def _raw_header(text: bytes) -> Callable[[bytes], bytes]:
    return lambda content: join(text, split(content)[1])


# name -> (damage, words that the message must contain)
FAULTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty file": (lambda _: b"", "truncated"),
    "half a length": (lambda content: content[:5], "truncated"),
    "header past the end": (lambda content: (1 << 20).to_bytes(8, "little") + content[8:], "truncated"),
    "header over the limit": (lambda content: (1 << 40).to_bytes(8, "little") + content[8:], "truncated"),
    "truncated header": (lambda content: content[:40], "truncated"),
    "truncated data": (lambda content: content[:-1], "truncated or altered"),
    "trailing data": (lambda content: content + b"\0", "truncated or altered"),
    "not JSON": (_raw_header(b"{nonsense"), "not valid JSON"),
    "not UTF-8": (_raw_header(b'{"\xff": 1}'), "not valid JSON"),
    "nested without end": (_raw_header(b"[" * 20_000), "not valid JSON"),
    "nested deeply": (_raw_header(b'{"__metadata__":{}, "a":' + b"[" * 150 + b"]" * 150 + b"}"), "not valid JSON"),
    "NaN": (_raw_header(b'{"a": NaN}'), "not valid JSON"),
    "lone surrogate": (_raw_header(rb'{"a\ud800": 1}'), "not valid JSON"),
    "control character": (_raw_header(b'{"a\x01": 1}'), "not valid JSON"),
    "byte order mark": (_raw_header(b"\xef\xbb\xbf{}"), "not valid JSON"),
    "trailing comma": (_raw_header(b'{"a": [1,]}'), "not valid JSON"),
    "text after the header": (_raw_header(b"{} x"), "not valid JSON"),
    "not an object": (_raw_header(b"[]"), "not a JSON object"),
    "number as metadata": (_edit(lambda h, _: h.update({"__metadata__": {"a": 1}})), "__metadata__"),
    "list as metadata": (_edit(lambda h, _: h.update({"__metadata__": []})), "__metadata__"),
    "entry not an object": (_edit(lambda h, n: h.update({n: 3})), "not an object"),
    "duplicate key": (_duplicate_key, "duplicate key"),
    "duplicate key inside": (_raw_header(b'{"a": {"dtype": "U8", "dtype": "U8"}}'), "duplicate key"),
    "duplicate key, escaped": (_raw_header(rb'{"a": 1, "\u0061": 2}'), "duplicate key"),
    "extent past 63 bits": (_set("shape", [2**63]), "bad shape"),
    "extent of 30 digits": (_set("shape", [10**30]), "bad shape"),
    "extent of 5000 digits": (
        _raw_header(b'{"a":{"dtype":"U8","shape":[' + b"9" * 5000 + b'],"data_offsets":[0,1]}}'),
        "bad shape",
    ),
    "extent minus zero": (_raw_header(b'{"a":{"dtype":"U8","shape":[-0],"data_offsets":[0,0]}}'), "bad shape"),
    "negative offset": (_set("data_offsets", [-10, 0]), "data_offsets"),
    "offsets backwards": (_set("data_offsets", [58, 48]), "does not fill"),
    "product wraps to its size": (_set("shape", [2**61 + 5, 8]), "does not fill"),
    "offsets past the end": (_shift(2**40, 2**40), "hole or overlap"),
    "offset not a list": (_set("data_offsets", {"0": 1}), "data_offsets"),
    "type not a string": (_set("dtype", 16), "unknown dtype"),
    "negative extent": (_set("shape", [-1, 4]), "bad shape"),
    "float extent": (_set("shape", [1.0, 4]), "bad shape"),
    "boolean extent": (_set("shape", [True, 4]), "bad shape"),
    "huge extents": (_set("shape", [2**62, 2**62]), "does not fill"),
    "missing shape": (_edit(lambda h, n: h[n].pop("shape")), "bad shape"),
    "three offsets": (_set("data_offsets", [0, 1, 2]), "data_offsets"),
    "unknown dtype": (_set("dtype", "BF17"), "unknown dtype"),
    "wrong dtype size": (_set("dtype", "F64"), "does not fill"),
    "sub-byte tensor": (_edit(lambda h, n: h[n].update({"dtype": "F4", "shape": [3]})), "does not fill"),
    "hole": (_shift(1, 1), "hole or overlap"),
    "overlap": (_shift(-1, -1), "hole or overlap"),
    "size differs": (_shift(0, -1), "does not fill"),
}
