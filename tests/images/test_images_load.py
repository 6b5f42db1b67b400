"""Which reader a file belongs to, and the one-line refusal of everything else."""

from __future__ import annotations

import json
import struct

import pytest

from arch_x86.images import load_image, parse_stub
from engine.errors import InputError
from tests.images.elf_builder import ELF, header

CODE_IMAGE = {
    "format": "code-image",
    "version": 1,
    "segments": [{"addr": 4096, "hex": "c3"}],
    "symbols": [],
}


def refused(path, **options) -> str:
    with pytest.raises(InputError) as caught:
        load_image(path, **options)
    assert str(caught.value).isprintable()
    return str(caught.value)


def test_content_decides_not_the_name(tmp_path):
    elf, image, text = tmp_path / "a.json", tmp_path / "b.o", tmp_path / "c.S"
    elf.write_bytes((ELF / "sse2.o").read_bytes())
    image.write_text("\ufeff\n " + json.dumps(CODE_IMAGE))
    text.write_text("f: ret\n")
    assert "sse2_find" in load_image(elf).by_name
    assert load_image(str(image)).segments[0].addr == 4096
    assert load_image(text, text_base=0x400000).by_name["f"].addr == 0x400000
    assert load_image(text).name == "c.S"


def test_paths_that_are_not_files(tmp_path):
    assert "no such file" in refused(tmp_path / "nosuch")
    assert "a directory" in refused(tmp_path)
    assert "cannot be read" in refused("nul\0byte")
    refused("")
    empty = tmp_path / "empty"
    empty.touch()
    assert "is empty" in refused(empty)
    strange = tmp_path / "new\nline"
    assert "new\\nline: no such file" in refused(strange)
    assert "not a regular file" in refused("/dev/null")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"hello\n", "neither an ELF file nor a code image"),
        (b"\xff\xfe\x00", "neither an ELF file nor text"),
        (b"\x7fEL", "neither an ELF file nor a code image"),
        (b"\x7fELF", "truncated"),
        (b"\x7fELF\x01\x01\x01" + bytes(60), "a 32-bit ELF file"),
        (b"\x7fELF\x02\x02\x01" + bytes(60), "a big-endian ELF file"),
        (b"\x7fELF\x07\x01\x01" + bytes(60), "ELF class 7"),
        (header(4), "a core file"),
        (header(0), "a file of no type"),
        (header(77), "an ELF file of type 77"),
        (header(1)[:18] + struct.pack("<H", 183) + header(1)[20:], "an ELF file for aarch64"),
        (header(1)[:18] + struct.pack("<H", 0xBEEF) + header(1)[20:], "machine number 48879"),
        (header(1), "no code"),
        (header(3), "no loadable segment"),
        (header(1, shoff=1 << 63, shnum=5), "section header table"),
        (header(3, phoff=64, phnum=9), "program header table"),
        (b"\x1f\x8b\x08", "compressed with gzip"),
        (b"\x28\xb5\x2f\xfd", "compressed with zstd"),
        (b"!<arch>\n", "an archive"),
        (b"MZ\x90", "a PE file"),
        (b"{}", "not a code image"),
        (b"{", "not valid JSON"),
    ],
)
def test_each_wrong_file_is_told_apart(tmp_path, data, words):
    path = tmp_path / "x.o"
    path.write_bytes(data)
    assert words in refused(path)


def test_a_base_for_a_code_image_is_refused(tmp_path):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(CODE_IMAGE))
    assert "leave the text base out" in refused(path, text_base=4096)


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ("f=ret:0", ("f", 0)),
        ("a.b$c=ret:0x10", ("a.b$c", 16)),
        ("f=ret:-1", ("f", (1 << 64) - 1)),
        (f"f=ret:{(1 << 64) - 1}", ("f", (1 << 64) - 1)),
    ],
)
def test_stubs(spec, value):
    assert parse_stub(spec) == value


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "f",
        "f=",
        "f=5",
        "f=ret",
        "f=ret:",
        "=ret:1",
        "f=jmp:1",
        "f=ret:x",
        "f=ret:1.5",
        f"f=ret:{1 << 64}",
        f"f=ret:-{(1 << 63) + 1}",
        "f\n=ret:1",
        "f=ret:" + "9" * 5000,
    ],
)
def test_bad_stubs_say_what_is_right(spec):
    with pytest.raises(InputError, match=r"SYM=ret:N") as caught:
        parse_stub(spec)
    assert str(caught.value).isprintable()
