"""Wrong input of ``patch`` and ``replay``: one line says what is wrong and what is right."""

from __future__ import annotations

import json

import pytest

import optprobe
from engine.commands.cli import main

TEXT = """
other:
    add ebx, 100
    ret
    .p2align 6
dispatch:
    push rbx
    mov rbx, rdi
    xor eax, eax
    call other
    add rax, rbx
    pop rbx
    ret
"""
HEAD = "import optprobe\n"
WHOLE = """
    p.stop_machine(lambda: p.copy(patches[0].addr, patches[0].new, "all"), "all")
"""


@pytest.fixture
def image(tmp_path):
    file = tmp_path / "prog.s"
    file.write_text(TEXT)
    return str(file)


@pytest.fixture
def written(tmp_path):
    """Writes a protocol's file, and returns its path."""

    def write(text: str) -> str:
        file = tmp_path / "mine.py"
        file.write_text(HEAD + text)
        return str(file)

    return write


def words(image, *more, site="dispatch+0x6", to="nop"):
    given = [image, "--call", "dispatch", "--arg", "5", "--calls", "1", "--preemptions", "1"]
    return ["patch", *given, "--site", site, "--to", to, *more]


def refused(capsys, argv) -> str:
    """The one line on standard error of a command that ends with exit status 2."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "class Odd(BaseException): pass\n@optprobe.protocol()\ndef f(p, patches):\n"
            "    raise Odd('odd')\n",
            "mine.py, line 5: Odd: odd",
        ),
        ("class Odd(BaseException): pass\nraise Odd('top')\n", "mine.py, line 3: Odd: top"),
        (
            "@optprobe.protocol()\ndef f(p, patches):\n    open('/nonexistent')\n",
            "mine.py, line 4: No such file or directory: /nonexistent",
        ),
        (
            "@optprobe.protocol()\ndef f(p, patches):\n"
            "    p.store(patches[0].addr, b'abc', 'three')\n",
            "mine.py, line 4: three: a store of 3 bytes",
        ),
        (
            "@optprobe.protocol(my_sync='x')\ndef f(p, patches):\n"
            "    p.sync('x', step='my_sync')\n",
            "mine.py, line 4: step='my_sync': write step='my-sync'",
        ),
        ("@optprobe.protocol()\ndef f(p):\n    pass\n", "line 2: f(p): a protocol takes two"),
        ("@optprobe.protocol\ndef f(p, q, r):\n    pass\n", "f(p, q, r): a protocol takes two"),
        ("@optprobe.protocol()\ndef f(p, patches):\n    yield\n", "leave yield out"),
        ("@optprobe.protocol()\nasync def f(p, patches):\n    pass\n", "leave async out"),
        ("optprobe.protocol()(5)\n", "line 2: 5: optprobe.protocol() stands over a function"),
    ],
)
def test_a_mistake_in_a_protocols_file_is_named_with_its_line(capsys, image, written, text, told):
    assert told in refused(capsys, words(image, "--protocol", written(text)))


def test_a_mistake_in_a_protocol_under_kprobes_is_named_with_its_line(capsys, image, written):
    file = written("@optprobe.protocol\ndef f(p, patches):\n    p.store(0, b'abc', 'three')\n")
    argv = ["check", image, "--call", "dispatch", "--arg", "5", "--probe", "dispatch", "--calls"]
    line = refused(capsys, [*argv, "1", "--profile", "linux-6.1", "--protocol", file])
    assert "mine.py, line 4: three: a store of 3 bytes" in line
    assert "control task" not in line


def test_the_decorator_needs_no_parentheses_where_there_are_no_steps():
    @optprobe.protocol
    def plain(p, patches):
        """Nothing."""

    assert isinstance(plain, optprobe.PatchProtocol)
    assert (plain.name, dict(plain.steps), plain.what) == ("plain", {}, "Nothing.")


def test_a_directory_in_the_place_of_a_file_is_called_one(capsys, image, tmp_path):
    (tmp_path / "dir.py").mkdir()
    line = refused(capsys, words(image, "--protocol", str(tmp_path / "dir.py")))
    assert "dir.py: a directory; give a Python file" in line


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_what_users_code_prints_is_no_part_of_the_document(capfd, image, written, jobs):
    file = written(
        "print('at the top')\n@optprobe.protocol\ndef f(p, patches):\n    print('inside')" + WHOLE
    )
    assert main(words(image, "--protocol", file, "--jobs", jobs, "--json")) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["verdict"] == "safe"
    assert "at the top" in err
    assert "inside" in err


def test_what_a_scenario_prints_is_no_part_of_the_document(capfd, tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        HEAD
        + """
