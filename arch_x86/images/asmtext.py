"""This module assembles text in Intel syntax by keystone into an image, as GNU as and ld would.

The image has one section of text. Each label becomes a symbol, unless its name starts with ``.L``.
keystone can crash, hang or read other files on input that it was not made for (``.text``, a lone
``/``, ``.incbin``), so :mod:`arch_x86.images.asmlines` reads each statement first, and only known
forms go on to keystone.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from arch_x86.images.asmlines import Statement, read_statements
from arch_x86.images.image_memory import DEFAULT_BASE, Area, Memory, check_base, printable
from arch_x86.isa.assemble import assemble
from engine.errors import InputError
from engine.image import Image, Symbol

__all__ = ("load_asm",)

_POINTER = 8


def load_asm(text: str, name: str, base: int | None = None) -> Image:
    """Return the image of assembly ``text``, made for address ``base`` (0x10000000 by default).

    A label in front of data becomes a data symbol, any other label a function. A symbol reaches to
    the next one. Labels that start with ``.L`` become no symbols.

    :raises InputError: keystone refuses the text or might not survive it (the message names the
        line), or ``base`` is no address of a page.
    """
    start = check_base(name, DEFAULT_BASE if base is None else base)
    statements = read_statements(text, name)
    labels = _labels(statements, name)
    code, addresses = _assemble(statements, list(labels), name, start)
    if not code:
        raise InputError(f"{name}: no instruction; give assembly in Intel syntax")
    memory = Memory(name, [Area(start, bytearray(code), len(code), executable=True)])
    bounds = sorted(
        {addr for label, addr in addresses.items() if not label.startswith(".L")}
        | {start + len(code)}
    )
    following = dict(pairwise(bounds))
    symbols = tuple(
        Symbol(label, addr, following.get(addr, addr) - addr, function=not labels[label])
        for label, addr in addresses.items()
        if not label.startswith(".L")
    )
    return Image(name=name, segments=memory.segments(), symbols=symbols, red_zone_given=False)


def _labels(statements: Sequence[Statement], name: str) -> dict[str, bool]:
    """Return each label in the order of the text, with True where it stands in front of data.

    :raises InputError: a label is defined twice.
    """
    labels: dict[str, bool] = {}
    waiting: list[str] = []
    for statement in statements:
        for label in statement.labels:
            if label in labels:
                raise InputError(f"{name}:{statement.line}: label {label} is defined twice")
            labels[label] = False
            waiting.append(label)
        if statement.code and not statement.padding:
            labels.update((label, statement.data) for label in waiting)
            waiting.clear()
    return labels


def _assemble(
    statements: Sequence[Statement], labels: list[str], name: str, start: int
) -> tuple[bytes, dict[str, int]]:
    """Return the machine code, and the address of each of ``labels``.

    keystone does not tell where a label lies, so a table of their addresses is assembled behind the
    code, read, and cut off.

    :raises InputError: keystone refuses the text, or makes nothing of it.
    """
    lines = [line for statement in statements for line in statement.lines()]
    table = [f".quad {label}" for label in labels]
    try:
        whole = assemble("\n".join((*lines, *table)), start)
    except InputError as error:
        line, text = _culprit(statements, start)
        where = f"{name}:{line}: {printable(text)}" if line else name
        raise InputError(f"{where}: {error}") from None
    size = len(whole) - _POINTER * len(labels)
    if size < 0:
        raise InputError(f"{name}: keystone made nothing of it; give assembly in Intel syntax")
    addresses = {
        label: int.from_bytes(whole[size + _POINTER * i :][:_POINTER], "little")
        for i, label in enumerate(labels)
    }
    return whole[:size], addresses


def _culprit(statements: Sequence[Statement], start: int) -> tuple[int, str]:
    """Return the line and text of the first statement that keystone refuses, found by bisection.

    keystone says why it refuses a text, but not where. The line is 0 when keystone takes all of the
    statements by themselves, so that no single one is to blame.
    """

    def good(count: int) -> bool:
        later = [f"{label}:" for statement in statements[count:] for label in statement.labels]
        try:
            assemble(
                "\n".join(
                    [line for statement in statements[:count] for line in statement.lines()] + later
                ),
                start,
            )
        except InputError:
            return False
        return True

    # It holds throughout that keystone takes the first ``low`` statements and refuses the first
    # ``high``.
    low, high = 0, len(statements)
    if good(high):
        return 0, ""
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return statements[high - 1].line, statements[high - 1].code
