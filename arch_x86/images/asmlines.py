"""This module cuts assembly text (GNU as, Intel syntax) into statements that are safe for keystone.

Nothing is assembled here. keystone can crash, hang or read other files on input that it was not
made for, so only forms that are known to be safe are let through; any other one is refused with the
line that has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from arch_x86.images.image_memory import printable
from engine.errors import InputError

__all__ = ("Statement", "read_statements")

# A text has this many bytes at most, and one .zero, .skip or .space fills this many bytes at most.
# keystone's time and memory grow with both.
_TEXT_LIMIT: Final = 4 << 20
_FILL_LIMIT: Final = 1 << 20
_TOKENS: Final = re.compile(
    r'"(?:[^"\\\n]|\\.)*"|/\*.*?\*/|/\*|//[^\n]*|#[^\n]*|[;\n]|[^"/#;\n]+|.', re.DOTALL
)
_PREPROCESSOR: Final = re.compile(
    r"#\s*(include|define|undef|if|ifdef|ifndef|elif|else|endif|error|pragma)\b"
)
_LABEL: Final = re.compile(r"\s*([A-Za-z_.$][\w.$]*)\s*:", re.ASCII)
_DIRECTIVE: Final = re.compile(r"(\.\w+)\s*(.*)", re.DOTALL)
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_]\w*\s*=\s*[\w+\-*() ]+")
_INSTRUCTION: Final = re.compile(r"[A-Za-z][A-Za-z0-9]*(\s+[\w\s.$,+\-*\[\](){}:]*)?", re.ASCII)
_EXPRESSIONS: Final = re.compile(r"[\w\s.$,+\-*()]+", re.ASCII)
_STRINGS: Final = re.compile(r'\s*"(?:[^"\\]|\\.)*"\s*(,\s*"(?:[^"\\]|\\.)*"\s*)*')
_NUMBER: Final = re.compile(r"0[xX][0-9a-fA-F]{1,8}|0|[1-9][0-9]{0,8}")
_WITHOUT_EFFECT: Final = frozenset(
    (
        ".text",
        ".globl",
        ".global",
        ".type",
        ".size",
        ".file",
        ".ident",
        ".local",
        ".weak",
        ".hidden",
        ".intel_syntax",
        ".code64",
        ".loc",
    )
)
_DATA: Final = frozenset(
    (".byte", ".2byte", ".short", ".word", ".4byte", ".long", ".int", ".8byte", ".quad")
)
_TEXTS: Final = frozenset((".ascii", ".asciz", ".string"))
_FILLS: Final = frozenset((".zero", ".skip", ".space"))
_ALIGNMENTS: Final = frozenset((".align", ".balign", ".p2align"))
_UNKNOWN_TO_KEYSTONE: Final = {"endbr64": ".byte 0xf3, 0x0f, 0x1e, 0xfa"}
_HIGH_BYTE: Final = re.compile(r"\b[abcd]h\b", re.IGNORECASE)
_NEEDS_REX: Final = re.compile(r"\br(8|9|1[0-5])[dwb]?\b|\b(spl|bpl|sil|dil)\b", re.IGNORECASE)
_WIDE_OPERAND: Final = re.compile(r"\br([abcd]x|[sd]i|[sb]p)\b", re.IGNORECASE)
_BRACKETS: Final = re.compile(r"\[[^\]]*\]")


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement is what stands between two separators (newlines or ``;``) of assembly text.

    :ivar line: the number of the line on which it ends, from 1.
    :ivar labels: the labels in front of it, without their colons.
    :ivar code: the instruction or directive for keystone; "" where there is none.
    :ivar data: True when ``code`` lays down data, not an instruction.
    :ivar padding: True when ``code`` lays down nothing of its own: an alignment, or an assignment
        to a name.
    """

    line: int
    labels: tuple[str, ...]
    code: str
    data: bool = False
    padding: bool = False

    def lines(self) -> Iterator[str]:
        """Yield the lines of text for keystone: one for each label, then the code."""
        for label in self.labels:
            yield f"{label}:"
        if self.code:
            yield self.code