print("at the top")
@optprobe.scenario(image="f: nop; ret", call="f", preemptions=0)
def one(setup):
    print("setting up")
    @setup.control
    def main(k):
        print("in the task")
"""
    )
    assert main(["explore", str(file), "--json"]) in (0, 1)
    out, err = capfd.readouterr()
    assert json.loads(out)["schema"] == 1
    assert all(text in err for text in ("at the top", "setting up", "in the task"))


@pytest.mark.parametrize(
    ("site", "to", "told"),
    [
        (
            "dispatch+0x7",
            "nop",
            "dispatch+0x7: no instruction starts there; the place is inside of `call 0x10000000` at"
            " dispatch+0x6; the next instruction begins at dispatch+0xb",
        ),
        ("dispatch+0xd", "nop", "inside of `add rax, rbx` at dispatch+0xb; the next"),
        ("dispatch+0x60", "nop", "dispatch has 16 bytes, and its last one is at dispatch+0xf"),
        ("dispatch+0x6", "0f1f4", "5 digits; give two digits for each byte"),
    ],
)
def test_a_place_or_code_that_is_wrong_is_answered_by_what_is_there(capsys, image, site, to, told):
    assert told in refused(capsys, words(image, site=site, to=to))


def test_code_that_replaces_several_instructions_says_so_when_the_call_dies(capsys, image):
    assert main(words(image, site="dispatch+0xb", to="0f1f440000")) == 1
    told = "the new code at dispatch+0xb replaces 3 instructions, add rax, rbx, pop rbx, ret"
    assert told in capsys.readouterr().err


def test_a_probe_inside_of_an_instruction_is_answered_by_what_is_there(capsys, image):
    argv = ["check", image, "--call", "dispatch", "--arg", "5", "--probe", "dispatch+0x2"]
    line = refused(capsys, argv)
    assert "EILSEQ: no probe can go to" in line
    assert "not-boundary; dispatch+0x2 is inside of `mov rbx, rdi` at dispatch+0x1" in line


def test_an_option_that_is_not_there_is_answered_by_one_that_is_like_it(capsys, image):
    line = refused(capsys, words(image, "--protocl", "x.py"))
    assert "--protocl x.py (is --protocol meant?); see optprobe patch --help" in line
    line = refused(capsys, ["check", image, "--call", "dispatch", "--zzz"])
    assert line.endswith("unrecognized arguments: --zzz; see optprobe check --help")


def test_a_schedule_is_replayed_by_the_words_that_found_it(capsys, image):
    argv = words(image, to="0f1f440000909090")
    assert main([*argv, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    schedule = document["violations"][0]["schedule"]
    assert main(["replay", schedule, "--", *argv]) == 1
    assert capsys.readouterr().out.splitlines() == document["timeline"]
    line = refused(capsys, ["replay", schedule, "--", *argv[1:]])
    assert "write -- patch in front of them" in line
    line = refused(capsys, ["replay", schedule])
    assert "does not say what it is a schedule of; write -- behind it" in line
    assert "the word patch" in line


def test_a_schedule_of_check_is_replayed_with_or_without_the_word_check(capsys, image):
    rest = [image, "--call", "dispatch", "--arg", "5", "--probe", "dispatch", "--calls", "1"]
    rest += ["--without", "stop-machine", "--preemptions", "0"]
    assert main(["check", *rest, "--json"]) == 1
    schedule = json.loads(capsys.readouterr().out)["violations"][0]["schedule"]
    for words_before in ([], ["check"]):
        assert main(["replay", schedule, "--", *words_before, *rest]) == 1


def test_the_schedule_of_an_exhibit_is_replayed_by_the_exhibits_name(capsys):
    assert main(["museum", "five-nops", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["found"]
    schedule = found["violations"][0]["schedule"]
    assert main(["replay", schedule, "--", "museum", "five-nops"]) == 1
    assert capsys.readouterr().out.splitlines() == found["timeline"]
    line = refused(capsys, ["replay", schedule, "--", "museum", "one-store"])
    assert "no such exhibit; optprobe museum lists the names, such as one_store" in line
