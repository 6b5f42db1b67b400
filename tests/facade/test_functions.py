"""``run``, ``verify``, ``inspect``, ``check`` and ``explore`` as functions: they answer as the
commands do, and refuse as they do.
"""

from __future__ import annotations

import inspect as signatures
import json
from pathlib import Path

import pytest

import optprobe
from arch_x86.lab.verify import parse_sweep
from engine.commands.cli import main, parse
from engine.core.ablation import changes_of, without
from engine.core.profiles import LINUX_6_1, LINUX_2010, PROFILES
from engine.patching.experiment import Experiment, fingerprint
from engine.syntax.arguments import BufferArgument
from engine.syntax.interrupts import EveryPlan
from engine.syntax.kprobe_events import parse_spec

ROOT = Path(__file__).resolve().parents[2]
QSORT = "workloads/elf/qsort.o"
SORT = {"call": "sort_i32", "arguments": [bytes.fromhex("0200000001000000"), 2]}
SORT_WORDS = ["--call", "sort_i32", "--arg", "buf:0200000001000000", "--arg", "2"]
TEXT = """
work:
    lea eax, [rdi + rdi*2]
    add eax, edi
    ret
"""
WORK = optprobe.load_asm(TEXT, "work.s")
ONCE = {"call": "work", "arguments": [5], "probes": ["work"], "calls": 1, "preemptions": 0}


@pytest.fixture(autouse=True)
def _at_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def printed(capsys, *argv: str) -> object:
    """The document of a command."""
    main([*argv, "--json"])
    return json.loads(capsys.readouterr().out)


def test_run_answers_as_the_command_whether_given_texts_or_objects(capsys):
    want = printed(
        capsys,
        "run",
        QSORT,
        *SORT_WORDS,
        "--probe",
        "p:hot sort_i32",
        "--interrupts",
        "every:50",
        "--cpus",
        "2",
    )
    texts = optprobe.run(QSORT, **SORT, probes=["p:hot sort_i32"], interrupts="every:50", cpus="2")
    objects = optprobe.run(
        optprobe.load_image(Path(QSORT)),
        call="sort_i32",
        arguments=[BufferArgument(bytes.fromhex("0200000001000000")), "2"],
        probes=[parse_spec("p:hot sort_i32")],
        interrupts=EveryPlan(50),
        cpus=2,
        profile=LINUX_2010,
    )
    assert texts.to_json() == objects.to_json() == want


def test_verify_answers_as_the_command_whether_given_texts_or_objects(capsys):
    want = printed(
        capsys,
        "verify",
        "workloads/elf/shapes_jcc.o",
        "--call",
        "shape_jcc_short_o",
        "--arg",
        "1",
        "--interrupts",
        "sample:1:2",
    )
    told: list[tuple[int, int, str]] = []
    for interrupts in ("sample:1:2", parse_sweep("sample:1:2")):
        done = optprobe.verify(
            "workloads/elf/shapes_jcc.o",
            call="shape_jcc_short_o",
            arguments=[1],
            interrupts=interrupts,
            progress=lambda *now: told.append(now),
        )
        assert done.to_json() == want
    assert told


def test_inspect_answers_as_the_command(capsys):
    want = printed(capsys, "inspect", "workloads/elf/shapes_jcc.o", "--buffers")
    found = optprobe.inspect("workloads/elf/shapes_jcc.o", buffers=True)
    assert [one.to_json() for one in found] == want["functions"]  # pyright: ignore[reportIndexIssue]


def test_check_answers_as_the_command_with_the_same_schedule(capsys):
    options = ["--probe", "sort_i32", "--calls", "1", "--without", "stop-machine"]
    want = printed(capsys, "check", QSORT, *SORT_WORDS, *options)
    done = optprobe.check(QSORT, **SORT, probes=["sort_i32"], calls=1, without=["stop-machine"])
    assert done.to_json() == want


def test_explore_answers_as_the_command_for_a_file_and_for_its_scenario(capsys):
    name = "arch_x86/explore/scenarios/life.py::register"
    want = printed(capsys, "explore", name, "--preemptions", "0")
    results = optprobe.explore(name, preemptions=0)
    assert [{"scenario": one, **found.to_json()} for one, found in results.items()] == want[
        "scenarios"
    ]  # pyright: ignore[reportIndexIssue]


def test_a_guest_that_dies_is_in_the_result_of_run_and_verify_and_an_error_of_check():
    crash = optprobe.load_asm("crash: mov rax, [rdi]\n ret", "crash.s")
    for done in (optprobe.run(crash, call="crash"), optprobe.verify(crash, call="crash")):
        assert done.fault is not None
        assert done.fault.kind is optprobe.FaultKind.UNMAPPED_ACCESS
    with pytest.raises(optprobe.UnprobedFault):
        optprobe.check(crash, call="crash", probes=["crash"])


