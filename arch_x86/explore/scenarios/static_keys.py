"""Static branches, whose keys two control tasks switch (kernel/jump_label.c).

The scenarios with the name of a commit show what that commit has mended, or what it has broken;
``static_key`` is the kernel behind all of them.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Control, Setup, scenario
from engine.core.jump_label import Decrement

__all__ = ("BRANCH", "SCENARIOS")

BRANCH = """
.globl work
work:
 mov eax, edi
 .byte 0x0f,0x1f,0x44,0,0
 add eax, 1
 ret
.skip 70000, 0xcc
.globl taken
taken:
 add eax, 100
 ret
"""
"""``work``: a no-op of five bytes at +2, which becomes a jump to ``taken``."""
_AT = ("work+0x2:taken",)
_NEW = ("linux-6.1", "next")


def _tasks(setup: Setup, how: Decrement) -> None:
    """Place two control tasks, each of which needs the branch for a while."""

    @setup.control
    def first(k: Control) -> None:
        k.static_key_slow_inc()
        k.static_key_slow_dec(how)

    @setup.control
    def second(k: Control) -> None:
        k.static_key_slow_inc()
        k.static_key_slow_dec(how)


@scenario(image=BRANCH, call="work", arguments=("5",), calls=1, branches=_AT, profiles=_NEW,
          preemptions=1)  # fmt: skip
def static_key(setup: Setup) -> None:
    """Two tasks switch a branch on and off, each when it likes."""
    _tasks(setup, Decrement.COMMIT_1D7F856C2CA4)


@scenario(image=BRANCH, call="work", arguments=("5",), calls=1, branches=_AT, profiles=_NEW,
          preemptions=0)  # fmt: skip
def x224fa3552029(setup: Setup) -> None:
    """The count of 83ab38ef0a0b, which 224fa3552029 mends: a key that somebody else has switched on
    meanwhile is patched, and its count does not go down.
    """
    _tasks(setup, Decrement.COMMIT_83AB38EF0A0B)


@scenario(image=BRANCH, call="work", arguments=("5",), calls=1, branches=_AT, profiles=_NEW,
          preemptions=0)  # fmt: skip
def x1d7f856c2ca4(setup: Setup) -> None:
    """The count of 224fa3552029, which 1d7f856c2ca4 mends: two that need the branch no more may
    both leave the count at 1.
    """
    _tasks(setup, Decrement.COMMIT_224FA3552029)


@scenario(image=BRANCH, call="work", arguments=("5",), calls=1, branches=_AT, profiles=_NEW,
          preemptions=0)  # fmt: skip
def x83ab38ef0a0b(setup: Setup) -> None:
    """The count before 83ab38ef0a0b: who switches off what is off makes it -1, and who switches it
    on behind that finds the branch not taken.
    """

    @setup.control
    def switch(k: Control) -> None:
        k.static_key_slow_dec(Decrement.FETCH_ADD_UNLESS)
        k.static_key_slow_inc()


SCENARIOS = (static_key, x224fa3552029, x1d7f856c2ca4, x83ab38ef0a0b)
