"""``make costs``: what a patch protocol costs the CPUs that it does not write on, by its sites.

Four vCPUs call a function again and again, each a quarter of the call behind the one before it, and
a control task turns no-ops elsewhere into jumps. What is counted: core syncs, calls of
``stop_machine``, and the instructions that the vCPUs do not come to meanwhile. A vCPU that
``stop_machine`` has parked loses as many as the ones it waits for retire; an interrupt of a core
sync costs its handler. The counts are exact, and the same on every machine.

The table goes to standard output, in Markdown, and ``--plot FILE`` writes a picture of it (SVG).
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arch_x86.images.asmtext import load_asm
from arch_x86.isa.encode import jmp32
from arch_x86.lab.bench import Workbench
from arch_x86.protocols import text_pokes
from arch_x86.protocols.protocol import PatchProtocol
from arch_x86.protocols.protocol_poke import ProtocolPoke, poke_factory
from arch_x86.text.poke import MAX_POKE_BATCH
from bench.program import run_guarded
from engine.core.profiles import LINUX_6_1
from engine.errors import EngineBug

__all__ = ("Cost", "cost", "main")

SITES: Final = (1, 4, 16, 64, 256, 1024, 4096)
PROTOCOLS: Final = (
    ("one stop_machine a site (`text_poke_smp`)", text_pokes.text_poke_smp, 1),
    ("one a batch of 256 (`text_poke_smp_batch`)", text_pokes.text_poke_smp_batch, MAX_POKE_BATCH),
    ("a breakpoint a site (`text_poke_bp`)", text_pokes.text_poke_bp, 1),
    ("a batch of 256 (`text_poke_bp_batch`)", text_pokes.text_poke_bp_batch, MAX_POKE_BATCH),
)
"""The protocols in the order in which Linux took them up, and how many sites go into a batch."""
_CPUS: Final = 4
_CALL: Final = 2_000
"""About so many instructions has a call."""
_NOP5: Final = "0x0f,0x1f,0x44,0,0"
_LOOPS: Final = _CALL // 4
_WORK: Final = f"""
work:
 mov ecx, {_LOOPS}
again:
 lea eax, [rax + rax*2]
 xor eax, ecx
 sub ecx, 1
 jnz again
 ret
sites:
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a protocol has cost.

    :ivar lost: the instructions that the vCPUs have not come to.
    """

    syncs: int
    stops: int
    lost: int


class _Machine(Workbench):
    """A machine whose vCPUs never run out of calls, and which counts what they lose."""

    lost = 0
    stopping = False

    def begin_calls(self) -> None:
        """Let each vCPU begin a call, a quarter of which is over on the one after the other."""
        for cpu in range(_CPUS):
            self.start_call(cpu, self.image.by_name["work"].addr)
            if cpu:
                self._turn(cpu, cpu * _CALL // _CPUS)

    def run_turn(self) -> bool:
        """Run a turn; whoever is parked meanwhile loses what the others retire."""
        before = [cpu.retired for cpu in self.machine.cpus]
        progress = super().run_turn()
        retired = [cpu.retired - was for cpu, was in zip(self.machine.cpus, before, strict=True)]
        if self.stopping:
            self.lost += sum(max(retired) - own for own in retired)
        return progress

    def patch(self, places: Sequence[tuple[int, bytes, str]]) -> None:
        """Write code at ``places`` by the machine's protocol, while the vCPUs are in calls."""
        poke = self.arch.poke
        if not isinstance(poke, ProtocolPoke):
            raise EngineBug("the machine writes text by another protocol than it was given")
        self.stopping = True
        poke.patch(poke.patches_of(places))
        self.stopping = False


