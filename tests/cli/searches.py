"""What the tests of check, explore, replay and matrix share: a function, a scenario, and Ctrl-C in
the middle of a search.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager

from arch_x86.explore.x86_setup import X86Setup
from engine.commands.cli import main, parse
from engine.commands.searching import check_request
from engine.patching.experiment import fingerprint
from engine.patching.make_experiment import experiment_of_check
from engine.search.exhaustive import _Walk

CODE = (
    "work:\n mov eax, edi\n inc eax\n lea ecx, [rax + rax*2]\n add eax, ecx\n xor eax, 0x55\n ret\n"
)
SCENARIO = '''
from arch_x86.explore.scenario import scenario
@scenario(image="IMAGE", call="work", arguments=("5",), calls=1, preemptions=1)
def in_and_out(setup):
    """In, and out."""
    @setup.control
    def main(k):
        p = k.kprobe("work", 4)
        k.register(p)
        k.unregister(p)
        k.settle()
'''


def call(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(argv)
    out, err = capsys.readouterr()
    return status, out, err


@contextmanager
def ctrl_c_after(monkeypatch, schedules: int) -> Generator[None]:
    """Ctrl-C comes when a search goes on behind so many schedules."""
    ended = 0
    forward, count = _Walk._forward, _Walk._ended

    def interrupted(self):
        if ended >= schedules:
            raise KeyboardInterrupt
        return forward(self)

    def counted(self):
        nonlocal ended
        ended += 1
        count(self)

    with monkeypatch.context() as patch:
        patch.setattr(_Walk, "_forward", interrupted)
        patch.setattr(_Walk, "_ended", counted)
        yield


def check(capsys, image: str, *more: str) -> tuple[int, str, str]:
    return call(capsys, "check", *call_of(image), *more)


def call_of(image: str, *, argument: str = "5", probe: str = "work+4") -> tuple[str, ...]:
    """Arguments of ``check``: a call of ``work`` with a probe in it."""
    return (image, "--call", "work", "--arg", argument, "--probe", probe, "--calls", "1")


def mark_of(arguments: Sequence[str]) -> str:
    """The fingerprint of what ``check`` searches with these arguments."""
    return fingerprint(experiment_of_check(check_request(parse(["check", *arguments])), X86Setup()))
