"""The records of a real processor (tests/data/hardware): one instruction each, the state that it
ran in, and what it changed.
"""

from __future__ import annotations

import gzip
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

__all__ = ("FILE", "GPR", "Record", "State", "load")

FILE = Path(__file__).parent.parent / "data" / "hardware" / "records.jsonl.gz"
FOUND = FILE.parent / "found.jsonl"
GPR = (
    "rax",
    "rcx",
    "rdx",
    "rbx",
    "rsp",
    "rbp",
    "rsi",
    "rdi",
    "r8",
    "r9",
    "r10",
    "r11",
    "r12",
    "r13",
    "r14",
    "r15",
)


@dataclass(frozen=True, slots=True)
class State:
    """All that a program can see of a processor: ``st`` are the x87 registers by stack position,
    ``ftw`` has a bit for each of R0 to R7 that is in use, ``data`` is what lies at :data:`DATA_AT`.
    """

    gpr: dict[str, int]
    rflags: int
    fcw: int
    fsw: int
    ftw: int
    mxcsr: int
    st: tuple[bytes, ...]
    xmm: tuple[bytes, ...]
    data: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """The instruction ``raw`` of the form ``code`` at ``ip`` in state number ``state``.

    ``after`` has what differs then, by name, as in the file; ``undefined`` are the flags that the
    manual leaves undefined; ``signal`` is what Linux sent where the processor refused, or None.
    """

    code: str
    raw: bytes
    text: str
    ip: int
    state: int
    undefined: int
    signal: int | None
    after: dict[str, Any]


def _state(line: dict[str, Any]) -> State:
    words = {name: int(line[name], 16) for name in ("rflags", "fcw", "fsw", "ftw", "mxcsr")}
    return State(
        gpr={name: int(line["gpr"][name], 16) for name in GPR},
        st=tuple(map(bytes.fromhex, line["st"])),
        xmm=tuple(map(bytes.fromhex, line["xmm"])),
        data=bytes.fromhex(line["data"]),
        **words,
    )


@cache
def load(path: Path = FILE) -> tuple[tuple[State, ...], tuple[Record, ...]]:
    """The states and the records, in the order of the file."""
    with gzip.open(path, "rt", encoding="ascii") as lines:
        head, *rest = (json.loads(line) for line in lines)
    return tuple(map(_state, head["states"])), tuple(map(_record, rest))


def load_found() -> tuple[Record, ...]:
    """Records, in the states of :data:`FILE`, that the machine once had wrong, and some with
    operands that are not aligned.
    """
    return tuple(
        _record(json.loads(line)) for line in FOUND.read_text(encoding="ascii").splitlines()
    )


def _record(line: dict[str, Any]) -> Record:
    return Record(
        code=line["code"],
        raw=bytes.fromhex(line["hex"]),
        text=line["text"],
        ip=int(line["ip"], 16),
        state=line["state"],
        undefined=int(line["undefined"], 16),
        signal=line.get("signal"),
        after=line.get("after", {}),
    )
