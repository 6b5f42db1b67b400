"""What stands at a static call, by the function that it goes to.

It answers to __static_call_transform() in arch/x86/kernel/static_call.c (6.3).
"""

from __future__ import annotations

from typing import Final

from arch_x86.isa.constants import CALL32_OPCODE, INT3, JMP32_OPCODE
from arch_x86.isa.insn import Branch, Insn
from arch_x86.isa.onward import RETURN_0, nop
from engine.image import Image
from engine.kallsyms import Kallsyms

__all__ = ("NULL", "called_by", "code_word", "return_0_of")

NULL: Final = "NULL"
"""The name of no function: a call of it does nothing."""
_RETURN_0: Final = "__static_call_return0"
_RETURN: Final = "__static_call_return"
"""A conditional jump to this function, which returns at once, stands for a call of ``NULL``."""
_RET: Final = b"\xc3" + 4 * INT3
_JCC32_SIZE: Final = 6
_CALL, _JMP, _JCC = "call", "jmp", "jcc"


def return_0_of(image: Image) -> int | None:
    """Return the address of ``__static_call_return0()`` in ``image``, or None."""
    found = image.by_name.get(_RETURN_0)
    return None if found is None else found.addr


def called_by(image: Image, insn: Insn) -> tuple[str, str] | None:
    """Return which form of a static call stands at the place of ``insn``, and what it calls.

    :returns: ``call``, ``jmp`` or ``jcc``, and the name of the function, or ``NULL``; None: no
        static call stands there.
    """
    code = image.read(insn.addr, len(_RET))
    if code == nop(len(code)):
        return _CALL, NULL
    if code == RETURN_0:
        return _CALL, _RETURN_0
    if code == _RET:
        return _JMP, NULL
    if insn.raw[0] == CALL32_OPCODE:
        form = _CALL
    elif insn.raw[0] == JMP32_OPCODE:
        form = _JMP
    elif insn.branch is Branch.JCC and insn.length == _JCC32_SIZE:
        form = _JCC
    else:
        return None
    found = None if insn.target is None else Kallsyms(image).lookup(insn.target)
    if found is None or found[1]:
        return None
    name = found[0].name
    return form, NULL if (form, name) == (_JCC, _RETURN) else name


def code_word(form: str, function: str) -> str:
    """Return the code of a static call to ``function``, as a word of ``patch --to``.

    :param form: ``call``, ``jmp`` or ``jcc``.
    """
    match form, function:
        case "call", "NULL":
            return "nop"
        case "jmp", "NULL":
            return "ret"
        case "jcc", "NULL":
            return f"jcc:{_RETURN}"
        case "call", "__static_call_return0":
            return "return0"
        case _:
            return f"{form}:{function}"
