"""Static calls, which control tasks update (kernel/static_call_inline.c).

``__SCT__func`` is the trampoline of the kernel's out-of-line calls: a jump to the function. A
function that ends in a static call has such a jump, too.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario

__all__ = ("CALLS", "SCENARIOS")

CALLS = """
.globl __static_call_return0
__static_call_return0:
 xor eax, eax
 ret
.globl func
func:
 lea eax, [rdi + 1]
 ret
.globl other
other:
 lea eax, [rdi + 100]
 ret
.skip 70000, 0xcc
.globl __SCT__func
__SCT__func:
 jmp func
.globl work
work:
 mov eax, edi
 call func
 add edi, eax
 jmp __SCT__func
"""
"""``work``: a call of ``func`` at +2, and a call of the trampoline, in which ``work`` ends."""
_AT = ("__SCT__func:{}", "work+0x2:{}")
_NEW = ("linux-6.1", "next")


def _to(function: str) -> tuple[str, ...]:
    return tuple(one.format(function) for one in _AT)


def _there_and_back(setup: Setup, function: str) -> None:
    """Place a control task that updates the static call, and then back."""

    @setup.control
    def update(k: Control) -> None:
        k.static_call_update(function)
        k.static_call_update("func")


@scenario(image=CALLS, call="work", arguments=("5",), calls=1, static_calls=_to("other"),
          profiles=_NEW, preemptions=1)  # fmt: skip
def static_call(setup: Setup) -> None:
    """A static call goes to another function, and back."""
    _there_and_back(setup, "other")


@scenario(image=CALLS, call="work", arguments=("5",), calls=1, static_calls=_to("NULL"),
          profiles=_NEW, preemptions=1)  # fmt: skip
def static_call_null(setup: Setup) -> None:
    """A static call does nothing for a while."""
    _there_and_back(setup, "NULL")


@scenario(image=CALLS, call="work", arguments=("5",), calls=1,
          static_calls=_to("__static_call_return0"), profiles=_NEW, preemptions=1)  # fmt: skip
def static_call_return0(setup: Setup) -> None:
    """A static call returns 0 for a while."""
    _there_and_back(setup, "__static_call_return0")


@scenario(image=CALLS, call="work", arguments=("5",), calls=1, static_calls=_to("other"),
          profiles=_NEW, preemptions=0)  # fmt: skip
def static_call_of_two(setup: Setup) -> None:
    """Two tasks update one static call, each when it likes."""

    @setup.control
    def first(k: Control) -> None:
        k.static_call_update("other")

    @setup.control
    def second(k: Control) -> None:
        k.static_call_update("other")
        k.static_call_update("func")


def _probed(setup: Setup) -> None:
    """Place a control task that updates a static call while a probe is there, if one can be."""

    @setup.control
    def update(k: Control) -> None:
        p = k.kprobe("work", 2)
        there = k.register(p)
        k.static_call_update("NULL")
        if there:
            k.unregister(p)


@scenario(image=CALLS, call="work", arguments=("5",), calls=1, static_calls=_to("NULL"),
          profiles=_NEW, preemptions=1)  # fmt: skip
def probe_on_static_call(setup: Setup) -> None:
    """A probe is refused on a static call, which is updated."""
    _probed(setup)


@scenario(image=CALLS, call="work", arguments=("5",), calls=1, static_calls=_to("NULL"),
          text_reserved=False, profiles=_NEW, preemptions=1)  # fmt: skip
def fa68bd09fc62(setup: Setup) -> None:
    """Before fa68bd09fc62, which brings back what was lost in a merge: a probe goes to a static
    call, and the call's update writes over its breakpoint.
    """
    _probed(setup)


SCENARIOS = (
    static_call,
    static_call_null,
    static_call_return0,
    static_call_of_two,
    probe_on_static_call,
    fa68bd09fc62,
)