def cost(protocol: PatchProtocol, sites: int, batch: int) -> Cost:
    """Return what ``protocol`` costs that turns ``sites`` no-ops into jumps.

    :param batch: so many sites are given to the protocol at a time.
    """
    filler = "\n".join(f" .byte {_NOP5}" for _ in range(sites))
    image = load_asm(f"{_WORK}{filler}\n ret\n", "costs")
    machine = _Machine(
        image, cpus=_CPUS, profile=LINUX_6_1, poke=poke_factory(protocol, frozenset())
    )
    start, work = image.by_name["sites"].addr, image.by_name["work"].addr
    places = [
        (addr, jmp32(addr, work), f"site {number}")
        for number, addr in enumerate(range(start, start + 5 * sites, 5))
    ]
    for first in range(0, sites, batch):
        machine.begin_calls()
        machine.patch(places[first : first + batch])
        machine.finish_calls()
    stats = machine.plane.stats
    handler = machine.executor.handler_length(machine.machine.cpus[0])
    machine.close()
    return Cost(stats.syncs, stats.stop_machine, machine.lost + stats.syncs * handler * _CPUS)


def table(costs: Sequence[Sequence[Cost]]) -> str:
    """Return the costs in Markdown: a row for each protocol, and in each row one for each of
    :data:`SITES`.
    """
    heads = " | ".join(f"{sites:,}" for sites in SITES)
    lines = [f"| sites | {heads} |", f"| --- |{' ---: |' * len(SITES)}"]
    for (name, _, _), row in zip(PROTOCOLS, costs, strict=True):
        cells = " | ".join(
            f"{one.stops or one.syncs:,} {'stops' if one.stops else 'syncs'}, {one.lost:,}"
            for one in row
        )
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


_WIDTH, _HEIGHT, _MARGIN = 640, 400, 60
_COLOURS: Final = ("#c0392b", "#e67e22", "#2980b9", "#27ae60")


def plot(costs: Sequence[Sequence[Cost]]) -> str:
    """Return a picture of the instructions lost by the number of sites (SVG).

    Both axes are logarithmic.
    """
    most = max(one.lost for row in costs for one in row)
    top = math.ceil(math.log10(most))

    def at(sites: int, lost: int) -> str:
        x = _MARGIN + math.log2(sites) / math.log2(SITES[-1]) * (_WIDTH - 2 * _MARGIN)
        y = _HEIGHT - _MARGIN - math.log10(max(lost, 1)) / top * (_HEIGHT - 2 * _MARGIN)
        return f"{x:.1f},{y:.1f}"

    def text(x: float, y: float, words: str, colour: str = "#333", anchor: str = "middle") -> str:
        return (
            f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{words}</text>'
        )

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT + 90}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT + 90}" fill="white"/>',
        text(_WIDTH / 2, 24, "instructions that four CPUs lose while sites are patched"),
    ]
    for power in range(top + 1):
        x, y = at(1, 10**power).split(",")
        parts += [
            f'<path d="M{x},{y} H{_WIDTH - _MARGIN}" stroke="#ddd"/>',
            text(float(x) - 6, float(y) + 4, f"10^{power}", anchor="end"),
        ]
    for sites in SITES:
        x, _ = at(sites, 1).split(",")
        parts.append(text(float(x), _HEIGHT - _MARGIN + 18, f"{sites:,}"))
    parts.append(text(_WIDTH / 2, _HEIGHT - _MARGIN + 36, "sites"))
    for number, ((name, _, _), row) in enumerate(zip(PROTOCOLS, costs, strict=True)):
        colour = _COLOURS[number]
        points = " ".join(at(sites, one.lost) for sites, one in zip(SITES, row, strict=True))
        parts += [
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>',
            text(_MARGIN, _HEIGHT + 10 + 18 * number, name.replace("`", ""), colour, "start"),
        ]
    return "\n".join([*parts, "</svg>", ""])


def main() -> int:
    """Print the table, and write the picture if a file for it is given."""
    parser = argparse.ArgumentParser(prog="make costs")
    parser.add_argument("--plot", metavar="FILE", help="write a picture, too (SVG)")
    args = parser.parse_args()
    costs = [[cost(protocol, sites, batch) for sites in SITES] for _, protocol, batch in PROTOCOLS]
    print(table(costs))
    if args.plot is not None:
        Path(args.plot).write_text(plot(costs), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(run_guarded(lambda: main))