def read_statements(text: str, name: str) -> list[Statement]:
    """Return the statements of assembly ``text``, without comments and without empty statements.

    :param name: the file's name, which begins each message.
    :raises InputError: the text has a form that is not known to be safe with keystone, or more than
        4 MiB; the message names the line.
    """
    if len(text) > _TEXT_LIMIT:
        raise InputError(f"{name}: more than {_TEXT_LIMIT >> 20} MiB of assembly")
    result: list[Statement] = []
    for line, raw in _split(text.replace("\r\n", "\n"), name):
        labels: list[str] = []
        rest = raw
        while match := _LABEL.match(rest):
            labels.append(match[1])
            rest = rest[match.end() :]
        statement = _statement(line, tuple(labels), rest.strip(), name)
        if statement.labels or statement.code:
            result.append(statement)
    return result


def _split(text: str, name: str) -> Iterator[tuple[int, str]]:
    """Yield each raw statement: the number of its last line, and its text without comments.

    :raises InputError: a comment does not end, or a line is meant for the C preprocessor.
    """
    line, parts = 1, list[str]()
    for token in _TOKENS.findall(text):
        if token in (";", "\n"):
            yield line, "".join(parts)
            parts = []
        elif token == "/*":
            raise InputError(f"{name}:{line}: a comment that does not end; close it by */")
        elif _PREPROCESSOR.match(token) and not "".join(parts).strip():
            raise InputError(f"{name}:{line}: {printable(token)}: run the C preprocessor first")
        else:
            parts.append(" " if token.startswith(("#", "//", "/*")) else token)
        line += token.count("\n")
    yield line, "".join(parts)


def _statement(line: int, labels: tuple[str, ...], code: str, name: str) -> Statement:
    def refuse(hint: str) -> InputError:
        return InputError(f"{name}:{line}: {printable(code)}: {hint}")

    if not code:
        return Statement(line, labels, "")
    if directive := _DIRECTIVE.fullmatch(code):
        return _directive(line, labels, code, directive[1], directive[2], refuse)
    if code in _UNKNOWN_TO_KEYSTONE:
        return Statement(line, labels, _UNKNOWN_TO_KEYSTONE[code])
    if "%" in code:
        raise refuse("AT&T syntax; write Intel syntax")
    if _ASSIGNMENT.fullmatch(code) and code.isascii():
        return Statement(line, labels, code, padding=True)
    if not _INSTRUCTION.fullmatch(code):
        raise refuse("not an instruction in Intel syntax, a label (name:) or a directive")
    if any(code.count(left) != code.count(right) for left, right in ("[]", "()", "{}")):
        # keystone would make up an operand instead of refusing the instruction.
        raise refuse("brackets without a partner")
    if _HIGH_BYTE.search(code) and (
        _NEEDS_REX.search(code) or _WIDE_OPERAND.search(_BRACKETS.sub("", code))
    ):
        raise refuse(
            "ah, bh, ch and dh have no encoding together with a register that needs a REX prefix"
        )
    return Statement(line, labels, code)


def _directive(
    line: int,
    labels: tuple[str, ...],
    code: str,
    word: str,
    operands: str,
    refuse: Callable[[str], InputError],
) -> Statement:
    if (
        word in _WITHOUT_EFFECT
        or word.startswith(".cfi_")
        or (word == ".section" and operands.startswith(".text"))
    ):
        return Statement(line, labels, "")
    if word in _DATA and _EXPRESSIONS.fullmatch(operands):
        return Statement(line, labels, code, data=True)
    if (
        word in _TEXTS
        and _STRINGS.fullmatch(operands)
        and operands.isascii()
        and operands.isprintable()
    ):
        return Statement(line, labels, code, data=True)
    if word in _FILLS | _ALIGNMENTS:
        count, _, fill = operands.partition(",")
        limit = 12 if word == ".p2align" else 4096 if word in _ALIGNMENTS else _FILL_LIMIT
        if (
            not _NUMBER.fullmatch(count.strip())
            or int(count, 0) > limit
            or not _EXPRESSIONS.fullmatch(fill or "0")
        ):
            raise refuse(f"write a number up to {limit}")
        return Statement(line, labels, code, data=word in _FILLS, padding=word in _ALIGNMENTS)
    if word in (".set", ".equ") and _EXPRESSIONS.fullmatch(operands):
        return Statement(line, labels, code, padding=True)
    known = " ".join(sorted(_DATA | _TEXTS | _FILLS | _ALIGNMENTS))
    raise refuse(f"not supported here; use one text section with instructions and {known}")
