"""check and replay on the command line: documents, exit statuses, one line for what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.patching import verdict as verdict_module
from tests.cli.searches import call, call_of, check, ctrl_c_after, mark_of


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
    arguments = (*call_of(image), *ablated)
    from_text = call(capsys, "replay", violation["schedule"], "--", *arguments)
    assert from_file == from_text
    assert from_file[0] == 1
    assert from_file[1].splitlines()[-1].startswith("use-after-free: ")
    assert "work+0x4  int3" in from_file[1]


def test_a_replay_of_something_else_is_refused(capsys, image, tmp_path):
    schedule = f"v3:{mark_of(call_of(image))}:c0*2,0*3"
    status, out, err = call(capsys, "replay", schedule, "--", *call_of(image, argument="6"))
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "code, call, probes or options" in err


def test_a_schedule_that_breaks_nothing_exits_with_0(capsys, image):
    arguments = (*call_of(image), "--without", "free-wait")
    schedule = f"v3:{mark_of(arguments)}:c0*2,0*3"
    status, out, _ = call(capsys, "replay", schedule, "--", *arguments)
    assert (status, out.splitlines()[-1]) == (0, "no violation")


@pytest.mark.parametrize("bound", ["1", pytest.param("2", marks=pytest.mark.slow)])
@pytest.mark.parametrize("method", ["work+2", "work+9", "r work", "preempted"])
@pytest.mark.parametrize("profile", ["linux-2010", "linux-6.1", "next"])
def test_each_method_has_its_check(capsys, image, profile, method, bound):
    """Where tasks are preempted the bound is 1, of fewer schedules; `make sound` has more."""
    preempted = method == "preempted"
    options = ("--profile", profile, "--json")
    if preempted:
        most = "1000" if bound == "1" else "3000"
        arguments = (*call_of(image), "--preempt", "--preemptions", "1", "--max-schedules", most)
    else:
        arguments = (*call_of(image, probe=method), "--preemptions", bound)
    status, out, _ = call(capsys, "check", *arguments, *options)
    document = json.loads(out)
    if preempted:
        assert (status, document["verdict"]) == (
            (1, "violation") if profile == "linux-2010" else (0, "nothing-found")
        )
    else:
        assert (status, document["verdict"]) == (0, "safe")
    if method == "work+2":
        assert document["coverage"]["stepped"] > 0
    if method == "work+9":
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
    if document["schedules"] <= 60:
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
        ("--fetch", "late"),
        ("--fetch", "unit:7"),
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


def test_a_probe_may_be_parked_on_by_a_voluntary_schedule(capsys, image):
    status, out, _ = check(capsys, image, "--resched", "work+7", "--preemptions", "1", "--json")
    assert (status, json.loads(out)["violations"][0]["kind"]) == (1, "torn-instruction")
