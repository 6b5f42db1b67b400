"""Words on a place where no instruction starts: what it is inside of, and where the next is."""

from __future__ import annotations

from arch_x86.probes.code import FunctionCode
from engine.errors import printable

__all__ = ("told_inside",)


def told_inside(function: FunctionCode, addr: int) -> str:
    """Return what is at ``addr``, which is in ``function`` and is not where an instruction starts.

    :returns: a clause without a subject, such as "is inside of `nop` at f+0x3; the next instruction
        begins at f+0x8".
    """
    name, offset = printable(function.symbol.name), addr - function.start
    begins = max((at for at in function.insns if at <= offset), default=None)
    if begins is None or begins + function.insns[begins].length <= offset:
        return f"is behind {name}+{function.decoded_size:#x}, where the code of {name} ends"
    insn = function.insns[begins]
    behind = begins + insn.length
    told = f"is inside of `{insn.text}` at {name}+{begins:#x}"
    return (
        f"{told}; the next instruction begins at {name}+{behind:#x}"
        if (behind in function.insns)
        else told
    )
