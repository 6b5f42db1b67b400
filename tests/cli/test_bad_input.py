"""The law of bad input over all commands, generated: one line on standard error, exit status 2,
nothing on standard output.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.commands.cli import main

IMAGE = (
    '{"format": "code-image", "version": 1, "segments": [{"addr": 4194304, "hex":'
    ' "89f8ffc08d0c4001c883f055c3"}], "symbols": [{"name": "work", "addr": 4194304, "size": 13}]}'
)
SCENARIO = """from arch_x86.explore.scenario import scenario
@scenario(image="IMAGE", call="work", arguments=("5",), calls=1, preemptions=0)
def one(setup):
    @setup.control
    def main(k):
        k.settle()
"""
BYTES = {
    "empty": b"",
    "zeros": bytes(64),
    "elf": b"\x7fELF" + bytes(60),
    "binary": bytes(range(256)),
    "nested.json": b"[" * 100_000,
    "deep.json": b'{"a":' * 100_000,
    "half.json": IMAGE[:100].encode(),
    "other.json": b'{"format": "something", "version": 1}',
    "version.json": IMAGE.replace('"version": 1', '"version": 9').encode(),
    "overlap.json": IMAGE.replace("}],", '}, {"addr": 4194305, "hex": "90"}],', 1).encode(),
    "hex.json": IMAGE.replace("89f8", "89f", 1).encode(),
    "address.json": IMAGE.replace("4194304", "-1", 1).encode(),
    "far.json": IMAGE.replace("4194304", "1" + "0" * 30).encode(),
    "asm.s": b"work:\n  frobnicate eax\n",
    "latin.s": b"work: # \xe4\n ret\n",
}
NOT_FILES = (
    "nowhere",
    "/",
    "/dev/null",
    "/dev/zero",
    "directory",
    "",
    "a\0b",
    "x" * 5000,
    "\udcff",
    "nowhere/../.",
)
NUMBERS = ("", "x", "-1", "0", "1e3", "9" * 5000, "\u0663")
WORDS = ("", "x", "\n", "\x1b[31m", "a" * 5000, "\udcff")
SPECS = (
    "",
    " ",
    "p",
    "r",
    "p work work",
    "p:1/x work",
    "p:!! work",
    "work+",
    "work+x",
    "work+-1",
    "p9 work",
    "rx work",
    "r work+1",
    "0x",
    "+4",
    "work+0x" + "f" * 17,
)
REFUSED = ("nowhere", "work+1", "work+0x1000", "0x10", "r nowhere", "r99999 work", "p work $arg1")
ARGUMENTS = (
    "",
    "x",
    "1.5",
    "buf:",
    "buf:a",
    "buf:zz",
    "buf:+0",
    "buf:+x",
    "buf:+99999999999",
    "buf:@nowhere",
    "buf:@/",
    "f64:",
    "f64:x",
    "1" * 30,
    "-9223372036854775809",
)
CODES = (
    "",
    "x",
    "0",
    "0x90",
    "0f",
    "e8",
    "89f8",
    "nop nop",
    "90" * 14,
    "90" * 65,
    "jmp:",
    "jmp:nowhere",
    "jmp:r work",
    "call:work+0xffffffff",
    "call:0x" + "f" * 17,
)
OPERATIONS = (
    "fly",
    "reg",
    "reg 0",
    "reg 0 +4",
    "reg 0 work+",
    "reg 0 work+x",
    "reg 0 work both sym",
    "reg 0 work x",
    "unreg",
    "unreg 7",
    "dis 7",
    "en 7",
    "cnt 7",
    "rereg 7",
)
MORE_OPERATIONS = (
    "call",
    "call work",
    "call work 3",
    "call nowhere x1",
    "sleep",
    "sleep x",
    "sleep -1",
    "wait 1",
    "sysctl x=1",
    "debugfs enabled=2",
    "callfn 7 work",
    "chip 7 work",
    "st",
    "st 5",
)
SCHEDULES = (
    "",
    "x",
    "v3",
    "v3:",
    "v3:0:0",
    "v3:00000000:",
    "v3:00000000:0*3",
    "v2:00000000:0",
    "v3:00000000:z9",
    "v3:00000000:0*" + "9" * 50,
    "v3:00000000:0*-1",
)

CALL = ("--call", "work", "--arg", "5")
RUN = ("run", "IMAGE", *CALL)
VERIFY = ("verify", "IMAGE", *CALL)
CHECK = ("check", "IMAGE", *CALL, "--probe", "work+4", "--calls", "1", "--preemptions", "0")
PATCH = ("patch", "IMAGE", *CALL, "--site", "work", "--to", "jmp:work+4", "--calls", "1")
EXPLORE = ("explore", "SCENARIOS")
SCRIPT = ("script", "IMAGE", "SCRIPT")
MATRIX = ("matrix",)


def check_without(option: str) -> tuple[str, ...]:
    """:data:`CHECK` without an option and its value, which a test gives itself."""
    if option not in CHECK:
        return CHECK
    at = CHECK.index(option)
    return CHECK[:at] + CHECK[at + 2 :]


def bad_inputs() -> Iterator[tuple[str, ...]]:
    """Each of them is wrong in one place. Names of files stand for those that the test makes."""
    for command in ("run", "verify", "check"):
        rest = (*CALL, "--probe", "work") if command == "check" else CALL
        for file in (*NOT_FILES, *BYTES):
            yield command, file, *rest
    for file in (*NOT_FILES, *BYTES):
        yield "inspect", file
        yield "script", file, "SCRIPT"
        yield "replay", file
        yield "explore", file
    for file in (*NOT_FILES, "binary"):
        yield "script", "IMAGE", file
        yield *RUN, "--with", file
    for command in (RUN, VERIFY, CHECK, SCRIPT):
        options = ("--cpus", "--max-instructions", "--jobs")
        yield from ((*command, option, number) for option in options for number in NUMBERS)
        yield from (
            (*command, option, word)
            for option in ("--profile", "--red-zone", "--stub")
            for word in WORDS
        )
    for option in ("--calls", "--preemptions", "--max-schedules", "--seed", "--depth"):
        yield from (
            (*check_without(option), option, number)
            for number in NUMBERS
            if (option, number) != ("--preemptions", "0")
        )
    for command in (EXPLORE, MATRIX):
        for option in ("--preemptions", "--max-schedules", "--jobs"):
            yield from (
                (*command, option, number)
                for number in NUMBERS
                if (option, number) != ("--preemptions", "0")
            )
        yield from ((*command, "--profile", word) for word in WORDS)
        yield from ((*command, "--strategy", word) for word in WORDS)
    yield from (
        (*CHECK, option, word)
        for option in ("--points", "--strategy", "--without", "--fetch", "--resched")
        for word in WORDS
    )
    yield from ((*EXPLORE, option, word) for option in ("--points", "--without") for word in WORDS)
    for spec in (*SPECS, *REFUSED):
        yield *RUN, "--probe", spec
        yield *CHECK, "--probe", spec
    for argument in ARGUMENTS:
        yield from (
            ("run", "IMAGE", "--call", "work", "--arg", argument),
            ("verify", "IMAGE", "--call", "work", "--arg", argument),
        )
    for when in WORDS:
        yield from (
            (*RUN, "--interrupts", when),
            (*VERIFY, "--interrupts", when),
            ("run", "IMAGE", "--call", when),
        )
        yield from (
            ("inspect", "IMAGE", when),
            ("explore", f"SCENARIOS::{when}") if when else ("explore", "SCENARIOS::y"),
        )
    for spec in (*SPECS, *REFUSED, "work", "work+4"):
        yield *PATCH, "--site", spec, "--to", "jmp:work+4"
        yield "patch", "IMAGE", *CALL, "--site", spec
    for code in CODES:
        yield "patch", "IMAGE", *CALL, "--site", "work", "--to", code
    for word in (*WORDS, *NOT_FILES, "nowhere.py", "SCENARIOS", "SCENARIOS:x", "nowhere.py:x"):
        yield *PATCH, "--protocol", word
        yield *CHECK, "--protocol", word
    for option in (
        "--without",
        "--fetch",
        "--resched",
        "--move",
        "--lock",
        "--user",
        "--red-zone",
        "--stub",
    ):
        yield from ((*PATCH, option, word) for word in WORDS)
    for option in ("--cpus", "--jobs", "--max-instructions", "--preemptions", "--max-schedules"):
        yield from (
            (*PATCH, option, number)
            for number in NUMBERS
            if (option, number) != ("--preemptions", "0")
        )
    for file in (*NOT_FILES, *BYTES):
        yield "patch", file, *CALL, "--site", "work", "--to", "nop"
    for operation in (*OPERATIONS, *MORE_OPERATIONS):
        yield "script", "IMAGE", f"OPERATION:{operation}"
    for schedule in SCHEDULES:
        yield "replay", schedule
        yield "replay", schedule, "--", *CHECK[1:]
        yield "replay", schedule, "--", "SCENARIOS"
    for command in (
        "run",
        "verify",
        "check",
        "patch",
        "explore",
        "replay",
        "matrix",
        "inspect",
        "script",
        "demo",
        "",
        "fly",
    ):
        yield from (
            ((command, "--fly") if command else ("--fly",)),
            (command, "a", "b", "c", "d"),
            (command, "--json", "--json=1"),
        )


CASES = list(dict.fromkeys(bad_inputs()))


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    room: Path = tmp_path_factory.mktemp("bad")
    for name, content in BYTES.items():
        (room / name).write_bytes(content)
    (room / "directory").mkdir()
    image, scenarios, script = room / "work.json", room / "scenarios.py", room / "script"
    image.write_text(IMAGE)
    scenarios.write_text(SCENARIO.replace("IMAGE", str(image)))
    script.write_text("wait\n")
    made = {"IMAGE": str(image), "SCENARIOS": str(scenarios), "SCRIPT": str(script)}
    return made | {name: str(room / name) for name in (*BYTES, "directory")}


def test_bad_input_is_one_line_and_exit_status_2_whatever_the_command(capsys, files, tmp_path):
    assert len(CASES) > 300
    wrong: list[str] = []
    for case in CASES:
        argv = [
            files.get(word, word).replace("SCENARIOS::", f"{files['SCENARIOS']}::") for word in case
        ]
        if argv[-1].startswith("OPERATION:"):
            (tmp_path / "script").write_text(argv[-1].removeprefix("OPERATION:") + "\n")
            argv[-1] = str(tmp_path / "script")
        began = time.process_time()
        try:
            status = main(argv)
        except BaseException as error:  # a traceback
            status = f"{type(error).__name__}: {error}"
        took = time.process_time() - began
        out, err = capsys.readouterr()
        lines = [line for line in err.splitlines() if "keeps data below RSP" not in line]
        good = (
            status == 2
            and len(lines) == 1
            and lines[0].startswith("optprobe: ")
            and lines[0].isprintable()
            and len(lines[0]) < 1200
        )
        if (
            not good
            or "Errno" in err
            or "Traceback" in err
            or (out and case[0] != "script")
            or took > 2
        ):
            wrong.append(
                f"{[word[:40] for word in case]}: {status}, {took:.1f} s, {out[:60]!r},"
                f" {err[:300]!r}"
            )
    assert not wrong, f"{len(wrong)} of {len(CASES)}:\n" + "\n".join(wrong)


@pytest.mark.parametrize(
    ("argv", "right"),
    [
        (("check", "sha256.o", "--call", "sha256", "--save", ""), "--save: an empty word"),
        (("check", "sha256.o", "--call", "sha256", "--checkpoint="), "--checkpoint: an empty word"),
        (("inspect", ""), "word 2 of the command is empty"),
        (("",), "word 1 of the command is empty"),
        (("replay", "v3:a6357eae:c0*3", "--", "sha256.o", "--call", ""), "--call: an empty word"),
        (("run", "sha256.o", "--call", "sha256", "--profile", ""), "--profile: an empty word"),
    ],
)
def test_an_empty_word_is_said_to_be_one(capsys, monkeypatch, tmp_path, argv, right):
    """A directory of no name would be the present one."""
    monkeypatch.chdir(tmp_path)
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"optprobe: {right}")
    assert err.count("\n") == 1
    assert not list(tmp_path.iterdir())
