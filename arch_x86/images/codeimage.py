"""This module reads the code-image format, version 1, which docs/code-image.md specifies.

A code image is one JSON object with machine code, symbols, and the kernel's lists of text that
probes must respect.
"""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn, cast

from arch_x86.images.image_memory import ADDRESS_LIMIT, Area, Memory, printable
from engine.errors import InputError
from engine.image import ExceptionEntry, Image, Range, Reserved, ReservedKind, Symbol

__all__ = ("FORMAT", "load_code_image")

FORMAT: Final = "code-image"
_VERSION: Final = 1
_OPTIONAL: Final = (
    "exception_table",
    "reserved",
    "blacklist",
    "indirect_thunks",
    "preemption",
    "ibt",
    "red_zone",
)
_KEYS: Final = frozenset(("format", "version", "name", "segments", "symbols", *_OPTIONAL))


class _Object:
    """This class reads the values of one JSON object and checks their types.

    :param path: where in the document the object stands, for messages; "" for the document itself.
    :raises InputError: in the constructor and in each method, when a value is missing or not of the
        type that is asked for.
    """

    def __init__(self, file: str, value: object, path: str) -> None:
        self._file = file
        self._path = path
        if not isinstance(value, dict):
            self.fail(f"{path or 'the document'} is {_kind(value)}; it must be an object")
        self._value = cast("dict[str, Any]", value)

    def fail(self, text: str) -> NoReturn:
        raise InputError(f"{self._file}: {text}")

    def where(self, key: str) -> str:
        return f"{self._path}.{key}" if self._path else f'"{key}"'

    def unknown_keys(self) -> list[str]:
        return [printable(key) for key in self._value if key not in _KEYS]

    def has(self, key: str) -> bool:
        return key in self._value

    def _get(self, key: str, kind: type, article: str) -> Any:
        if key not in self._value:
            self.fail(f"{self.where(key)} is missing; it must be {article}")
        value = self._value[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            self.fail(f"{self.where(key)} is {_kind(value)}; it must be {article}")
        return value

    def text(self, key: str) -> str:
        value = cast("str", self._get(key, str, "a string"))
        if not value.isprintable():
            self.fail(f"{self.where(key)} has characters that do not print; use plain text")
        return value

    def flag(self, key: str) -> bool:
        return self.has(key) and cast("bool", self._get(key, bool, "true or false"))

    def address(self, key: str) -> int:
        value = cast("int", self._get(key, int, "an integer"))
        if not 0 <= value < ADDRESS_LIMIT:
            self.fail(
                f"{self.where(key)} is beyond 64 bits; it must be from 0 to {ADDRESS_LIMIT - 1:#x}"
            )
        return value

    def range(self, start: str = "addr", *, minimum: int = 1) -> Range:
        addr, size = self.address(start), self.address("size")
        if size < minimum:
            self.fail(f"{self.where('size')} is {size}; it must be at least {minimum}")
        if addr + size > ADDRESS_LIMIT:
            self.fail(f"{self._path}: {size:#x} bytes at {addr:#x} reach beyond 64-bit addresses")
        return Range(addr, size)

    def object(self, key: str) -> _Object:
        return _Object(self._file, self._value[key], key)

    def objects(self, key: str) -> list[_Object]:
        return [
            _Object(self._file, value, f"{key}[{index}]")
            for index, value in enumerate(self.items(key))
        ]

    def items(self, key: str) -> list[Any]:
        return cast("list[Any]", self._get(key, list, "an array")) if self.has(key) else []


def _kind(value: object) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds: tuple[tuple[type, str], ...] = (
        (dict, "an object"),
        (list, "an array"),
        (str, "a string"),
        (int, "an integer"),
    )
    return next(
        (text for kind, text in kinds if isinstance(value, kind)), "a number with a fraction"
    )


def load_code_image(text: str, name: str) -> Image:
    """Return the image of the code-image document ``text``.

    :param name: the file's name, which begins each message.
    :raises InputError: the text is no code image of version 1, or a value in it is wrong; the
        message says where in the document.
    """
    try:
        document: object = json.loads(text)
    except RecursionError:
        raise InputError(f"{name}: JSON nested too deeply; give a code image") from None
    except ValueError as error:  # Bad JSON raises it, and an integer of over 4300 digits.
        raise InputError(f"{name}: not valid JSON: {printable(str(error))}") from None
    top = _Object(name, document, "")
    if not top.has("format") or top.text("format") != FORMAT:
        top.fail(f'not a code image; its "format" must be "{FORMAT}"')
    version = top.address("version")
    if version != _VERSION:
        top.fail(f"code image of version {version}; this program reads version {_VERSION}")
    memory = _memory(top, name)
    symbols = tuple(_symbol(item, memory) for item in _required(top, "symbols").objects("symbols"))
    return Image(
        name=name,
        segments=memory.segments(),
        symbols=symbols,
        exception_table=tuple(_exception(item) for item in top.objects("exception_table")),
        reserved=tuple(_reserved(item) for item in top.objects("reserved")),
        blacklist=_blacklist(top, name, symbols),
        indirect_thunks=_thunks(top),
        preemption=top.flag("preemption"),
        ibt=top.flag("ibt"),
        red_zone=top.flag("red_zone"),
        red_zone_given=top.has("red_zone"),
        warnings=tuple(
            f'key "{key}" is not part of the format: ignored' for key in top.unknown_keys()
        ),
    )


def _required(top: _Object, key: str) -> _Object:
    if not top.has(key):
        top.fail(f'"{key}" is missing; it must be an array')
    return top


def _memory(top: _Object, name: str) -> Memory:
    areas: list[Area] = []
    for item in _required(top, "segments").objects("segments"):
        addr, digits = item.address("addr"), item.text("hex")
        try:
            data = bytes.fromhex(digits)
        except ValueError:
            item.fail(f"{item.where('hex')} is not pairs of hexadecimal digits")
        if not data:
            item.fail(f"{item.where('hex')} is empty; leave the segment out")
        areas.append(Area(addr, bytearray(data), len(data), executable=True))
    if not areas:
        top.fail('"segments" is empty; give at least one')
    return Memory(name, areas)


def _symbol(item: _Object, memory: Memory) -> Symbol:
    name, place = item.text("name"), item.range(minimum=0)
    if not name:
        item.fail(f"{item.where('name')} is empty")
    if memory.area_at(place.addr) is None:
        item.fail(f"symbol {name} at {place.addr:#x} lies outside of the segments")
    at = place.addr
    while at < place.end:  # A function may lie in several segments that touch each other.
        area = memory.area_at(at)
        if area is None:
            item.fail(
                f"symbol {name}: its {place.size:#x} bytes from {place.addr:#x} reach beyond the"
                " segments"
            )
        at = area.end
    return Symbol(name, place.addr, place.size)


def _exception(item: _Object) -> ExceptionEntry:
    return ExceptionEntry(
        item.address("insn"), item.address("fixup") if item.has("fixup") else None
    )


def _reserved(item: _Object) -> Reserved:
    place, kind = item.range(), item.text("kind")
    if kind not in {known.value for known in ReservedKind}:
        item.fail(
            f'{item.where("kind")} is "{kind}"; it must be one of'
            f" {', '.join(known.value for known in ReservedKind)}"
        )
    return Reserved(place.addr, place.size, ReservedKind(kind))


def _blacklist(top: _Object, name: str, symbols: tuple[Symbol, ...]) -> tuple[Range, ...]:
    by_name: dict[str, list[Range]] = {}
    for symbol in symbols:
        by_name.setdefault(symbol.name, []).append(Range(symbol.addr, max(symbol.size, 1)))
    result: list[Range] = []
    for index, value in enumerate(top.items("blacklist")):
        if isinstance(value, str):
            if value not in by_name:
                top.fail(f"blacklist[{index}] names {printable(value)}, which is not in symbols")
            result += by_name[value]
        else:
            result.append(_Object(name, value, f"blacklist[{index}]").range())
    return tuple(result)


def _thunks(top: _Object) -> Range | None:
    if not top.has("indirect_thunks"):
        return None
    item = top.object("indirect_thunks")
    start, end = item.address("start"), item.address("end")
    if end <= start:
        item.fail(f"indirect_thunks ends at {end:#x}, not behind its start {start:#x}")
    return Range(start, end - start)
