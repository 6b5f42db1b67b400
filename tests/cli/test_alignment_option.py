"""--check-alignment: what a processor faults on is a fault in every command that executes, and code
that is right stays right.
"""

from __future__ import annotations

import json

import pytest

from arch_x86.explore.scenario import load_scenarios
from arch_x86.explore.scenarios import steps
from arch_x86.explore.x86_setup import X86Setup
from engine.commands.cli import main
from engine.patching.experiment import fingerprint
from engine.patching.make_experiment import experiment_of_check
from engine.patching.request import Request
from engine.patching.saved_violations import SaveDirectory, load_saved
from engine.search.schedule import Schedule

CODE = """.intel_syntax noprefix
.text
.globl wrong
.type wrong, @function
wrong:
  sub rsp, 28
  movaps xmmword ptr [rsp], xmm0
  add rsp, 28
  mov eax, 1
  ret
.size wrong, .-wrong
.globl right
.type right, @function
right:
  sub rsp, 24
  movaps xmmword ptr [rsp], xmm0
  addps xmm0, xmmword ptr [rsp]
  add rsp, 24
  mov eax, 1
  ret
.size right, .-right
"""


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "code.s"
    path.write_text(CODE)
    return str(path)


def _run(capsys, *argv: str):
    status = main(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


@pytest.mark.parametrize("command", ["run", "verify", "script", "check"])
def test_what_is_misaligned_faults_with_the_option_only(capsys, tmp_path, image, command):
    script = tmp_path / "script.txt"
    for call, aligned in (("wrong", False), ("right", True)):
        script.write_text(f"call {call} x1\n")
        more = {
            "script": [str(script)],
            "check": ["--call", call, "--probe", f"{call}+4", "--calls", "1", "--preemptions", "0"],
        }.get(command, ["--call", call])
        assert _run(capsys, command, image, *more)[0] == 0
        status, out, err = _run(capsys, command, image, *more, "--check-alignment")
        assert (status == 0) == aligned
        assert ("not aligned to 16 bytes" in out + err) == (not aligned)


def test_run_says_where(capsys, image):
    status, out, _ = _run(capsys, "run", image, "--call", "wrong", "--check-alignment", "--json")
    fault = json.loads(out)["fault"]
    assert (status, fault["kind"], fault["symbol"], fault["offset"]) == (
        1,
        "general-protection",
        "wrong",
        4,
    )


def test_a_saved_experiment_keeps_it_and_its_schedules_are_of_its_own(tmp_path, image):
    plain, checked = (
        Request(image=image, call="right", probes=("right+4",), check_alignment=on)
        for on in (False, True)
    )
    port = X86Setup()
    prints = [fingerprint(experiment_of_check(one, port)) for one in (plain, checked)]
    assert prints[0] != prints[1]
    saved = SaveDirectory(tmp_path).of_check(checked)
    schedule = Schedule(prints[1], ())
    file = saved.file(0, schedule)
    saved.write(file, schedule, "")
    experiment, _ = load_saved(str(file), port)
    assert experiment.check_alignment
    assert fingerprint(experiment) == prints[1]


def test_a_scenario_is_explored_with_it():
    (one,) = load_scenarios(f"{steps.__file__}::whole_life")
    for on in (False, True):
        experiment = one.experiment(one.asked({"check_alignment": on}), X86Setup())
        assert experiment.check_alignment is on
