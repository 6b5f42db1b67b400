"""Laws of ``optprobe inspect``: the JSON document's form, and the command: wrong input, pipes,
progress.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from errno import EILSEQ
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arch_x86.images import load_image
from arch_x86.isa.decode import decode
from arch_x86.isa.disasm import disassemble
from arch_x86.lab.inspect_image import inspect_image
from arch_x86.probes.code import CodeCache
from arch_x86.probes.eligibility import can_probe
from arch_x86.probes.inspect import inspect_functions, inspect_json, write_inspect_json
from engine.commands.cli import main
from engine.image import ExceptionEntry, Image, Range, Reserved, ReservedKind, Segment, Symbol
from tests.conftest import BASE, asm_image

ROOT = Path(__file__).resolve().parents[2]
ELF = ROOT / "workloads" / "elf"
IMAGES = sorted(path.name for path in ELF.iterdir() if path.suffix in (".o", ".so"))
DOC = ROOT / "docs" / "inspect.md"

SITE_TYPES = {
    "offset": (int,),
    "insn": (str, None),
    "length": (int, None),
    "probe": (int,),
    "probe_reason": (str, None),
    "boostable": (bool, None),
    "emulated": (str, None),
    "optimizable": (bool,),
    "reason": (str, None),
    "replaced_length": (int, None),
    "slot": (dict, None),
    "detour": (dict, None),
}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@cache
def shipped(name: str) -> Image:
    return load_image(ELF / name)


def listing(
    image: Image, symbol: str | None = None, out: io.StringIO | None = None, **options: bool
) -> str:
    out = out or io.StringIO()
    inspect_image(out, image, symbol, **options)
    return out.getvalue()


def functions_of(image: Image, symbol: str | None = None, **options: bool) -> list[dict]:
    return json.loads(listing(image, symbol, as_json=True, **options))["functions"]


def body(text: str) -> list[str]:
    """The listing without the legend."""
    lines = text.splitlines()
    return lines[lines.index("") + 1 :]


def many_lists() -> Image:
    """A function with something to say inside of instructions, and one for each other list."""
    code = bytes.fromhex(
        "b801000000 b802000000 b803000000 e800000000 48c7c004000000 0f0b 9090 06 b805000000"
    )
    kinds = (
        (1, 2, ReservedKind.JUMP_LABEL),
        (6, 1, ReservedKind.FTRACE_SITE),
        (15, 5, ReservedKind.STATIC_CALL),
        (27, 2, ReservedKind.BUG),
        (21, 1, ReservedKind.ALTERNATIVES),
    )
    undecodable = bytes.fromhex("90 c5f80bc0 b805000000")
    text = code * 2 + undecodable
    return Image(
        name="lists",
        segments=(Segment(BASE, text, len(text)),),
        symbols=(
            Symbol("f", BASE, len(code)),
            Symbol("g", BASE + len(code), len(code)),
            Symbol("h", BASE + 2 * len(code), len(undecodable)),
        ),
        reserved=tuple(Reserved(BASE + offset, size, kind) for offset, size, kind in kinds),
        blacklist=(Range(BASE + len(code) + 5, 7),),
        exception_table=(ExceptionEntry(BASE + len(code), BASE),),
    )


class TestJson:
    @pytest.mark.parametrize("buffers", [False, True])
    @pytest.mark.parametrize(
        "name",
        [pytest.param(n, marks=pytest.mark.smoke if n == "sha256.o" else ()) for n in IMAGES],
    )
    def test_every_byte_of_every_function_is_a_site_with_the_keys_and_types_documented(
        self, name, buffers
    ):
        image = shipped(name)
        document = json.loads(listing(image, as_json=True, buffers=buffers))
        assert list(document) == ["schema", "image", "functions"]
        assert (document["schema"], document["image"]) == (1, name)
        assert [(f["addr"], f["symbol"]) for f in document["functions"]] == sorted(
            {(s.addr, s.name) for s in image.functions}
        )
        for function in document["functions"]:
            assert list(function) == ["symbol", "addr", "size", "sites"]
            assert [site["offset"] for site in function["sites"]] == list(range(function["size"]))
            for site in function["sites"]:
                assert list(site) == list(SITE_TYPES)
                for key, types in SITE_TYPES.items():
                    assert (site[key] is None and None in types) or type(site[key]) is types[0], (
                        key,
                        site,
                    )

    @pytest.mark.parametrize("name", IMAGES)
    def test_the_fields_agree_with_each_other(self, name):
        for function in functions_of(shipped(name), buffers=True):
            end = 0
            for site in function["sites"]:
                starts = site["insn"] is not None
                assert starts == (site["length"] is not None) == (site["offset"] >= end)
                end = site["offset"] + site["length"] if starts else end
                assert (
                    (site["probe"] == 0)
                    == (site["probe_reason"] is None)
                    == (site["boostable"] is not None)
                )
                assert starts or (site["probe"], site["reason"]) == (-EILSEQ, "not-probeable")
                assert (
                    site["optimizable"]
                    == (site["reason"] is None)
                    == (site["replaced_length"] is not None)
                )
                assert site["optimizable"] == (site["detour"] is not None)
                assert (site["slot"] is not None) == (site["probe"] == 0)
                if site["optimizable"]:
                    assert site["boostable"] or site["length"] > 10
                    assert site["emulated"] is None or site["emulated"] in ("ret", "ifmodifiers")
                    assert 5 <= site["replaced_length"] == site["detour"]["copied"][1] <= 19

    @pytest.mark.parametrize("name", ["sha256.o", "canary.so"])
    def test_one_function_is_reported_as_among_all(self, name):
        everything = functions_of(shipped(name))
        for function in everything:
            assert functions_of(shipped(name), function["symbol"]) == [function]

    @pytest.mark.parametrize("buffers", [False, True])
    def test_the_stream_is_the_document_whatever_the_lists_say(self, buffers):
        image = many_lists()
        assert (
            functions_of(image, buffers=buffers)
            == json.loads(json.dumps(inspect_json(image, buffers=buffers)))["functions"]
        )
        code = CodeCache(image)
        for function in functions_of(image):
            for site in function["sites"]:
                verdict = can_probe(code, function["addr"] + site["offset"])
                assert (site["probe"], site["probe_reason"]) == (-verdict.errno, verdict.reason)

    def test_all_names_of_an_address_and_all_functions_of_a_name_are_reported(self):
        code = bytes.fromhex("90c3" * 4)
        symbols = [
            ("a", 0, 4),
            ("b", 0, 2),
            ("a", 4, 2),
            ("end", 6, 0),
            ("away", 0x5000, 4),
            ("a", 0, 4),
        ]
        image = Image(
            name="names",
            segments=(Segment(BASE, code, len(code)),),
            symbols=(
                *(Symbol(n, BASE + at, size) for n, at, size in symbols),
                Symbol("data", BASE, 8, function=False),
            ),
        )
        found = [
            (f["symbol"], f["addr"] - BASE, f["size"], len(f["sites"])) for f in functions_of(image)
        ]
        assert found == [
            ("b", 0, 4, 4),
            ("a", 0, 4, 4),
            ("a", 4, 2, 2),
            ("end", 6, 2, 2),
            ("away", 0x5000, 0, 0),
        ]
        assert [f["addr"] - BASE for f in functions_of(image, "a")] == [0, 4]
        first, second = functions_of(image)[:2]
        assert first["sites"] == second["sites"]
        shown = "\n".join(body(listing(image)))
        assert f"a  {BASE:#x}, 4 bytes, the same code as b" in shown
        assert (
            f"away  {BASE + 0x5000:#x}, 0 bytes, outside of the text, no probe goes there" in shown
        )

    def test_nothing_of_an_earlier_function_stays_in_memory(self):
        image = asm_image("nop; ret", "nop; ret", "nop; ret")
        held: list[int] = []
        code = CodeCache(image)
        for report in inspect_functions(code, code.functions):
            assert len(report.sites) == 2
            held.append(len(code._functions))
        assert held == [1, 1, 1]

    def test_bytes_appear_before_the_last_function_is_looked_at(self):
        seen: list[tuple[int, int]] = []
        out = io.StringIO()
        write_inspect_json(
            out,
            asm_image(*["nop; ret"] * 4),
            progress=lambda done, _total: seen.append((done, len(out.getvalue()))),
        )
        assert [done for done, _size in seen] == [0, 1, 2, 3]
        sizes = [size for _done, size in seen]
        assert sizes == sorted(set(sizes))

    @given(st.binary(min_size=1, max_size=15), st.sampled_from([BASE, 0xFFFF_FFFF_8100_0000]))
    def test_only_the_text_of_relative_branches_depends_on_the_address(self, data, addr):
        insn = decode(data, addr)
        if insn is not None and insn.target is None:
            assert disassemble(insn.raw, addr) == disassemble(insn.raw, 0)


class TestCommand:
    @pytest.mark.smoke
    def test_the_command_prints_both_forms(self, capsys):
        assert main(["inspect", str(ELF / "sha256.o"), "sha256"]) == 0
        out = capsys.readouterr().out
        assert "\x1b" not in out
        assert "\nsha256  0x" in out
        assert main(["inspect", str(ELF / "sha256.o"), "sha256", "--json", "--buffers"]) == 0
        (function,) = json.loads(capsys.readouterr().out)["functions"]
        assert function["symbol"] == "sha256"
        assert function["sites"][0]["detour"] is not None

    @pytest.mark.parametrize(
        ("argv", "says"),
        [
            (["nowhere.o"], "no such file"),
            ([str(ELF / "sha256.o"), "sha526"], "no function 'sha526'; there is sha256"),
            ([str(ELF / "sha256.o"), "\n"], "no function '\\n'"),
            ([str(ELF / "sha256.o"), "sha256", "more"], "unrecognized arguments"),
            ([str(ELF / "sha256.o"), "--call", "sha256"], "unrecognized arguments"),
            ([], "required"),
            ([str(ELF / "reference.py")], "no such file"),
            ([str(DOC)], "neither an ELF file"),
        ],
    )
    def test_wrong_input_is_exit_status_2_and_one_line(self, capsys, argv, says):
        for extra in ([], ["--json"]):
            assert main(["inspect", *argv, *extra]) == 2
            captured = capsys.readouterr()
            assert captured.out == ""
            assert captured.err.startswith("optprobe: ")
            assert captured.err.count("\n") == 1
            assert says in captured.err

    def test_data_is_no_function(self, capsys, tmp_path):
        symbols = [{"name": "f", "addr": BASE, "size": 1}]
        path = tmp_path / "image.json"
        path.write_text(
            json.dumps(
                {
                    "format": "code-image",
                    "version": 1,
                    "segments": [{"addr": BASE, "hex": "c3"}],
                    "symbols": symbols,
                }
            )
        )
        assert main(["inspect", str(path), "g"]) == 2
        assert capsys.readouterr().err == "optprobe: image.json: no function 'g'; there is f\n"

    @pytest.mark.parametrize("options", [[], ["--json"]])
    def test_a_reader_that_goes_away_ends_it_quietly(self, options):
        command = [
            sys.executable,
            "-m",
            "engine",
            "inspect",
            str(ELF / "shapes.so"),
            "--buffers",
            *options,
        ]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.read(10)
            process.stdout.close()
            assert process.stderr.read() == b""

    def test_progress_is_on_a_terminal_only_while_the_output_goes_to_a_file(
        self, monkeypatch, tmp_path
    ):
        monkeypatch.setattr(sys, "stderr", Terminal())
        assert listing(shipped("lz.o"))
        assert sys.stderr.getvalue() == ""
        with (tmp_path / "out").open("w") as out:
            inspect_image(out, shipped("lz.o"), as_json=True)
        assert "functions" in sys.stderr.getvalue()
        assert sys.stderr.getvalue().endswith("\r\x1b[K")
        monkeypatch.setattr(sys, "stderr", io.StringIO())
        with (tmp_path / "out").open("w") as out:
            inspect_image(out, shipped("lz.o"))
        assert sys.stderr.getvalue() == ""
