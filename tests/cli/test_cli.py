"""Laws of the command line: JSON as the design has it, one clear line and exit status 2 for bad
input, faults as results.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from weakref import finalize

import pytest

from arch_x86.emu import uc as uc_module
from arch_x86.emu.sigint import interruptible
from engine.commands.cli import main
from tests.conftest import Rig, asm_image

pytestmark = pytest.mark.smoke

ELF = Path(__file__).resolve().parents[2] / "workloads" / "elf"
SHA = str(ELF / "sha256.o")
ABC = ["--call", "sha256", "--arg", "buf:616263", "--arg", "3", "--arg", "buf:+32"]
DIGEST = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def run(capsys, *argv: str) -> tuple[int, str, str]:
    status = main(list(argv))
    captured = capsys.readouterr()
    return status, captured.out, captured.err


class TestRun:
    def test_json_has_the_keys_of_the_design_and_the_right_answers(self, capsys):
        status, out, err = run(
            capsys,
            "run",
            SHA,
            *ABC,
            "--probe",
            "p:my/ev sha256",
            "--probe",
            "compress+0x2f9",
            "--json",
            "--cpus",
            "2",
        )
        document = json.loads(out)
        assert (status, err) == (0, "")
        assert list(document) == [
            "schema",
            "profile",
            "calls",
            "probes",
            "interrupts",
            "stop_machine",
            "syncs",
            "fault",
        ]
        assert (document["schema"], document["profile"], document["fault"]) == (
            1,
            "linux-2010",
            None,
        )
        assert [list(call) for call in document["calls"]] == [
            ["cpu", "symbol", "result", "result_f64", "instructions", "buffers"]
        ] * 2
        assert [call["buffers"] for call in document["calls"]] == [["616263", DIGEST]] * 2
        assert [call["result"] for call in document["calls"]] == [
            int.from_bytes(bytes.fromhex(DIGEST)[:8], "big")
        ] * 2
        assert document["probes"] == [
            {
                "spec": "p:my/ev sha256",
                "symbol": "sha256",
                "offset": 0,
                "method": "optimized",
                "hits": 2,
                "misses": 0,
            },
            {
                "spec": "compress+0x2f9",
                "symbol": "compress",
                "offset": 0x2F9,
                "method": "optimized",
                "hits": 128,
                "misses": 0,
            },
        ]

    def test_no_optimize_leaves_breakpoints(self, capsys):
        _, out, _ = run(capsys, "run", SHA, *ABC, "--probe", "sha256", "--no-optimize", "--json")
        document = json.loads(out)
        assert document["probes"][0]["method"] == "boosted"
        assert document["stop_machine"] == 0

    @pytest.mark.parametrize("when", ["every:1", "every:97", "random:3:50"])
    def test_interrupts_leave_the_result_alone(self, capsys, when):
        status, out, _ = run(
            capsys, "run", SHA, *ABC, "--probe", "compress+0x2f9", "--interrupts", when, "--json"
        )
        document = json.loads(out)
        assert status == 0
        assert document["calls"][0]["buffers"][1] == DIGEST
        assert document["probes"][0]["hits"] == 64
        assert document["interrupts"] > 10

    def test_a_guest_fault_is_exit_status_1_with_the_place(self, capsys):
        status, out, _ = run(
            capsys,
            "run",
            SHA,
            "--call",
            "sha256",
            "--arg",
            "0x10",
            "--arg",
            "64",
            "--arg",
            "0x20",
            "--json",
        )
        fault = json.loads(out)["fault"]
        assert status == 1
        assert list(fault) == ["cpu", "rip", "symbol", "offset", "kind", "explain"]
        assert fault["kind"] == "unmapped-access"
        assert json.loads(out)["calls"][0]["result"] is None

    def test_max_instructions_ends_an_endless_loop(self, capsys, tmp_path):
        source = tmp_path / "loop.s"
        source.write_text("spin:\n  jmp spin\n")
        status, out, _ = run(
            capsys, "run", str(source), "--call", "spin", "--max-instructions", "5000", "--json"
        )
        document = json.loads(out)
        assert status == 1
        assert document["fault"]["kind"] == "instruction-limit"
        assert document["calls"][0]["instructions"] == 5000

    def test_text_output_has_no_escape_codes_in_a_pipe(self, capsys):
        status, out, _ = run(capsys, "run", SHA, *ABC, "--probe", "sha256")
        assert status == 0
        assert "\x1b" not in out
        assert "optimized" in out

    def test_a_double_result_is_given(self, capsys, tmp_path):
        source = tmp_path / "add.s"
        source.write_text("add2:\n  addsd xmm0, xmm1\n  ret\n")
        _, out, _ = run(
            capsys,
            "run",
            str(source),
            "--call",
            "add2",
            "--arg",
            "f64:1.5",
            "--arg",
            "f64:2.25",
            "--json",
        )
        assert json.loads(out)["calls"][0]["result_f64"] == 3.75
        _, out, _ = run(
            capsys, "run", str(source), "--call", "add2", "--arg", "f64:1.5", "--arg", "f64:2.25"
        )
        assert out.startswith(
            "cpu 0  add2 -> 3.75 as a double, 2 (0x2) as an integer, 3 instructions"
        )
        source.write_text("half:\n  cvtsi2sd xmm0, edi\n  ret\n")
        _, out, _ = run(capsys, "run", str(source), "--call", "half", "--arg", "7")
        assert out.startswith("cpu 0  half -> 7.0 as a double")
        _, out, _ = run(capsys, "run", SHA, *ABC)
        assert "double" not in out


class TestVerify:
    def test_json_has_the_keys_of_the_design(self, capsys):
        status, out, err = run(
            capsys,
            "verify",
            str(ELF / "sse2.o"),
            "--call",
            "sse2_find",
            "--arg",
            "buf:6162",
            "--arg",
            "2",
            "--arg",
            "buf:62",
            "--arg",
            "1",
            "--json",
        )
        document = json.loads(out)
        assert (status, err) == (0, "")
        assert list(document) == ["schema", "verdict", "sites", "runs", "failures", "fault"]
        assert document["verdict"] == "good"
        assert document["runs"] >= 2 * document["sites"]

    def test_a_failure_is_exit_status_1_and_names_site_method_and_difference(
        self, capsys, tmp_path
    ):
        # keeps data under RSP, though assembly images have no red zone
        source = tmp_path / "zone.s"
        source.write_text("f:\n  mov [rsp - 24], rdi\n  nop\n  mov rax, [rsp - 24]\n  ret\n")
        image = tmp_path / "zone.json"
        code = "48897c24e890488b4424e8c3"
        image.write_text(
            json.dumps(
                {
                    "format": "code-image",
                    "version": 1,
                    "segments": [{"addr": 0x400000, "hex": code}],
                    "symbols": [{"name": "f", "addr": 0x400000, "size": 12}],
                    "red_zone": False,
                }
            )
        )
        status, out, _ = run(capsys, "verify", str(image), "--call", "f", "--arg", "77", "--json")
        document = json.loads(out)
        assert status == 1
        assert document["verdict"] == "bad"
        assert {"symbol", "offset", "method", "interrupt_at", "explain"} == set(
            document["failures"][0]
        )

    def test_json_says_why_when_the_unprobed_call_dies(self, capsys):
        argv = [SHA, "--call", "sha256", "--arg", "0x10", "--arg", "64", "--arg", "0x20", "--json"]
        status, out, _ = run(capsys, "verify", *argv)
        document = json.loads(out)
        assert (status, document["verdict"], document["runs"]) == (1, "bad", 0)
        assert document["fault"]["kind"] == "unmapped-access"
        assert document["fault"] == json.loads(run(capsys, "run", *argv)[1])["fault"]

    def test_text_says_why_when_the_unprobed_call_dies(self, capsys):
        _, out, _ = run(
            capsys,
            "verify",
            SHA,
            "--call",
            "sha256",
            "--arg",
            "0x10",
            "--arg",
            "64",
            "--arg",
            "0x20",
        )
        assert re.search(
            r"the unprobed call ends in a guest fault at \w+\+0x\w+ \(0x\w+\): unmapped-access", out
        )


BAD = {
    "no such file": (["run", "nowhere.o", "--call", "f"], "nowhere.o"),
    "not an ELF": (["run", __file__, "--call", "f"], "test_cli.py"),
    "unknown symbol": (["run", SHA, "--call", "sha255"], "sha256"),
    "unknown probe symbol": (["run", SHA, *ABC, "--probe", "compres"], "compress"),
    "inside an instruction": (["run", SHA, *ABC, "--probe", "sha256+0x1"], "EILSEQ"),
    "outside the image": (["run", SHA, *ABC, "--probe", "0x1234"], "EINVAL"),
    "beyond the function": (["run", SHA, *ABC, "--probe", "sha256+0x100000"], "EINVAL"),
    "no CPUs": (["run", SHA, *ABC, "--cpus", "0"], "1 to 8"),
    "nine CPUs": (["run", SHA, *ABC, "--cpus", "9"], "1 to 8"),
    "malformed SPEC": (["run", SHA, *ABC, "--probe", "p:!! sha256"], "p:!!"),
    "empty SPEC": (["run", SHA, *ABC, "--probe", ""], "--probe: an empty word"),
    "return probe of too many calls": (["run", SHA, *ABC, "--probe", "r4097 sha256"], "E2BIG"),
    "malformed argument": (["run", SHA, "--call", "sha256", "--arg", "buf:abc"], "hex"),
    "too many arguments": (["run", SHA, "--call", "sha256", *["--arg", "1"] * 7], "at most 6"),
    "malformed interrupts": (["run", SHA, *ABC, "--interrupts", "often"], "every:N"),
    "malformed sweep": (["verify", SHA, *ABC, "--interrupts", "every:3"], "boundaries"),
    "unknown profile": (["run", SHA, *ABC, "--profile", "linux-9"], "linux-2010"),
    "malformed stub": (["run", SHA, *ABC, "--stub", "x=5"], "ret:"),
    "no jobs": (["verify", SHA, *ABC, "--jobs", "0"], "--jobs"),
    "no limit": (["run", SHA, *ABC, "--max-instructions", "0"], "--max-instructions"),
    "no call": (["run", SHA], "--call"),
    "unknown command": (["frobnicate"], "frobnicate"),
    "no command": ([], "COMMAND"),
    "unknown option": (["run", SHA, *ABC, "--fast"], "--fast"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_exit_status_2(capsys, case):
    argv, words = BAD[case]
    status, out, err = run(capsys, *argv)
    assert status == 2
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("optprobe: ")
    assert words in err
    assert "Traceback" not in err


@pytest.mark.parametrize("cut", [0, 3, 16, 40, 63, 64, 100, 1000])
def test_a_truncated_elf_is_bad_input(capsys, tmp_path, cut):
    path = tmp_path / "cut.o"
    path.write_bytes(Path(SHA).read_bytes()[:cut])
    status, out, err = run(capsys, "run", str(path), "--call", "sha256")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert "cut.o" in err


@pytest.mark.parametrize(
    ("offset", "value", "words"), [(4, 1, "32-bit"), (5, 2, "big-endian"), (18, 183, "x86-64")]
)
def test_an_elf_of_another_kind_is_bad_input(capsys, tmp_path, offset, value, words):
    data = bytearray(Path(SHA).read_bytes())
    data[offset] = value
    path = tmp_path / "other.o"
    path.write_bytes(data)
    status, _, err = run(capsys, "run", str(path), "--call", "sha256")
    assert status == 2
    assert words in err


class TestProcess:
    def test_the_module_and_a_pipe_that_closes_early_end_quietly(self):
        shell = f"{sys.executable} -m engine demo --image {SHA} | head -1"
        done = subprocess.run(
            ["sh", "-c", shell],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=ELF.parents[1],
        )
        assert done.stdout.startswith("optprobe")
        assert done.stderr == ""

    @pytest.mark.parametrize("jobs", ["1", "2"])
    @pytest.mark.parametrize("delay", [0.45, 0.6, 1.2])
    def test_ctrl_c_ends_the_command_and_its_workers_at_once_with_one_line(self, jobs, delay):
        argv = [
            sys.executable,
            "-m",
            "engine",
            "verify",
            SHA,
            *ABC,
            "--interrupts",
            "boundaries",
            "--jobs",
            jobs,
        ]
        process = subprocess.Popen(
            argv,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            cwd=ELF.parents[1],
        )
        time.sleep(delay)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers too
        # until the workers, which hold the pipes too, have gone
        out, err = process.communicate(timeout=10)
        # Interrupted in an exec() of the standard library, Python ends itself by the signal; a
        # shell shows 130 for both.
        assert process.returncode in (130, -signal.SIGINT)
        assert out == "" or out.startswith("sha256: nothing-found\n")
        assert err.startswith("optprobe: interrupted")
        assert err.count("\n") == 1

    @pytest.mark.parametrize(
        "words",
        [
            ("run", "IMAGE", "--call", "f"),
            ("run", "IMAGE", "--call", "f", "--probe", "f", "--interrupts", "every:1000000000"),
            ("verify", "IMAGE", "--call", "f"),
            ("script", "IMAGE", "SCRIPT", "--json"),
            ("check", "IMAGE", "--call", "f", "--probe", "f"),
        ],
        ids=lambda words: " ".join(words),
    )
    def test_ctrl_c_ends_a_long_call_within_a_second(self, capsys, tmp_path, monkeypatch, words):
        """The signal comes when the emulator is at work. Without cuts the call takes 15 seconds or
        more.
        """
        image, script = tmp_path / "loop.s", tmp_path / "script"
        image.write_text(
            ".globl f\nf: lea rcx, [rdi + 1]\nl: mov [rsp-64], rax\n inc rax\n jmp l\n"
        )
        script.write_text("reg 0 f+0\ncall f x1\n")
        argv = [{"IMAGE": str(image), "SCRIPT": str(script)}.get(word, word) for word in words]
        began: list[float] = []
        emu_start = uc_module.emu_start

        def start(handle, rip, until, timeout, count):
            if count >= 100_000 and not began:
                began.append(time.monotonic())
                killers.append(
                    subprocess.Popen(["sh", "-c", f"sleep 0.3; kill -INT {os.getpid()}"])
                )
            return emu_start(handle, rip, until, timeout, count)

        killers: list[subprocess.Popen[bytes]] = []
        monkeypatch.setattr(uc_module, "emu_start", start)
        status, _, err = run(capsys, *argv, "--max-instructions", "2000000000")
        took = time.monotonic() - began[0]
        killers[0].wait()
        assert (status, err.count("\n")) == (130, 1)
        assert err.startswith("optprobe: interrupted")
        assert took < 2.5

    def test_ctrl_c_in_what_a_callback_of_the_emulator_calls_comes_behind_it(self, pool):
        """An exception that is raised in a callback is lost."""
        rig = Rig(asm_image("mov rax, [rsp]; ret"), pool)
        told: list[int] = []

        def seen(*_: int) -> None:
            if not told:
                os.kill(os.getpid(), signal.SIGINT)
            told.append(1)

        def runs() -> None:
            rig.call()
            time.sleep(5)

        rig.call()
        rig.machine.cpus[0].uc.hooks.record_loads(seen)
        with interruptible(), pytest.raises(KeyboardInterrupt):
            runs()
        assert told
        rig.machine.cpus[0].uc.hooks.stop_recording()

    def test_ctrl_c_in_a_finalizer_whose_exceptions_are_lost_comes_behind_it(self):
        class Dead:
            """Something that a finalizer is called for."""

        def ends() -> None:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0)

        def dies(called) -> None:
            one = Dead()
            finalize(one, called)
            del one
            time.sleep(5)

        for called in (ends, lambda: os.kill(os.getpid(), signal.SIGINT)):
            with interruptible(), pytest.raises(KeyboardInterrupt):
                dies(called)

    def test_ctrl_c_ends_a_process_in_an_endless_call_within_two_seconds(self, tmp_path):
        image = tmp_path / "loop.s"
        image.write_text(".globl f\nf: inc rax\n jmp f\n")
        argv = [
            sys.executable,
            "-m",
            "engine",
            "run",
            str(image),
            "--call",
            "f",
            "--max-instructions",
            "4000000000000",
        ]
        process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ELF.parents[1]
        )
        time.sleep(2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=2)
        assert (process.returncode, err) == (130, "optprobe: interrupted\n")

    @pytest.mark.slow
    def test_the_demo_says_that_all_is_as_it_should_be_within_100_columns(self, capsys):
        status, out, _ = run(capsys, "demo", "--image", SHA)
        assert status == 0
        assert "all as it should be" in out
        assert max(map(len, out.splitlines())) <= 100
        assert "\x1b" not in out
