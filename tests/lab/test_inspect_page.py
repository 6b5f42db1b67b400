"""The listing of ``optprobe inspect`` for a person, and docs/inspect.md: each claim of the two
holds.
"""

from __future__ import annotations

import io
import re

import pytest

from arch_x86.lab.inspect_page import padding_offsets
from arch_x86.probes.code import CodeCache
from arch_x86.probes.eligibility import _REFUSED, ProbeRefusal
from arch_x86.probes.inspect import FunctionReport
from arch_x86.probes.optimize import Unoptimizable
from arch_x86.probes.prepare_emulation import Emulation
from engine.errors import errno_name
from engine.image import Image, Import, Segment, Symbol
from tests.conftest import BASE, asm_image
from tests.lab.test_inspect import (
    DOC,
    IMAGES,
    SITE_TYPES,
    Terminal,
    body,
    functions_of,
    listing,
    many_lists,
    shipped,
)

GOLDEN = """\
asm: 2 functions

f  0x10000000, 31 bytes, 9 instructions: 9 probeable, 6 boostable, 3 optimizable
OFFSET BYTES            INSTRUCTION                          PROBE HIT           JUMP
+0x0   55               push rbp                             yes   boosted       5 bytes
+0x1   488d4701         lea rax, [rdi + 1]                   yes   boosted       14 bytes
+0x5   48b9887766554433 movabs rcx, 0x1122334455667788       yes   boosted       10 bytes
       2211
+0xf   4839c8           cmp rax, rcx                         yes   boosted       later-not-boostable
+0x12  7409             je +0x1d                             yes   jcc           first-not-boostable
+0x14  48c1e003         shl rax, 3                           yes   stepped       first-not-boostable
+0x18  e8e3000000       call g                               yes   call          jump-into-range
+0x1d  5d               pop rbp                              yes   boosted       no-room
+0x1e  c3               ret                                  yes   boosted       no-room

g  0x10000100, 13 bytes, 7 instructions: 3 probeable, 3 boostable, 0 optimizable
OFFSET BYTES            INSTRUCTION                          PROBE HIT           JUMP
+0x0   ffe0             jmp rax                              yes   boosted       indirect-jump
+0x2   ff1500000000     call qword ptr [rip]                 EOPNOTSUPP not-emulated
+0x8   (5 bytes of padding, 5 instructions, 2 probeable)
"""


class TestListing:
    def test_a_small_function(self):
        image = asm_image(
            "push rbp; lea rax, [rdi + 1]; movabs rcx, 0x1122334455667788; cmp rax, rcx; "
            "je 0x1000001d; shl rax, 3; call 0x10000100; pop rbp; ret",
            "jmp rax; call [rip]; int3; int3; int3; nop; nop",
        )
        assert body(listing(image)) == GOLDEN.splitlines()

    def test_offsets_without_an_instruction_are_shown_when_they_have_more_to_say(self):
        shown = [
            line
            for line in body(listing(many_lists()))
            if "not decoded" in line or "inside" in line
        ]
        assert [" ".join(line.split()) for line in shown] == [
            "+0x1 0100 (2 bytes inside) EINVAL jump-label",
            "+0x6 02 (1 byte inside) ENODEV no-ftrace-call",
            "+0x15 c7 (1 byte inside) EINVAL alternatives",
            "+0x1 c5 (1 byte not decoded) EINVAL undecodable",
            "+0x2 f80bc0b805000000 (8 bytes not decoded) EILSEQ undecodable-before",
        ]

    @pytest.mark.parametrize("buffers", [False, True])
    @pytest.mark.parametrize("name", IMAGES)
    def test_no_line_has_more_than_100_columns_and_every_instruction_is_there(self, name, buffers):
        text = listing(shipped(name), buffers=buffers)
        assert max(map(len, text.splitlines())) <= 100
        assert all(
            line == line.rstrip() and line.isascii() and "\x1b" not in line
            for line in text.splitlines()
        )
        distinct = {f["addr"]: f for f in functions_of(shipped(name))}.values()
        lines = [line for line in text.splitlines() if line.startswith("+0x")]
        folds = [
            int(found[1].replace(",", ""))
            for line in lines
            if (found := re.search(r"of padding, ([\d,]+) instruction", line))
        ]
        assert len(lines) - len(folds) + sum(folds) == sum(
            site["insn"] is not None for f in distinct for site in f["sites"]
        )

    def test_long_names_and_those_beyond_ascii_keep_the_width(self):
        name = "straße_" + "x" * 500
        image = Image(
            name="wide",
            segments=(Segment(BASE, b"\xe8\xfb\xff\xff\xff\xc3", 6),),
            symbols=(Symbol(name, BASE, 5), Symbol("漢" * 60, BASE + 5, 1)),
            imports=(Import(name, BASE + 0x1000),),
        )
        lines = listing(image, buffers=True).splitlines()
        assert max(map(len, lines)) <= 100
        assert all(line.isascii() for line in lines)

    def test_colour_is_on_a_terminal_only_and_changes_nothing_else(self, monkeypatch):
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setenv("TERM", "xterm")
        for name in ("sha256.o", "shapes_flow.o"):
            plain, coloured = (
                listing(shipped(name), out=out, buffers=True) for out in (io.StringIO(), Terminal())
            )
            assert "\x1b[32m" in coloured
            assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == plain

    def test_json_is_never_coloured(self, monkeypatch):
        monkeypatch.setenv("TERM", "xterm")
        assert "\x1b" not in listing(shipped("lz.o"), out=Terminal(), as_json=True)

    def test_buffers_are_disassembled_under_their_site(self):
        image = asm_image("push rbp; lea rax, [rdi + 1]; ret", red_zone=True)
        site = functions_of(image, buffers=True)[0]["sites"][0]
        lines = body(listing(image, buffers=True))
        at = next(i for i, line in enumerate(lines) if line.startswith("+0x0 "))
        assert lines[at + 1].split() == ["slot", f"{site['slot']['addr']:#x}", "55", "push", "rbp"]
        assert lines[at + 2].endswith("jmp f+0x1")
        shown = "".join(
            line[34:50].strip() for line in lines[at + 1 : at + 200] if line.startswith("        ")
        )
        assert shown.startswith(site["slot"]["hex"] + site["detour"]["hex"])
        assert any(line.endswith("call optimized_callback") for line in lines)

    @pytest.mark.parametrize(
        ("code", "filled"),
        [
            ("cc cc", []),
            ("cc cc cc", [1, 2]),
            ("90 c3 cc cc", [2, 3]),
            ("c3 cc", []),
            ("90 90 90 c3", []),
            ("c3 90 660f1f440000 6690", [1, 2, 8]),
            ("c3 90 cc", [1, 2]),
            ("c3 cc cc 90 90 c3 0000 0000", [1, 2, 6, 8]),
            ("c3 0000 cc c3", []),
            ("c3 f390 f390", []),
            ("c3 4190 4190", []),
        ],
    )
    def test_padding(self, code, filled):
        data = bytes.fromhex(code.replace(" ", ""))
        image = Image(
            name="p",
            segments=(Segment(BASE, data, len(data)),),
            symbols=(Symbol("f", BASE, len(data)),),
        )
        report = FunctionReport(CodeCache(image), image.symbols[0])
        assert sorted(padding_offsets(list(report.insns.values()), BASE)) == filled


