"""explore and matrix on the command line: documents, exit statuses, one line for what is wrong."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from engine.core.ablation import steps_of
from engine.core.profiles import LINUX_2010
from engine.patching import matrix
from tests.cli.searches import SCENARIO, call, ctrl_c_after, mark_of


def test_the_matrix_ends_at_ctrl_c_without_the_cell_that_was_cut_off(capsys, monkeypatch):
    options = ("matrix", "--profile", "linux-2010", "--no-preempt", "--max-schedules", "40")
    with ctrl_c_after(monkeypatch, 60):  # in the second cell
        status, out, err = call(capsys, *options, "--json")
    document = json.loads(out)
    assert (status, err, document["interrupted"]) == (130, "", True)
    assert [(cell["step"], cell["verdict"]) for cell in document["cells"]] == [
        (None, "nothing-found")
    ]
    with ctrl_c_after(monkeypatch, 60):
        status, out, err = call(capsys, *options)
    assert (status, err, out.count("\n")) == (130, "", 1)


BAD_CALLS = {
    "dies": (
        "xor ecx, ecx\n div ecx\n ret\n",
        "ends in a guest fault at work+0x2 (0x10000002): divide-error: ",
    ),
    "never ends": ("l: mov [rsp-8], rax\n inc rax\n jmp l\n", "does not end: it is at work+0x"),
    "dies the second time": (
        "mov eax, 1\n sub eax, [rdi]\n mov dword ptr [rdi], 1\n xor edx, edx\n div eax\n ret\n",
        "the unprobed call, made 2 times, ends in a guest fault at work+0x",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_a_call_that_is_bad_unprobed_is_said_to_be_so_in_one_line_within_seconds(
    capsys, tmp_path, name
):
    text, says = BAD_CALLS[name]
    image, scenarios = tmp_path / "bad.s", tmp_path / "bad.py"
    image.write_text(f".globl work\nwork:\n {text}")
    scenarios.write_text(
        SCENARIO.replace("IMAGE", str(image))
        .replace('"work", 4', '"work", 0')
        .replace("calls=1", "calls=2")
        .replace('"5"', '"buf:+8"')
    )
    options = (str(image), "--call", "work", "--arg", "buf:+8", "--probe", "work", "--calls", "2")
    began = time.process_time()
    quick = ("--max-instructions", "100000")
    for command in (
        ("check", *options),
        ("check", *options, *quick, "--json"),
        ("explore", str(scenarios)),
    ):
        status, out, err = call(capsys, *command)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("optprobe: ")
        assert says in err
    assert time.process_time() - began < 20
    schedule = f"v3:{mark_of(options)}:0*3"
    assert call(capsys, "replay", schedule, "--", *options, *quick)[0] == 2


def test_explore_goes_on_behind_a_scenario_whose_call_is_bad(capsys, image, tmp_path):
    bad, scenarios = tmp_path / "bad.s", tmp_path / "scenarios.py"
    bad.write_text(".globl work\nwork:\n ud2\n mov eax, edi\n ret\n")
    scenarios.write_text(
        SCENARIO.replace("IMAGE", str(bad)).replace("in_and_out", "bad")
        + SCENARIO.replace("IMAGE", image)
    )
    status, out, err = call(capsys, "explore", str(scenarios), "--json")
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith("optprobe: bad: the unprobed call ends in a guest fault at work+0x0")
    assert [(one["scenario"], one["verdict"]) for one in json.loads(out)["scenarios"]] == [
        ("in-and-out", "safe")
    ]


def scenario_of(tmp_path, image: str, *bodies: str) -> str:
    """A scenario file whose control tasks do what the bodies say, as lines of a function of
    ``k``.
    """
    tasks = "".join(
        f"    @setup.control\n    def task{n}(k):\n        {body}\n"
        for n, body in enumerate(bodies)
    )
    head = f"from arch_x86.explore.scenario import scenario\nimage, call = {image!r}, 'work'\n"
    decorator = "@scenario(image=image, call=call, arguments=('5',), calls=1, preemptions=1)\n"
    file = tmp_path / "tasks.py"
    file.write_text(f"{head}{decorator}def tasks(setup):\n{tasks}")
    return str(file)


@pytest.mark.parametrize(
    ("place", "error"),
    [
        ("0x1000", "ENOENT: no probe can go to 0x10001000"),
        ("1", "EILSEQ: no probe can go to 0x10000001"),
    ],
)
def test_a_refused_probe_is_false_and_is_said_in_one_line(capsys, image, tmp_path, place, error):
    body = (
        f"assert not k.register(k.kprobe('work', {place})); p = k.kprobe('work', 4); assert"
        " k.register(p); k.settle(); k.unregister(p)"
    )
    scenarios = scenario_of(tmp_path, image, body)
    explored = ("explore", scenarios, "--profile", "linux-6.1", "--preemptions", "0")
    status, out, err = call(capsys, *explored)
    assert (status, err, out.splitlines()[0]) == (0, "", "tasks: safe")
    told = [line for line in out.splitlines() if "refused" in line]
    assert len(told) == 1
    assert told[0].startswith(
        f"  control task task0: register_kprobe(work+{int(place, 0):#x}) was refused: {error}"
    )
    (document,) = json.loads(call(capsys, *explored, "--json")[1])["scenarios"]
    assert "refused" not in document


@pytest.mark.parametrize(
    "body",
    [
        "while True: k.settle()",
        "p = k.kprobe('work', 4)\n        while True: k.register(p); k.unregister(p)",
        "n = 0\n        while True: n += 1; k.settle()",
    ],
    ids=["same state", "round", "new states"],
)
def test_a_control_task_that_never_ends_is_said_to_in_one_line(capsys, image, tmp_path, body):
    status, out, err = call(
        capsys, "explore", scenario_of(tmp_path, image, "k.settle()", body), "--max-schedules", "10"
    )
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("optprobe: control task task1")
    assert "a control task has to end" in err


def test_a_control_task_may_wait_in_a_loop_for_another_one(capsys, image, tmp_path):
    waits = (
        "k.kprobe('work', 4, number=1)\n        while not k.probes[0].symbol_name:"
        " k.optimization(on=True)"
    )
    sets = "k.optimization(on=True); k.kprobe('work', 7, number=0)"
    _, out, err = call(
        capsys,
        "explore",
        scenario_of(tmp_path, image, waits, sets),
        "--max-schedules",
        "50",
        "--json",
    )
    (document,) = json.loads(out)["scenarios"]
    assert (err, document["violations"], document["schedules"] > 1) == ("", [], True)


def test_explore_runs_the_scenarios_of_a_file(capsys, image, tmp_path):
    file = tmp_path / "scenarios.py"
    file.write_text(SCENARIO.replace("IMAGE", image))
    status, out, _ = call(capsys, "explore", str(file), "--json")
    (one,) = json.loads(out)["scenarios"]
    assert (status, one["scenario"], one["verdict"], one["bound"]["preemptions"]) == (
        0,
        "in-and-out",
        "safe",
        1,
    )
    status, out, _ = call(capsys, "explore", f"{file}::in_and_out", "--profile", "linux-6.1")
    assert (status, out.splitlines()[0]) == (0, "in-and-out: safe")


BROKEN = SCENARIO.replace("in_and_out", "breaks").replace(
    "preemptions=1", "preemptions=1, without=('free-wait',)"
)


def test_explore_saves_what_it_finds_and_refuses_a_file_whose_scenario_has_changed(
    capsys, image, tmp_path
):
    file = tmp_path / "scenarios.py"
    file.write_text(SCENARIO.replace("IMAGE", image) + BROKEN.replace("IMAGE", image))
    options = ("--save", str(tmp_path / "found"), "--cpus", "2", "--preemptions", "1", "--json")
    status, out, _ = call(capsys, "explore", str(file), *options)
    sound, broken = json.loads(out)["scenarios"]
    assert (status, sound["violations"], broken["verdict"]) == (1, [], "violation")
    (violation,) = broken["violations"]
    from_text = call(
        capsys, "replay", violation["schedule"], "--", f"{file}::breaks", "--cpus", "2"
    )
    from_file = call(capsys, "replay", violation["file"])
    assert from_file == from_text
    assert from_file[0] == 1
    file.write_text(
        file.read_text().replace("k.unregister(p)", "k.disable(p)\n        k.unregister(p)")
    )
    status, out, err = call(capsys, "replay", violation["file"])
    assert (status, out, err.count("\n")) == (2, "", 1)
    file.unlink()
    status, out, err = call(capsys, "replay", violation["file"])
    assert (status, out, err.count("\n")) == (2, "", 1)


@pytest.mark.usefixtures("first_steps")
def test_explore_and_matrix_say_the_same_with_any_number_of_processes(capsys, image, tmp_path):
    file = tmp_path / "scenarios.py"
    file.write_text(SCENARIO.replace("IMAGE", image))
    for command in (
        ("explore", str(file), "--cpus", "2", "--preemptions", "1"),
        (
            "matrix",
            "--profile",
            "linux-2010",
            "--no-preempt",
            "--preemptions",
            "0",
            "--max-schedules",
            "20",
        ),
    ):
        first, second = (call(capsys, *command, "--json", "--jobs", jobs) for jobs in ("1", "2"))
        assert first == second


@pytest.fixture
def first_steps(monkeypatch) -> None:
    """The matrix has two steps: quiescence, which 2010 does not need, and stop_machine."""
    chosen = [step for step in matrix.STEPS if step.name in ("quiescence", "stop-machine")]
    monkeypatch.setattr(matrix, "STEPS", chosen)


def cells_of_2010(capsys) -> dict[str | None, dict[str, Any]]:
    """What the matrix says of linux-2010 without preemption, by step."""
    options = ("--profile", "linux-2010", "--no-preempt", "--preemptions", "1", "--json")
    status, out, err = call(capsys, "matrix", *options)
    assert (status, err) == (0, "")
    cells = {cell["step"]: cell for cell in json.loads(out)["cells"]}
    for name, cell in cells.items():
        assert (cell["violation"] is None) == (cell["verdict"] == "safe")
        assert cell["exhaustive"] or cell["violation"]
        assert (cell["argument"] is not None) == (cell["verdict"] == "safe" and name is not None)
    return cells


@pytest.mark.usefixtures("first_steps")
def test_the_matrix_says_of_a_step_what_breaks_without_it_or_why_nothing_does(capsys):
    assert {name: cell["verdict"] for name, cell in cells_of_2010(capsys).items()} == {
        None: "safe",
        "quiescence": "safe",
        "stop-machine": "violation",
    }


@pytest.mark.slow
def test_the_matrix_says_of_each_step_what_breaks_without_it_or_why_nothing_does(capsys):
    cells = cells_of_2010(capsys)
    assert set(cells) == {None, *(step.name for step in steps_of(LINUX_2010))}
    assert {name for name, cell in cells.items() if cell["verdict"] == "safe"} == {
        None,
        "quiescence",
        "slot-reuse-wait",
        "disabled-check",
    }


@pytest.mark.usefixtures("first_steps")
def test_a_cell_that_was_not_searched_to_its_end_is_not_said_to_be_safe(capsys):
    _, out, _ = call(
        capsys, "matrix", "--profile", "linux-2010", "--no-preempt", "--max-schedules", "40"
    )
    first, second, third = out.splitlines()[:3]
    assert "nothing found (40 schedules of whole-life, not exhaustive" in first
    assert "nothing found: stop_machine parks no CPU inside a call" in second
    assert "torn-instruction" in third


def test_the_matrix_in_a_fetch_model_says_which_and_has_no_argument_of_coherent_fetches(
    capsys, monkeypatch
):
    chosen = [step for step in matrix.STEPS if step.name in ("bp-sync-2", "bp-sync-3")]
    monkeypatch.setattr(matrix, "STEPS", chosen)
    options = ("--profile", "linux-6.1", "--no-preempt", "--preemptions", "0")
    for fetch, verdicts in (
        ("coherent", ["safe", "safe", "safe"]),
        ("torn", ["safe", "violation", "safe"]),
    ):
        asked = ("matrix", *options, "--fetch", fetch)
        cells = json.loads(call(capsys, *asked, "--json")[1])["cells"]
        assert [cell["verdict"] for cell in cells] == verdicts
        assert {cell["fetch"] for cell in cells} == {fetch}
        late = fetch != "coherent"
        assert [cell["argument"] is None for cell in cells] == [True, late, late]
        lines = call(capsys, *asked)[1].splitlines()
        told = [line for line in lines if not line.lstrip().startswith("v3:")]
        assert all(("--fetch torn" in line) is late for line in told)


def test_a_fetch_model_that_there_is_not_is_refused_by_the_matrix(capsys):
    status, out, err = call(capsys, "matrix", "--fetch", "unit:7")
    assert (status, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ("    raise Odd('b')\n", 2, "sc.py, line 5: Odd: b"),
        ("    yield\n", 2, "scenario one: its function is a generator, which does nothing"),
        (
            "    @setup.control\n    def main(k):\n        raise Odd('x')\n",
            1,
            "a control task ended in an error: sc.py:7: control task main: Odd: x",
        ),
        (
            "    @setup.control\n    async def main(k):\n        pass\n",
            1,
            "control task main: its function is a coroutine, which does nothing",
        ),
    ],
)
def test_what_a_scenarios_code_raises_is_told_whatever_its_class(
    tmp_path, capsys, body, status, told
):
    file = tmp_path / "sc.py"
    file.write_text(
        "import optprobe\nclass Odd(BaseException): pass\n"
        '@optprobe.scenario(image="f: nop; ret", call="f", preemptions=0)\n'
        f"def one(setup):\n{body}"
    )
    ended, out, err = call(capsys, "explore", str(file))
    assert ended == status
    assert told in out + err
    assert "Traceback" not in err