@pytest.mark.parametrize("command", ["run", "verify", "check", "explore"])
def test_the_defaults_are_those_of_the_command_line(command):
    words = ["scenarios.py"] if command == "explore" else ["image.o", "--call", "work"]
    given = vars(parse([command, *words]))
    names = {"stubs": "stub", "probes": "probe", "source": "file"}
    negated = {"optimize": "no_optimize", "reduction": "no_reduction", "hashing": "no_hashing"}
    parameters = signatures.signature(getattr(optprobe, command)).parameters
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty or name in ("poke", "progress", "preemptions"):
            continue
        value = not given[negated[name]] if name in negated else given[names.get(name, name)]
        default = (
            list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        )
        assert default == value or str(default) == value, name


def test_every_option_of_the_command_line_is_one_of_the_functions():
    of_the_terminal = {"json", "command", "image", "file", "symbol", "preemptions_given"}
    other = {
        "no_optimize": "optimize",
        "no_reduction": "reduction",
        "no_hashing": "hashing",
        "stub": "stubs",
        "probe": "probes",
    }
    without_effect = {
        "run": {"preempt", "jobs"},
        "verify": {"preempt", "cpus"},
        "check": {"save"},
        "explore": {"save"},
        "inspect": {"jobs"},
    }
    for command, left_out in without_effect.items():
        words = (
            ["scenarios.py"]
            if command == "explore"
            else ["image.o"]
            if command == "inspect"
            else ["image.o", "--call", "work"]
        )
        options = set(vars(parse([command, *words]))) - of_the_terminal - left_out
        parameters = set(signatures.signature(getattr(optprobe, command)).parameters)
        assert {other.get(name, name) for name in options} <= parameters, command


class AsBefore(optprobe.Strategy):
    """Whoever went on last goes on."""

    def begin(self, number):
        return number == 0

    def choose(self, choices):
        return choices[0]


@pytest.mark.parametrize(
    ("function", "options", "words"),
    [
        (optprobe.run, {"call": "wrok"}, "no function wrok; there is work"),
        (optprobe.run, {"call": "work", "cpus": 0}, "--cpus: 0 is out of range"),
        (optprobe.run, {"call": "work", "cpus": True}, "--cpus: True is not a number"),
        (optprobe.run, {"call": "work", "arguments": "5"}, "arguments='5': give a list"),
        (optprobe.run, {"call": "work", "arguments": [[5]]}, "argument [5]: give an int"),
        (optprobe.run, {"call": "work", "arguments": [1 << 70]}, "does not fit in 64 bits"),
        (optprobe.run, {"call": "work", "probes": "work"}, "probes='work': give a list"),
        (
            optprobe.run,
            {"call": "work", "probes": [optprobe.Kprobe(symbol_name="work")]},
            "a Kprobe is for Machine.kprobes",
        ),
        (
            optprobe.run,
            {"call": "work", "libraries": ["libc.so.6"]},
            "give its libraries to load_image()",
        ),
        (optprobe.run, {"call": "work", "stubs": {"malloc": 0}}, "is called by nothing"),
        (optprobe.run, {"call": "work", "red_zone": "maybe"}, "give yes, no or auto"),
        (optprobe.run, {"call": "work", "interrupts": "seldom"}, "give none, every:N"),
        (optprobe.verify, {"call": "work", "interrupts": "every:5"}, "give none, boundaries"),
        (optprobe.verify, {"call": "work", "jobs": 0}, "--jobs: 0 is out of range"),
        (optprobe.inspect, {"symbol": "wrok"}, "no function 'wrok'"),
        (optprobe.check, {"call": "work", "probes": []}, "at least one --probe"),
        (optprobe.check, {**ONCE, "strategy": "luck"}, "give exhaustive, random or pct"),
        (optprobe.check, {**ONCE, "strategy": optprobe.Strategy}, "neither a name nor an object"),
        (
            optprobe.check,
            {**ONCE, "strategy": AsBefore(), "depth": 3},
            "depth=3: only a strategy given",
        ),
        (optprobe.check, {**ONCE, "seed": 3}, "--seed: only --strategy random and pct has it"),
        (optprobe.check, {**ONCE, "without": "free-wait"}, "without='free-wait': give a list"),
        (optprobe.check, {**ONCE, "without": ["free-beer"]}, "no such step"),
        (optprobe.check, {**ONCE, "resched": "work+0x3"}, "resched='work+0x3': give a list"),
        (optprobe.check, {**ONCE, "checkpoint": ""}, "checkpoint='': give a directory"),
        (optprobe.check, {**ONCE, "poke": lambda *_: None}, "NoneType is no poke protocol"),
    ],
)
def test_bad_input_is_refused_in_one_line_that_says_what_would_be_right(function, options, words):
    with pytest.raises(optprobe.InputError) as refused:
        function(WORK, **options)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_probe_that_the_kernel_refuses_has_its_errno_in_run_and_check():
    for ask in (optprobe.run, optprobe.check):
        with pytest.raises(optprobe.KprobeError, match="EILSEQ"):
            ask(WORK, call="work", arguments=[5], probes=["work+0x1"])


