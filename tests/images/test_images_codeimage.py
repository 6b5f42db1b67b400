"""The code-image format: what it holds, and one clear line for each way to get it wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from arch_x86.images import load_code_image
from engine.errors import InputError
from engine.image import ExceptionEntry, Range, Reserved, ReservedKind, Segment, Symbol

K = 0xFFFFFFFFA0002440
# As recorded from a real kernel: stubs in one page, not contiguous, the lists partly about other
# text.
STUBS: dict[str, Any] = {
    "format": "code-image",
    "version": 1,
    "name": "stubs",
    "preemption": False,
    "segments": [
        {"addr": K, "hex": "0f1f440000c366662e0f1f84000000000066662e0f1f8400000000000f1f4000"},
        {"addr": K + 32, "hex": "9090909090904889f8c366662e0f1f84000000000066662e0f1f840000000000"},
        {"addr": K + 4096, "hex": "c3"},
    ],
    "symbols": [
        {"name": "st_nop5", "addr": K, "size": 32},
        {"name": "st_nops", "addr": K + 32, "size": 32},
    ],
    "exception_table": [{"insn": K + 5}, {"insn": K + 6, "fixup": K + 32}],
    "reserved": [{"addr": K + 0x28471, "size": 2, "kind": "jump_label"}],
    "blacklist": [{"addr": K + 0x1000, "size": 4064}, "st_nops"],
}


def load(document: Any):
    return load_code_image(json.dumps(document), "c.json")


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in STUBS.items() if k != key}


def test_a_recorded_image():
    image = load(STUBS)
    assert image.segments[0] == Segment(
        K, bytes.fromhex(STUBS["segments"][0]["hex"]), 32, writable=False, executable=True
    )
    assert len(image.segments) == 3
    assert image.symbols[1] == Symbol("st_nops", K + 32, 32)
    assert image.exception_table == (ExceptionEntry(K + 5), ExceptionEntry(K + 6, K + 32))
    assert image.reserved == (Reserved(K + 0x28471, 2, ReservedKind.JUMP_LABEL),)
    assert image.blacklist == (Range(K + 0x1000, 4064), Range(K + 32, 32))
    assert (image.indirect_thunks, image.preemption, image.red_zone, image.warnings) == (
        None,
        False,
        False,
        (),
    )
    assert image.name == "c.json"


def test_flags_thunks_and_a_symbol_over_segments_that_touch():
    document = {
        **STUBS,
        "preemption": True,
        "ibt": True,
        "red_zone": True,
        "indirect_thunks": {"start": K, "end": K + 64},
    }
    document["symbols"] = [{"name": "st_nops", "addr": K, "size": 64}]
    image = load(document)
    assert (image.preemption, image.ibt, image.red_zone, image.indirect_thunks) == (
        True,
        True,
        True,
        Range(K, 64),
    )


def test_a_short_document_is_enough():
    image = load(
        {
            "format": "code-image",
            "version": 1,
            "segments": [{"addr": 0, "hex": "c3"}],
            "symbols": [],
        }
    )
    assert image.symbols == ()


def test_an_unknown_key_is_warned_of():
    assert load({**STUBS, "symbls": []}).warnings == (
        'key "symbls" is not part of the format: ignored',
    )


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ([], "the document is an array; it must be an object"),
        ({}, 'its "format" must be "code-image"'),
        ({**STUBS, "format": 7}, '"format" is an integer; it must be a string'),
        ({**STUBS, "format": "core"}, '"format" must be "code-image"'),
        (without("version"), '"version" is missing'),
        ({**STUBS, "version": 2}, "version 2; this program reads version 1"),
        ({**STUBS, "version": True}, '"version" is true; it must be an integer'),
        ({**STUBS, "version": 1.0}, '"version" is a number with a fraction'),
        (without("segments"), '"segments" is missing'),
        (without("symbols"), '"symbols" is missing'),
        ({**STUBS, "segments": []}, '"segments" is empty'),
        ({**STUBS, "segments": {}}, '"segments" is an object; it must be an array'),
        ({**STUBS, "segments": [7]}, "segments[0] is an integer; it must be an object"),
        ({**STUBS, "segments": [{"addr": 0}]}, "segments[0].hex is missing"),
        (
            {**STUBS, "segments": [{"addr": 0, "hex": "c"}]},
            "segments[0].hex is not pairs of hexadecimal digits",
        ),
        ({**STUBS, "segments": [{"addr": 0, "hex": "xx"}]}, "not pairs of hexadecimal digits"),
        ({**STUBS, "segments": [{"addr": 0, "hex": ""}]}, "segments[0].hex is empty"),
        ({**STUBS, "segments": [{"addr": -1, "hex": "c3"}]}, "segments[0].addr is beyond 64 bits"),
        (
            {**STUBS, "segments": [{"addr": 1 << 64, "hex": "c3"}]},
            "segments[0].addr is beyond 64 bits",
        ),
        (
            {**STUBS, "segments": [{"addr": 10**400, "hex": "c3"}]},
            "segments[0].addr is beyond 64 bits",
        ),
        (
            {**STUBS, "segments": [{"addr": (1 << 64) - 1, "hex": "c3c3"}]},
            "reach beyond 64-bit addresses",
        ),
        ({**STUBS, "segments": [{"addr": 1 << 50, "hex": "c3"}]}, "not canonical"),
        (
            {**STUBS, "segments": [{"addr": 0, "hex": "c3c3"}, {"addr": 1, "hex": "c3"}]},
            "segments overlap at 0x1",
        ),
        (
            {**STUBS, "symbols": [{"name": "x", "addr": 0, "size": 1}]},
            "symbol x at 0x0 lies outside of the segments",
        ),
        (
            {**STUBS, "symbols": [{"name": "x", "addr": K + 32, "size": 33}]},
            "symbol x: its 0x21 bytes",
        ),
        ({**STUBS, "symbols": [{"name": "", "addr": K, "size": 1}]}, "symbols[0].name is empty"),
        ({**STUBS, "symbols": [{"name": "a\nb", "addr": K, "size": 1}]}, "do not print"),
        (
            {**STUBS, "symbols": [{"name": "x", "addr": str(K), "size": 1}]},
            "symbols[0].addr is a string; it must be an integer",
        ),
        ({**STUBS, "exception_table": [{}]}, "exception_table[0].insn is missing"),
        (
            {**STUBS, "exception_table": [{"insn": 0, "fixup": None}]},
            "exception_table[0].fixup is null",
        ),
        (
            {**STUBS, "reserved": [{"addr": 0, "size": 0, "kind": "bug"}]},
            "reserved[0].size is 0; it must be at least 1",
        ),
        (
            {**STUBS, "reserved": [{"addr": 0, "size": 1, "kind": "x"}]},
            "must be one of jump_label, static_call, ftrace",
        ),
        ({**STUBS, "blacklist": ["nosuch"]}, "blacklist[0] names nosuch, which is not in symbols"),
        ({**STUBS, "blacklist": [None]}, "blacklist[0] is null"),
        ({**STUBS, "blacklist": [{"addr": (1 << 64) - 1, "size": 2}]}, "blacklist[0]: 0x2 bytes"),
        ({**STUBS, "preemption": 1}, '"preemption" is an integer; it must be true or false'),
        ({**STUBS, "red_zone": None}, '"red_zone" is null'),
        ({**STUBS, "indirect_thunks": {"start": 5, "end": 5}}, "indirect_thunks ends at 0x5"),
        ({**STUBS, "indirect_thunks": []}, "indirect_thunks is an array"),
    ],
)
def test_each_error_is_one_line_that_says_where(document, words):
    with pytest.raises(InputError) as caught:
        load(document)
    assert str(caught.value).startswith("c.json: ")
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "{'a':1}",
        "[" * 100_000,
        '{"a":' * 100_000,
        "1" * 5000,
        '{"format":"code-image","version":' + "9" * 5000 + "}",
    ],
)
def test_text_that_is_not_json_is_refused(text):
    with pytest.raises(InputError):
        load_code_image(text, "c.json")
