"""Operation scripts that a real Linux 6.1 was put through, and how its answers compare.

tests/data/oracle/README.md says how they were recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arch_x86.images import load_image
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.run_script import run_script
from engine.core.profiles import LINUX_6_1
from engine.image import Image
from engine.syntax.script import parse_script

DATA = Path(__file__).parents[1] / "data" / "oracle"
JMP = 0xE9
_COMPARED = (
    "rc",
    "pflags",
    "addr_null",
    "hash",
    "kflags",
    "children",
    "post",
    "optsize",
    "queue",
    "ret",
)
_COUNTS = ("hits", "posts", "rhits", "nmissed", "rpnmissed")


@dataclass(slots=True)
class Scenario:
    name: str
    steps: list[dict[str, Any]]

    @property
    def script(self) -> str:
        return "\n".join(step["op"] for step in self.steps)


@dataclass(slots=True)
class Agreement:
    """How far the answers to one scenario agree.

    :ivar compared: the number of steps compared.
    :ivar differences: the step's number, its operation, the key that differs, and how.
    :ivar syncs: the operation, the core syncs here, and the interrupts that were seen on the real
        machine.
    """

    compared: int = 0
    differences: list[tuple[int, str, str, str]] = field(
        default_factory=list[tuple[int, str, str, str]]
    )
    syncs: list[tuple[str, int, int]] = field(default_factory=list[tuple[str, int, int]])


def scenarios() -> list[Scenario]:
    """All scenarios that are recorded."""
    lines = (DATA / "behaviour-np.jsonl").read_text().splitlines()
    return [Scenario(found["scenario"], found["steps"]) for found in map(json.loads, lines)]


def stubs() -> Image:
    """The code that the scenarios probe."""
    return load_image(str(DATA / "stubs.json"))


class _Tails:
    """Bytes of jump displacements, which depend on where detour buffers lie.

    It has the pairs (this core's, the kernel's) that stood behind an e9 at the same place in both
    texts. A displacement outlives its jump, since a breakpoint is written over the e9 only, and it
    is read from any address.
    """

    def __init__(self) -> None:
        self._pairs: dict[int, set[tuple[int, int]]] = {}

    def learn(self, addr: int, mine: bytes, real: bytes) -> None:
        for at, (first, other) in enumerate(zip(mine, real, strict=True)):
            if first == other == JMP:
                for index in range(at + 1, min(at + 5, len(mine))):
                    self._pairs.setdefault(addr + index, set()).add((mine[index], real[index]))

    def equal(self, addr: int, mine: bytes, real: bytes) -> bool:
        return all(
            pair[0] == pair[1] or pair in self._pairs.get(addr + index, ())
            for index, pair in enumerate(zip(mine, real, strict=True))
        )


def compare(scenario: Scenario, image: Image, pool: Any = None) -> Agreement:
    """Run one scenario, and compare every step."""
    tails = _Tails()
    operations = parse_script(scenario.script, scenario.name)
    lines = list(run_script(image, operations, ExecOptions(profile=LINUX_6_1, cpus=2), pool=pool))
    places: dict[str, int] = {}
    texts: list[tuple[int, bytes, bytes]] = []
    for operation, line, step in zip(operations, lines, scenario.steps, strict=True):
        if operation.place is not None and operation.verb in ("reg", "st"):
            symbol = image.by_name.get(operation.place.symbol or "")
            base = operation.place.address if symbol is None else symbol.addr
            places[operation.probe or ""] = (base or 0) + operation.place.offset % (1 << 32)
        mine, real = (bytes.fromhex(found.get("text", "")) for found in (line, step))
        texts.append((places.get(operation.probe or "", 0), mine, real))
    for addr, mine, real in texts:
        tails.learn(addr, mine, real)
    agreement = Agreement(len(lines))
    for number, ((addr, mine, real), line, step) in enumerate(
        zip(texts, lines, scenario.steps, strict=True)
    ):
        found = list(_differences(line, step))
        if not tails.equal(addr, mine, real):
            found.append(("text", f"{mine.hex()}, real {real.hex()}"))
        agreement.differences += [(number, step["op"], *one) for one in found]
        if "ipis" in step:
            agreement.syncs.append((step["op"].split()[0], line["syncs"], step["ipis"]))
    return agreement


def _differences(line: dict[str, Any], step: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key in _COMPARED + _COUNTS:
        if line.get(key) != step.get(key):
            yield key, f"{line.get(key)}, real {step.get(key)}"
    if "lastip" in step and line.get("lastip") != step["lastip"].split()[0]:
        yield "lastip", f"{line.get('lastip')}, real {step['lastip']}"
    if "list" in step and line["list"] != step["list"]:
        yield "list", f"{line['list']}, real {step['list']}"
    if "ipis" in step and line["syncs"] > step["ipis"]:
        yield "syncs", f"{line['syncs']}, real {step['ipis']} IPIs"