def test_what_is_assumed_of_a_file_is_a_warning(tmp_path):
    (tmp_path / "leaf.s").write_text(
        "leaf: mov [rsp - 8], rdi\n mov rax, [rsp - 8]\n ret\n", encoding="utf-8"
    )
    with pytest.warns(UserWarning, match="the code is taken to have a red zone"):
        assert optprobe.run(tmp_path / "leaf.s", call="leaf", arguments=[7]).calls[0].result == 7


class TwoStores(optprobe.StopMachinePoke):
    """A jump is two stores, and nobody is stopped."""

    def __init__(self, text, plane, without):
        super().__init__(text, plane, without)
        self.text = text

    def text_poke_jumps(self, params):
        for param in params:
            self.text.write(param.addr + 1, param.data[1:], reason="distance")
            self.text.write(param.addr, param.data[:1], reason="opcode")


class Raises(optprobe.StopMachinePoke):
    """It has a bug."""

    def text_poke_jumps(self, params):
        raise RuntimeError("no idea how")


def test_a_check_finds_what_is_wrong_with_the_users_poke_protocol():
    assert optprobe.check(WORK, **ONCE, poke=optprobe.StopMachinePoke).verdict == "safe"
    (report,) = optprobe.check(WORK, **{**ONCE, "preemptions": 1}, poke=TwoStores).violations
    assert report.violation.kind is optprobe.ViolationKind.TORN


def test_a_poke_protocol_that_raises_is_bad_input_and_no_finding():
    with pytest.raises(
        optprobe.InputError,
        match=r"this protocol ends in an error even where no .*: RuntimeError: no idea how",
    ):
        optprobe.check(WORK, **ONCE, poke=Raises)


def test_a_scenario_has_a_poke_protocol_of_its_own_and_several_processes_do_too():
    @optprobe.scenario(
        image=TEXT, call="work", arguments=("5",), calls=1, preemptions=1, poke=TwoStores
    )
    def jump(setup: optprobe.Setup) -> None:
        @setup.control
        def main(k: optprobe.Control) -> None:
            p = k.kprobe("work")
            k.register(p)
            k.settle()
            k.unregister(p)
            k.settle()

    for jobs in (1, 2):
        (result,) = optprobe.explore(jump, jobs=jobs).values()
        assert [report.violation.kind for report in result.violations] == [
            optprobe.ViolationKind.TORN
        ]
    with pytest.raises(optprobe.InputError, match="give what makes a poke protocol"):
        optprobe.scenario(image=TEXT, call="work", poke="two")  # pyright: ignore[reportArgumentType]


def case(profile: optprobe.Profile, **fields: object) -> Experiment:
    return Experiment(image=WORK, call="work", profile=profile, code=[], tag="", **fields)  # pyright: ignore[reportArgumentType]


def test_a_schedule_of_another_poke_protocol_or_profile_has_another_fingerprint():
    cases = [
        case(LINUX_2010),
        case(LINUX_6_1),
        case(LINUX_2010, poke=TwoStores),
        case(LINUX_2010, poke=Raises),
        case(optprobe.profile(LINUX_2010, rethook=True)),
        case(optprobe.profile(LINUX_2010, transitions=LINUX_6_1.transitions)),
        case(optprobe.profile(LINUX_2010, name="mine")),
        case(optprobe.profile(LINUX_2010, batch=2)),
        case(optprobe.profile(LINUX_2010, without=["free-wait"])),
    ]
    assert len({fingerprint(one) for one in cases}) == len(cases)


def test_a_profile_that_only_lacks_steps_is_no_other_profile():
    for shipped in PROFILES:
        for preempt in (False, True):
            assert (
                changes_of(
                    without(shipped, frozenset({"free-wait", "f66c0447cca1"}), preempt=preempt)
                )
                == ()
            )
    assert changes_of(optprobe.profile("next", rethook=False)) == (("rethook", "False"),)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base": "linux-7"}, "give one of linux-2010"),
        ({"base": "next", "speed": 2}, "speed: no field of a profile; there is batch"),
        ({"base": "next", "rethook": "no"}, "rethook='no': give True or False"),
        ({"base": "next", "without": ["stop-machine"]}, "means nothing in next"),
        ({"base": "next", "without": "free-wait"}, "give a list"),
    ],
)
def test_a_profile_that_can_not_be_is_refused_in_one_line(options, words):
    with pytest.raises(optprobe.InputError) as refused:
        optprobe.profile(options.pop("base"), **options)
    assert words in str(refused.value)
