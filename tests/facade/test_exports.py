"""The names of ``optprobe``: what is there, what it costs to have them, and that their ``repr`` is
short.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import optprobe
from engine.brief import REPR_MAX, described, shortened
from engine.core.profiles import PROFILES
from engine.search.actor import actor_from
from engine.search.explorable import Choice
from engine.syntax.kprobe_events import parse_spec

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(optprobe.__file__).read_text(encoding="utf-8")
LONG = "_ZN" + "9namespace" * 60 + "Ev"
"""A name as a C++ compiler makes them."""


def imported() -> set[str]:
    """The names that a type checker is shown."""
    (block,) = (
        node
        for node in ast.parse(SOURCE).body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name)
    )
    return {
        alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_what_a_type_checker_is_shown_is_what_there_is_and_what_is_exported():
    assert imported() | {"__version__"} == set(optprobe.__all__)
    assert dir(optprobe) == sorted(optprobe.__all__)
    for name in optprobe.__all__:
        assert getattr(optprobe, name) is not None


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'kprobes'"):
        optprobe.kprobes  # noqa: B018


@pytest.mark.smoke
def test_importing_the_package_loads_no_emulator_and_little_of_its_own():
    code = (
        "import sys, optprobe; print(' '.join(m for m in sys.modules if m.partition('.')[0] in"
        " ('arch_x86', 'unicorn', 'engine', 'capstone')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    assert set(done.stdout.split()) == {"engine", "engine.version"}


@pytest.mark.smoke
def test_the_version_is_that_of_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "engine", "--version"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        timeout=60,
    )
    assert done.stdout == f"optprobe {optprobe.__version__}\n"


def violation() -> optprobe.Violation:
    return optprobe.Violation(optprobe.ViolationKind.TORN, 0, 0x1000, "e9 " * 200)


def schedule() -> optprobe.Schedule:
    return optprobe.Schedule("0" * 8, (("0", 12), ("c0", 3)) * 500)


def fault() -> optprobe.GuestFault:
    return optprobe.GuestFault(0, 0x1000, LONG, 4, optprobe.FaultKind.HALT, "because " * 99)


def call() -> optprobe.CallResult:
    return optprobe.CallResult(
        0, LONG, 1 << 63, 1.5, 10**12, tuple(bytes(1 << 16) for _ in range(6))
    )


def image() -> optprobe.Image:
    segment = optprobe.Segment(0x1000, bytes(range(256)) * 4096, 1 << 20)
    return optprobe.Image(
        name=LONG,
        segments=(segment,),
        symbols=tuple(optprobe.Symbol(f"{LONG}{i}", 0x1000, 5) for i in range(500)),
    )


def hit(_p: object, _regs: object) -> int:
    return 0


def objects() -> dict[str, object]:
    """Objects of the public types, each with as much in it as can be."""
    from arch_x86.probes.code import CodeCache
    from engine.search.parts import Found, Outcome

    img = image()
    probe = optprobe.Kprobe(
        symbol_name=LONG, offset=1 << 40, pre_handler=hit, flags=optprobe.KprobeFlag(31)
    )
    returns = optprobe.Kretprobe(symbol_name=LONG, handler=hit, flags=optprobe.KprobeFlag.DISABLED)
    found = optprobe.ProbeResult("p:x " + LONG, LONG, 3, optprobe.Method.OPTIMIZED, 10**9, 10**9)
    outcome = Outcome(
        schedules=10**9,
        found=[Found(violation(), schedule().segments)] * 99,
        points=set(range(9999)),
    )
    report = optprobe.Report(violation(), schedule(), "f" * 300)
    function = optprobe.inspect(
        optprobe.load_asm(f"{LONG}: mov rax, [rdi + rsi*8 + 0x12345678]\n ret", "a.s"), buffers=True
    )[0]
    made = optprobe.scenario(image="work: ret" + " # x" * 900 + "\n", call="work")(hit)  # pyright: ignore[reportArgumentType]
    shown: list[object] = [
        img,
        img.segments[0],
        img.symbols[0],
        probe,
        returns,
        optprobe.KretprobeInstance(returns),
        optprobe.Jprobe(symbol_name=LONG, entry=hit),
        found,
        call(),
        fault(),
        violation(),
        schedule(),
        report,
        outcome,
        function,
        *function.sites,
        function.site(0).slot,
        made,
        optprobe.RunResult("linux-2010", (call(),) * 8, (found,) * 99, 1, 1, 1, fault()),
        optprobe.Failure(LONG, 4, optprobe.Method.INT3, 10**9, "because " * 99),
        optprobe.VerifyResult(
            10**6,
            10**9,
            (optprobe.Failure(LONG, 4, optprobe.Method.INT3, 1, "x" * 999),) * 99,
            10**9,
            fault(),
        ),
        optprobe.CheckResult(outcome, 8, 2, ("jump",), [report] * 99, refused=("x" * 300,) * 9),
        optprobe.Patch(0x1000, bytes(64), bytes(64), bytes(16), LONG),
        optprobe.protocol(**{LONG: LONG})(lambda _p, _patches: None),
        optprobe.PatchedSite(1 << 63, bytes(64), bytes(64), bytes(64), {}),
        optprobe.PatchResult(outcome, 8, 2, (LONG,), [report] * 99, timeline=(LONG,) * 99),
        optprobe.profile("next", name=LONG),
        optprobe.profile("linux-6.1", without=["free-wait", "quiescence"], rethook=False, batch=2),
        optprobe.TextPokeParam(0x1000, bytes(5), "reason"),
        optprobe.Coverage(*[10**9] * 6),
        parse_spec(f"p {LONG} a=%di b=%si"),
        optprobe.PtRegs.unpack(b"\xff" * 168),
        Choice(actor_from("c0"), 1),
        actor_from("c0"),
        CodeCache(img),
        *PROFILES,
    ]
    return {f"{number}-{type(one).__name__}": one for number, one in enumerate(shown)}


def test_the_repr_of_every_object_is_one_line_of_fewer_than_200_characters():
    for name, one in objects().items():
        shown = repr(one)
        assert len(shown) <= REPR_MAX < 200, name
        assert shown.isprintable(), name


def test_every_public_class_but_protocols_and_errors_has_its_repr_tested():
    tested = {type(one) for one in objects().values()}
    elsewhere = {
        "Machine",
        "Kprobes",
        "Control",
        "Setup",
        "TextSpace",
        "StopMachinePoke",
        "TextPokeBp",
        "TextPokeBpBatch",
        "Patcher",
    }
    protocols = {"PokeProtocol", "TextControl", "PokeFactory", "Strategy", "Instrument"}
    for name in set(optprobe.__all__) - elsewhere - protocols:
        one = getattr(optprobe, name)
        if (
            isinstance(one, type)
            and not issubclass(one, Exception)
            and not hasattr(one, "__members__")
        ):
            assert one in tested, name


def test_a_repr_names_what_its_object_is_and_is_cut_where_it_is_too_long():
    assert repr(optprobe.Kprobe(symbol_name="work", offset=4)) == "<Kprobe work+0x4>"
    assert (
        repr(optprobe.Kprobe(addr=0x1000, flags=optprobe.KprobeFlag.DISABLED))
        == "<Kprobe 0x1000, DISABLED>"
    )
    assert repr(optprobe.profile("next")) == "<Profile next>"
    assert (
        repr(optprobe.Schedule("12345678", (("0", 3),))) == "<Schedule 1 choice, v3:12345678:0*3>"
    )
    assert shortened("a\nb") == "a\\nb"
    assert shortened("x" * 70) == "x" * 57 + "..."
    assert described(object()) == "<object>"
    assert described(object(), "x" * 300).endswith("...>")
