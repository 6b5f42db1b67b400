"""Faults in the core and the arch layer, each of which a shipped scenario must find: ``python -m tests.explore.mutants``.

Each is made in a copy of the project, where the sound scenarios are run; one has to fail. Exit status 1 when a fault survives.
"""

from __future__ import annotations

from typing import Final

from tests.engine.mutants import Mutant, run_all

TESTS: Final = ("tests/explore/test_scenarios.py", "-k", "cross or history")
MUTANTS: Final = (
    Mutant("the optimizer does not wait before it writes jumps", "engine/optimizer.py", 'if self._profile.has("quiescence"):\n                    self._wait()', 'if self._profile.has("quiescence"):\n                    pass'),
    Mutant("unregistering does not wait before it frees", "engine/kprobes.py", 'wait("unregister_kprobes")', "pass"),
    Mutant("the jump leads one byte too far", "arch_x86/probes/arch.py", "jump = jmp32(op.at, at)", "jump = jmp32(op.at, at + 1)"),
    Mutant("the detour returns one byte too far", "arch_x86/probes/detour.py", "jmp32(copied_at + len(copied), plan.end)", "jmp32(copied_at + len(copied), plan.end + 1)"),
    Mutant("an undone jump leaves its tail", "arch_x86/probes/arch.py", "INT3 + op.optinsn.original[1:]", "INT3 + op.optinsn.jump[1:]"),
    Mutant("a hit at the breakpoint of an optimized probe runs the whole detour", "arch_x86/probes/breakpoint.py", "regs.ip = optinsn.copied", "regs.ip = optinsn.detour.addr"),
    Mutant("text_poke_bp never gives its descriptor up", "arch_x86/text/poke.py", "            self._at = None\n", ""),
    Mutant("disarming leaves the breakpoint", "engine/optprobes.py", "self._table.arming.disarm(p)\n        return True", "return True"),
    Mutant("next: a probe leaves the table before its breakpoint has gone", "engine/kprobes.py", "            self.arming.flush()  # who hits", "            # who hits"),
    Mutant("next: every hit of a batch goes on at the detour of its first", "arch_x86/text/poke_batch.py", "self._vector[min(self._place(addr), len(self._vector) - 1)].target", "self._vector[0].target"),
    Mutant("next: the first bytes of a batch go in before the tails", "arch_x86/text/poke_batch.py", 'self._text.write(param.addr + 1, param.data[1:], reason=f"{param.reason}: tail")\n                self._sync(batch, "tails", "bp-sync-2")', 'self._text.write(param.addr, param.data[:2], reason=f"{param.reason}: tail")\n                self._sync(batch, "tails", "bp-sync-2")'),
    Mutant("the sysctl waits with the mutex held", "engine/switches.py", 'if not on and not core.profile.has("sysctl-deadlock"):', "if not on:"),
    Mutant("a new probe does not force back the jump it lies in", "engine/optprobes.py", "                self.unoptimize_kprobe(neighbour, force=True)", "                pass"),
    Mutant("a removed breakpoint that was hit is nobody's", "arch_x86/probes/breakpoint.py", "if not self._asks_for_removed or", "if True or"),
    Mutant("a detour buffer is freed before the wait", "engine/optimizer.py", 'if not self._profile.has("free-wait"):', "if True:"),
)  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(run_all(MUTANTS, TESTS))
