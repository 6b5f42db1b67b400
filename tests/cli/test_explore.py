"""check, explore, replay and matrix on the command line: documents, exit statuses, one line for
what is wrong.
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arch_x86.explore.x86_setup import X86Setup
from engine.commands.cli import main, parse
from engine.commands.searching import check_request
from engine.core.ablation import steps_of
from engine.core.profiles import LINUX_2010
from engine.patching import verdict as verdict_module
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


@pytest.fixture
def image(tmp_path) -> str:
    file = tmp_path / "work.s"
    file.write_text(".globl work\n" + CODE)
    return str(file)


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
    return call(
        capsys,
        "check",
        image,
        "--call",
        "work",
        "--arg",
        "5",
        "--probe",
        "work+4",
        "--calls",
        "1",
        *more,
    )


def test_check_prints_the_document_of_the_design(capsys, image):
    status, out, err = check(capsys, image, "--json")
    document = json.loads(out)
    assert (status, err, document["schema"], document["verdict"], document["violations"]) == (
        0,
        "",
        1,
        "safe",
        [],
    )
    assert list(document) == [
        "schema",
        "verdict",
        "interrupted",
        "bound",
        "schedules",
        "points",
        "coverage",
        "violations",
    ]
    assert document["interrupted"] is False
    assert document["bound"] == {
        "exhaustive": True,
        "preemptions": 2,
        "schedules": document["schedules"],
        "cpus": 1,
    }
    assert set(document["coverage"]) == {
        "int3",
        "boosted",
        "stepped",
        "jump",
        "in_flight_at_write",
        "parked_in_range",
    }
    assert min(document["coverage"][name] for name in ("int3", "jump", "in_flight_at_write")) > 0


def test_a_violation_is_saved_and_replays_from_its_file_and_from_its_text(capsys, image, tmp_path):
    ablated = ("--without", "free-wait")
    status, out, _ = check(capsys, image, *ablated, "--json", "--save", str(tmp_path / "found"))
    (violation,) = json.loads(out)["violations"]
    assert (status, violation["kind"], violation["cpu"]) == (1, "use-after-free", 0)
    assert Path(violation["file"]).parent == tmp_path / "found"
    from_file = call(capsys, "replay", violation["file"])
    arguments = (
        image,
        "--call",
        "work",
        "--arg",
        "5",
        "--probe",
        "work+4",
        "--calls",
        "1",
        *ablated,
    )
    from_text = call(capsys, "replay", violation["schedule"], "--", *arguments)
    assert from_file == from_text
    assert from_file[0] == 1
    assert from_file[1].splitlines()[-1].startswith("use-after-free: ")
    assert "work+0x4  int3" in from_file[1]


def test_a_replay_of_something_else_is_refused(capsys, image, tmp_path):
    _, out, _ = check(capsys, image, "--without", "free-wait", "--json")
    schedule = json.loads(out)["violations"][0]["schedule"]
    status, out, err = call(
        capsys,
        "replay",
        schedule,
        "--",
        image,
        "--call",
        "work",
        "--arg",
        "6",
        "--probe",
        "work+4",
        "--calls",
        "1",
    )
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "code, call, probes or options" in err


def test_a_schedule_that_breaks_nothing_exits_with_0(capsys, image):
    _, out, _ = check(capsys, image, "--without", "free-wait", "--json")
    mark = json.loads(out)["violations"][0]["schedule"].split(":")[1]
    arguments = (
        image,
        "--call",
        "work",
        "--arg",
        "5",
        "--probe",
        "work+4",
        "--calls",
        "1",
        "--without",
        "free-wait",
    )
    status, out, _ = call(capsys, "replay", f"v3:{mark}:c0*2,0*3", "--", *arguments)
    assert (status, out.splitlines()[-1]) == (0, "no violation")


@pytest.mark.parametrize(
    "method",
    [
        ("--probe", "work+2"),
        ("--probe", "work+9"),
        ("--probe", "r work"),
        ("--preempt", "--preemptions", "1"),
    ],
)
@pytest.mark.parametrize("profile", ["linux-2010", "linux-6.1", "next"])
def test_each_method_has_its_check(capsys, image, profile, method):
    probes = method if "--probe" in method else ("--probe", "work+4", *method)
    # to save time, where tasks are preempted; `make sound` has more
    most = ("--max-schedules", "3000")
    call_of = (
        "check",
        image,
        "--call",
        "work",
        "--arg",
        "5",
        "--calls",
        "1",
        "--profile",
        profile,
        "--json",
        *most,
    )
    status, out, _ = call(capsys, *call_of, *probes)
    document = json.loads(out)
    if "--preempt" in method:
        assert (status, document["verdict"]) == (
            (1, "violation") if profile == "linux-2010" else (0, "nothing-found")
        )
    else:
        assert (status, document["verdict"]) == (0, "safe")
    if method[-1] == "work+2":
        assert document["coverage"]["stepped"] > 0
    if method[-1] == "work+9":
        assert document["coverage"]["boosted"] > 0


def test_the_text_says_which_points_other_than_the_usual_ones_were_used(capsys, image):
    first, second = (
        check(capsys, image, "--preemptions", "0", *more)[1].splitlines()[1]
        for more in ((), ("--points", "stores"))
    )
    assert first.endswith("1 CPU, linux-2010")
    assert second.endswith("1 CPU, linux-2010, --points stores")


def test_a_verdict_without_a_jump_is_inconclusive(capsys, image):
    status, out, _ = check(capsys, image, "--max-schedules", "1", "--json")
    assert (status, json.loads(out)["verdict"]) == (1, "inconclusive")


@pytest.mark.parametrize(
    ("more", "verdict"),
    [
        (("--preemptions", "1"), "safe"),
        (("--preemptions", "1", "--max-schedules", "100000"), "safe"),
        (("--preemptions", "1", "--max-schedules", "700"), "nothing-found"),
        (("--strategy", "random", "--max-schedules", "60"), "nothing-found"),
        (("--strategy", "pct", "--max-schedules", "60"), "nothing-found"),
        (("--strategy", "random", "--max-schedules", "1"), "inconclusive"),
    ],
)
def test_safe_is_said_of_a_search_to_the_end_only(capsys, image, more, verdict):
    status, out, _ = check(capsys, image, *more, "--json")
    document = json.loads(out)
    assert (status, document["verdict"], document["violations"]) == (
        verdict == "inconclusive",
        verdict,
        [],
    )
    assert document["bound"]["exhaustive"] is (verdict == "safe")
    assert check(capsys, image, *more)[1].splitlines()[0] == f"work: {verdict}"


def test_ctrl_c_in_the_middle_of_a_search_is_said_and_nothing_of_it_is_safe(
    capsys, image, monkeypatch
):
    """Interrupted when every method has been used, and before one has."""
    for after, verdict in ((700, "nothing-found"), (0, "inconclusive")):
        with ctrl_c_after(monkeypatch, after):
            status, out, err = check(capsys, image, "--json")
        document = json.loads(out)
        assert (status, err, document["verdict"], document["interrupted"]) == (
            130,
            "",
            verdict,
            True,
        )


def test_what_was_found_is_shown_when_ctrl_c_ends_its_shrinking(capsys, image, monkeypatch):
    def shrink(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(verdict_module, "shrink", shrink)
    status, out, _ = check(capsys, image, "--without", "free-wait", "--json")
    document = json.loads(out)
    assert (status, document["verdict"], document["interrupted"]) == (130, "violation", True)
    assert document["violations"][0]["kind"] == "use-after-free"


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
    mark = fingerprint(experiment_of_check(check_request(parse(["check", *options])), X86Setup()))
    assert call(capsys, "replay", f"v3:{mark}:0*3", "--", *options, *quick)[0] == 2


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


@pytest.mark.parametrize("strategy", ["random", "pct"])
def test_seeded_strategies_give_the_same_document_each_time(capsys, image, strategy):
    options = ("--strategy", strategy, "--seed", "7", "--max-schedules", "60", "--json")
    first = check(capsys, image, *options)
    assert first == check(capsys, image, *options)
    bound = json.loads(first[1])["bound"]
    assert (bound["exhaustive"], bound["preemptions"]) == (
        False,
        2 if strategy == "random" else None,
    )


def test_pct_takes_a_depth(capsys, image):
    deep, flat = (
        check(
            capsys,
            image,
            "--strategy",
            "pct",
            "--max-schedules",
            "60",
            "--depth",
            depth,
            "--json",
            "--without",
            "free-wait",
        )
        for depth in ("6", "1")
    )
    assert json.loads(deep[1])["points"] > json.loads(flat[1])["points"]


@pytest.mark.parametrize(
    "more",
    [
        ("--fetch", "stale"),
        ("--without", "nothing"),
        ("--without", "bp-refs"),
        ("--strategy", "luck"),
        ("--preemptions", "-1"),
        ("--probe", "work+3"),
        ("--probe", "nowhere"),
        ("--calls", "0"),
        ("--cpus", "9"),
        ("--depth", "0"),
        ("--resched", "nowhere+1"),
        ("--max-schedules", "0"),
    ],
)
def test_what_is_wrong_is_one_line_and_exit_status_2(capsys, image, more):
    status, out, err = check(capsys, image, *more)
    assert (status, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("what", ["/nowhere/at/all", "v3:00000000:0*3", "v2:00000000:0"])
def test_a_replay_of_nothing_is_one_line_and_exit_status_2(capsys, what):
    status, out, err = call(capsys, "replay", what)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert ("No such file" in err) is what.startswith("/")


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


def test_a_buffer_from_a_file_is_saved_with_what_was_in_it(capsys, image, tmp_path):
    data = tmp_path / "data"
    data.write_bytes(b"12345678")
    arguments = (
        "--arg",
        f"buf:@{data}",
        "--without",
        "free-wait",
        "--save",
        str(tmp_path / "found"),
    )
    _, out, _ = check(capsys, image, *arguments, "--json")
    (violation,) = json.loads(out)["violations"]
    data.unlink()
    assert call(capsys, "replay", violation["file"])[0] == 1


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


def test_a_probe_may_be_parked_on_by_a_voluntary_schedule(capsys, image):
    status, out, _ = check(capsys, image, "--resched", "work+7", "--preemptions", "1", "--json")
    assert (status, json.loads(out)["violations"][0]["kind"]) == (1, "torn-instruction")


def test_the_matrix_says_of_each_step_what_breaks_without_it_or_why_nothing_does(capsys):
    status, out, err = call(
        capsys, "matrix", "--profile", "linux-2010", "--no-preempt", "--preemptions", "1", "--json"
    )
    cells = {cell["step"]: cell for cell in json.loads(out)["cells"]}
    assert (status, err, set(cells)) == (
        0,
        "",
        {None, *(step.name for step in steps_of(LINUX_2010))},
    )
    assert {name for name, cell in cells.items() if cell["verdict"] == "safe"} == {
        None,
        "quiescence",
        "slot-reuse-wait",
        "disabled-check",
    }
    for name, cell in cells.items():
        assert (cell["violation"] is None) == (cell["verdict"] == "safe")
        assert cell["exhaustive"] or cell["violation"]
        assert (cell["argument"] is not None) == (cell["verdict"] == "safe" and name is not None)


def test_a_cell_that_was_not_searched_to_its_end_is_not_said_to_be_safe(capsys):
    _, out, _ = call(
        capsys, "matrix", "--profile", "linux-2010", "--no-preempt", "--max-schedules", "40"
    )
    first, second, third = out.splitlines()[:3]
    assert "nothing found (40 schedules of whole-life, not exhaustive" in first
    assert "nothing found: stop_machine parks no CPU inside a call" in second
    assert "torn-instruction" in third
