"""What is found does not depend on who works on which part, on how many there are, or on being
killed on the way.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from array import array
from contextlib import closing
from dataclasses import replace

import pytest

from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import life
from engine.core.ablation import without
from engine.core.profiles import LINUX_6_1, LINUX_2010
from engine.errors import InputError
from engine.patching.search_options import Search
from engine.search import conduct, levels
from engine.search.actor import actor_from
from engine.search.checkpoint import Checkpoint, code_mark
from engine.search.exhaustive import Exhaustive
from engine.search.parts import Outcome, PartResult
from engine.search.prefixes import Navigator, StartWriter, starts_of
from engine.search.schedule import segments_from, segments_of
from tests.explore.experiments import check, experiment_of
from tests.explore.toys import Counter

CODE = (
    ".globl work\nwork:\n mov eax, edi\n inc eax\n lea ecx, [rax + rax*2]\n add eax, ecx\n xor eax,"
    " 0x55\n ret\n"
)


def command(tmp_path, *more: str) -> list[str]:
    image = tmp_path / "work.s"
    image.write_text(CODE)
    words = [
        "check",
        str(image),
        "--call",
        "work",
        "--arg",
        "5",
        "--probe",
        "work+4",
        "--calls",
        "1",
        "--preemptions",
        "2",
        "--json",
    ]
    return [sys.executable, "-m", "engine", *words, *more]


@pytest.mark.parametrize(
    ("steps", "options"),
    [
        ((), Search(preemptions=1)),
        (("quiescence",), Search(preemptions=2)),
        (("unregister-wait",), Search(strategy="random", max_schedules=600)),
        ((), Search(strategy="pct", max_schedules=300, seed=3)),
        ((), Search(preemptions=2, max_schedules=2_345)),
    ],
    ids=["sound", "broken", "random", "pct", "capped"],
)
def test_results_do_not_depend_on_the_number_of_processes(pool, steps, options):
    case = experiment_of(life.optimize, without(LINUX_6_1, frozenset(steps)))
    one, three = (check(case, replace(options, jobs=jobs), pool=pool) for jobs in (1, 3))
    assert one.outcome == three.outcome
    assert bool(one.violations) is ("quiescence" in steps)
    assert one.to_json() == three.to_json()
    if options.max_schedules is not None and not one.violations:
        assert one.outcome.schedules == options.max_schedules


@pytest.mark.parametrize(
    ("profile", "preempt"),
    [(LINUX_2010, False), (LINUX_6_1, True)],
    ids=["linux-2010", "linux-6.1 preemptible"],
)
def test_a_part_comes_to_the_same_in_a_process_that_has_met_nothing_else(
    pool, monkeypatch, profile, preempt
):
    monkeypatch.setattr(levels, "PART_SCHEDULES", 200)
    case = experiment_of(
        life.two_control_tasks, without(profile, frozenset(), preempt=preempt), preempt=preempt
    )
    strategy, outcome = Exhaustive(bound=1, recheck_every=0, max_schedules=600), Outcome()
    with closing(open_experiment(case, pool)) as seasoned:
        while parts := strategy.batch(outcome):
            keys = b""
            for part in parts:
                with closing(open_experiment(case)) as fresh:
                    result = strategy.work(seasoned, part)
                    assert strategy.work(fresh, part) == result
                outcome.add(result)
                strategy.merge(result)
                keys += result.keys
            strategy.learn(keys)
    assert outcome.schedules == 600


def test_levels_go_on_from_each_state_once_and_reach_what_depth_first_search_reaches():
    """The states are those of a plain search of the graph, and so are the outcomes."""
    toy = Counter(3, (3, 3, 1))
    strategy = Exhaustive(bound=None, recheck_every=0, violations_max=10**9)
    outcome = conduct.explore(strategy, toy)
    seen: set[int] = set()
    plain = Counter(3, (3, 3, 1))
    stack = [plain.save()]
    while stack:  # a plain search of the graph, without levels, parts or starts
        plain.restore(stack.pop())
        choices = plain.choices()
        if len(choices) > 1:
            if plain.key() in seen:
                continue
            seen.add(plain.key())
        here = plain.save()
        for choice in choices:
            plain.restore(here)
            plain.take(choice.actor)
            stack.append(plain.save())
    assert strategy.seen == seen
    assert outcome.exhaustive
    assert toy.outcomes == plain.outcomes


@pytest.mark.parametrize("most", [1, 2, 7])
@pytest.mark.parametrize(("actors", "rounds", "count"), [(2, 2, 70), (3, 1, 90), (2, 3, 924)])
def test_what_a_part_hands_back_is_visited_once_too(monkeypatch, most, actors, rounds, count):
    monkeypatch.setattr(levels, "PART_SCHEDULES", most)
    toy = Counter(actors, rounds)
    outcome = conduct.explore(Exhaustive(bound=None, hashing=False, recheck_every=0), toy)
    assert (outcome.schedules, outcome.exhaustive) == (count, True)
    assert len(set(toy.schedules)) == len(toy.schedules) == count


def test_going_from_start_to_start_gives_the_states_that_their_paths_lead_to():
    toy = Counter(3, 2)
    paths = ["0*3,1*2", "0*3,1*2", "0*3,1*4,2", "0*3,1*4,2*3", "0,2*4", "0,2*2,1", "1*4,0*4", ""]
    starts = [(segments_from(path), None) for path in paths]
    navigator = Navigator(toy, starts)
    for number, (segments, _) in enumerate(starts):
        navigator.go(number)
        assert segments_of(toy.trace) == segments
        plain = Counter(3, 2)
        for actor, steps in segments:
            for _ in range(steps):
                plain.take(actor)
        assert toy.key() == plain.key()
    navigator.close()


def test_how_many_schedules_there_will_be_is_told_once_the_last_level_is_under_way():
    strategy, told = Exhaustive(bound=3, hashing=False, recheck_every=0), []
    outcome = conduct.explore(
        strategy, Counter(3, 3), lambda done, expected: told.append((done, expected))
    )
    known = [expected for _, expected in told if expected is not None]
    assert told[0][1] is None
    assert 0.8 < known[-1] / outcome.schedules < 1.25
    capped = Exhaustive(bound=3, hashing=False, recheck_every=0, max_schedules=500)
    conduct.explore(capped, Counter(3, 3), lambda done, expected: told.append((done, expected)))
    assert told[-1][1] == 500


def test_starts_are_kept_as_text_and_come_back_in_order():
    writer = StartWriter()
    for number in range(300):
        writer.add_path(1, segments_from(f"0*{number + 1},c0"), list(map(actor_from, ("i0", "1"))))
    groups = writer.close()
    assert all(level == 1 for level, _, _ in groups)
    assert sum(weight for _, weight, _ in groups) == 600
    starts = starts_of(blob for _, _, blob in groups)
    assert starts[:3] == [
        (segments_from("0,c0"), actor_from("i0")),
        (segments_from("0,c0"), actor_from("1")),
        (segments_from("0*2,c0"), actor_from("i0")),
    ]
    assert len(starts) == 600


def test_a_search_that_was_killed_ends_with_the_document_of_one_that_was_not(tmp_path):
    """kill -9, at three places, with one process and with two."""
    environment = {**os.environ, "PYTHONHASHSEED": "1"}
    whole = subprocess.run(
        command(tmp_path, "--cpus", "2", "--max-schedules", "9000"),
        capture_output=True,
        check=True,
        timeout=120,
    ).stdout
    room = tmp_path / "checkpoints"
    goes_on = command(tmp_path, "--cpus", "2", "--max-schedules", "9000", "--checkpoint", str(room))
    for lines, jobs in ((3, "1"), (6, "2"), (9, "1")):
        running = subprocess.Popen(
            [*goes_on, "--jobs", jobs], stdout=subprocess.PIPE, env=environment
        )
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and running.poll() is None:
            if any(file.read_bytes().count(b"\n") >= lines for file in room.glob("*.jsonl")):
                break
            time.sleep(0.01)
        os.kill(running.pid, signal.SIGKILL)
        running.communicate(timeout=60)
        (file,) = room.glob("*.jsonl")
        with file.open("ab") as out:  # it died while it wrote a line
            out.write(b'{"schedules": 12, "mer')
    assert file.read_bytes().count(b"\n") > 6
    again = subprocess.run([*goes_on, "--jobs", "2"], capture_output=True, check=True, timeout=120)
    assert again.stdout == whole
    assert subprocess.run(goes_on, capture_output=True, check=True, timeout=60).stdout == whole


def test_a_checkpoint_of_another_search_or_none_at_all_is_refused_in_one_line(tmp_path):
    file = tmp_path / "one.jsonl"
    with closing(Checkpoint(file, "a")) as checkpoint:
        checkpoint.write(
            PartResult(schedules=3, keys=array("Q", [1, 2]).tobytes(), groups=[(1, 2, b"x")])
        )
    with closing(Checkpoint(file, "a")) as checkpoint:
        (known,) = checkpoint.known(5)
        assert (known.schedules, known.groups) == (3, [(1, 2, b"x")])
    with pytest.raises(InputError, match="not of this search"):
        Checkpoint(file, "b")
    file.write_bytes(b"\xff\xfe nothing\n")
    for bad in (file, tmp_path, file / "below"):
        with pytest.raises(InputError) as refused:
            Checkpoint(bad, "a")
        assert "\n" not in str(refused.value)


def test_other_code_has_another_mark(tmp_path):
    (tmp_path / "one.py").write_text("x = 1\n")
    before = code_mark(tmp_path)
    (tmp_path / "one.py").write_text("x = 2\n")
    assert code_mark(tmp_path) != before


def test_an_interrupt_from_the_keyboard_gives_what_was_found_so_far(tmp_path):
    """Ctrl-C goes to all processes of a terminal; only the first one answers."""
    words = command(tmp_path, "--cpus", "3", "--jobs", "2", "--checkpoint", str(tmp_path / "room"))
    running = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not any(
        file.read_bytes().count(b"\n") > 10 for file in (tmp_path / "room").glob("*")
    ):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)
    out, err = running.communicate(timeout=60)
    document = json.loads(out)
    assert (running.returncode, err) == (130, b"")
    assert (document["verdict"], document["interrupted"]) == ("nothing-found", True)
    assert document["schedules"] > 1_000
    assert document["bound"]["exhaustive"] is False
