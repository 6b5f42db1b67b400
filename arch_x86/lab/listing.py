"""This module disassembles the current text and says what its parts are for (SDM vol. 2)."""

from __future__ import annotations

import re
from collections.abc import Callable

from arch_x86.isa.decode import decode
from arch_x86.probes.records import OptInsn
from engine.report.terminal import Style

__all__ = ("annotate_detour", "listing", "window")

_WIDTH = 98
_ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def _plain(line: str) -> str:
    return _ESCAPE.sub("", line)


def listing(code: bytes, addr: int, *, name: Callable[[int], str]) -> list[tuple[int, str, str]]:
    """Return the address, the bytes in hexadecimal and the text of each instruction of ``code``.

    :param addr: the address of ``code``.
    :param name: returns the name of a branch target.
    """
    rows: list[tuple[int, str, str]] = []
    at = 0
    while at < len(code):
        insn = decode(code[at : at + 15], addr + at)
        if insn is None:
            rows.append((addr + at, f"{code[at]:02x}", "(bad)"))
            at += 1
            continue
        text = insn.text
        if insn.target is not None:
            text = f"{text.split()[0]} {name(insn.target)}"
        rows.append((addr + at, insn.raw.hex(" "), text))
        at += insn.length
    return rows


def window(
    before: bytes, now: bytes, addr: int, *, name: Callable[[int], str], style: Style
) -> list[str]:
    """Return lines that show a few instructions at a patched site.

    The first line has what a CPU decodes at ``addr`` now, and the others have the original
    instructions behind it. The bytes that the patch leaves unreachable are shown dim behind the
    instruction that covers them.

    :param before: the original bytes.
    :param now: the current bytes.
    :param name: returns the name of an address.
    """
    rows = listing(before, addr, name=name)
    first_at, first_raw, first_text = listing(now, addr, name=name)[0]
    covered = addr + len(bytes.fromhex(first_raw))
    behind = next(at for at, _raw, _text in rows if at >= covered)
    dead = now[covered - addr : behind - addr].hex(" ")
    patched = now != before
    hexes = f"{first_raw} {style.paint(dead, 'dim')}" if dead else first_raw
    pad = " " * max(0, 24 - len(f"{first_raw} {dead}".rstrip()))
    lines = [
        f"{name(first_at):<18} {hexes}{pad}"
        f" {style.paint(first_text, *(('yellow',) if patched else ()))}"
    ]
    lines += [f"{name(at):<18} {raw:<24} {text}" for at, raw, text in rows if at >= behind][:2]
    return lines


def annotate_detour(
    optinsn: OptInsn, site: int, *, name: Callable[[int], str], style: Style
) -> list[str]:
    """Return lines that show a detour buffer, with what each part is for.

    :param site: the address of the probe.
    :param name: returns the name of an address.
    """
    detour = optinsn.detour
    call = detour.addr + detour.call_offset
    copied = detour.addr + detour.copied_start
    end = copied + detour.copied_len
    lines: list[str] = []
    part = run = ""
    for addr, raw, text in listing(detour.code, detour.addr, name=name):
        if addr < call - 10:
            now = "save everything as a struct pt_regs"
        elif addr <= call:
            now = "call the handlers: rdi says which probe, rsi points to the pt_regs"
        elif addr < copied:
            now = "restore everything, flags last"
        elif addr < end:
            now = "the replaced instructions, copied"
        else:
            now = f"on to the instruction behind them, {name(site + optinsn.size)}"
        if now != part:
            lines.append(style.paint(f"    ; {now}", "dim"))
            part = now
        colour = ("yellow",) if copied <= addr < end else ()
        verb = text.split()[0]
        if verb in ("push", "pop") and lines and run == verb:
            lines[-1] = f"{lines[-1].rstrip(';')}; {text}"
            if len(_plain(lines[-1])) > _WIDTH:
                lines[-1] = lines[-1][: lines[-1].rindex(";")] + ";"
                lines.append(f"    {'':<43}{text}")
        else:
            lines.append(f"    {addr:#x}  {raw:<30} {style.paint(text, *colour)}")
        run = verb
    return lines
