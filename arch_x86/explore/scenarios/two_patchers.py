"""Two patchers of one text: static branches and kprobes (kernel/jump_label.c, kernel/kprobes.c).

Where they would meet in the same bytes kprobes give way: check_kprobe_address_safe() refuses a
probe on a static branch (jump_label_text_reserved()), and copy_optimized_instructions() a jump over
one. So it is with static calls and alternatives; a probe on an ftrace location is made of ftrace.
Where they patch different bytes they take turns, under text_mutex.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Scenario, Setup, scenario

__all__ = ("TWO_PATCHERS",)

_BRANCHED = """
.globl work
work:
 mov eax, edi
 lea ecx, [rax + rax*2]
 add eax, ecx
 .byte 0x0f,0x1f,0x44,0,0
 add eax, 1
 ret
.skip 300, 0xcc
.globl taken
taken:
 add eax, 100
 ret
"""
"""``work``: a no-op of five bytes at +7, which becomes a jump to ``taken``. A jump at +2 ends in
front of the no-op, and one at +5 would replace it.
"""
_AT = ("work+0x7:taken",)


def _switch_and_probe(setup: Setup, offset: int) -> None:
    """Place a task that switches the branch on, and one that probes ``work`` meanwhile."""

    @setup.control
    def switch(k: Control) -> None:
        k.static_key_slow_inc()

    @setup.control
    def prober(k: Control) -> None:
        p = k.kprobe("work", offset)
        if k.register(p):
            k.settle()
            k.unregister(p)
            k.settle()


@scenario(image=_BRANCHED, call="work", arguments=("5",), calls=1, branches=_AT,
          preemptions=0, steps=("reserved-text",))  # fmt: skip
def probe_on_branch(setup: Setup) -> None:
    """A probe is to go on a static branch, and is refused."""
    _switch_and_probe(setup, 7)


@scenario(image=_BRANCHED, call="work", arguments=("5",), calls=1, branches=_AT,
          preemptions=0, steps=("reserved-text",))  # fmt: skip
def jump_over_branch(setup: Setup) -> None:
    """A probe's jump would go over a static branch, so the probe stays a breakpoint."""
    _switch_and_probe(setup, 5)


@scenario(image=_BRANCHED, call="work", arguments=("5",), calls=1, branches=_AT,
          profiles=("linux-6.1", "next"), preemptions=0, steps=("text-mutex",))  # fmt: skip
def probe_beside_branch(setup: Setup) -> None:
    """A probe's jump ends in front of a static branch: the two are patched one after the other."""
    _switch_and_probe(setup, 2)


TWO_PATCHERS: tuple[Scenario, ...] = (probe_on_branch, jump_over_branch, probe_beside_branch)