class TestDocumentation:
    def rows(self, heading: str) -> dict[str, list[str]]:
        """The table under a heading: first cell -> the others."""
        part = DOC.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
        cells = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in part.splitlines()
            if line.startswith("| `")
        ]
        return {row[0].strip("`"): row[1:] for row in cells}

    def test_the_lists_of_reasons_are_the_closed_lists(self):
        refusals = self.rows("Why no probe goes there")
        assert list(refusals) == [str(reason) for reason in ProbeRefusal]
        assert {name: row[0] for name, row in refusals.items()} == {
            str(r): errno_name(v.errno) for r, v in _REFUSED.items()
        }
        assert list(self.rows("Why a probe stays a breakpoint")) == [
            str(reason) for reason in Unoptimizable
        ]
        assert all(len(row) == 3 and all(row) for row in refusals.values())
        assert all(
            len(row) == 2 and all(row)
            for row in self.rows("Why a probe stays a breakpoint").values()
        )

    def test_the_words_of_the_listing(self):
        rows = self.rows("The listing")
        assert list(rows) == [
            "OFFSET",
            "BYTES",
            "INSTRUCTION",
            "PROBE",
            "HIT",
            "JUMP",
            "boosted",
            "stepped",
            "ftrace",
            *map(str, Emulation),
        ]

    def test_the_keys_of_a_site_and_their_types(self):
        words = {int: "integer", str: "string", bool: "boolean", dict: "object", None: "null"}
        want = {
            key: " or ".join(words[kind] for kind in types) for key, types in SITE_TYPES.items()
        }
        assert {key: row[0] for key, row in self.rows("JSON").items()} == want

    def test_the_example(self):
        example = DOC.read_text(encoding="utf-8").split("```\n")[1]
        lines = body(listing(shipped("shapes_jcc.o"), "shape_jcc_short_o"))
        assert example.splitlines() == lines

    def test_what_reports_of_functions_never_say(self):
        absent = {
            name
            for name, row in self.rows("Why no probe goes there").items()
            if "not in reports" in row[2]
        }
        absent |= {
            name
            for name, row in self.rows("Why a probe stays a breakpoint").items()
            if "not in reports" in row[1]
        }
        assert absent == {"not-mapped", "not-text", "no-function", "neighbour-probe"}
        images = [*map(shipped, IMAGES), many_lists()]
        said = {
            site[key]
            for image in images
            for f in functions_of(image)
            for site in f["sites"]
            for key in ("probe_reason", "reason")
        }
        assert not said & absent
        assert len(said) > 12
