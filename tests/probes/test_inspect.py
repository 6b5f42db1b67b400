"""The document of ``optprobe inspect --json``."""

from __future__ import annotations

import io
import json

import pytest

from arch_x86.probes.code import CodeCache
from arch_x86.probes.inspect import (
    BufferAddresses,
    inspect_function,
    inspect_json,
    write_inspect_json,
)
from engine.errors import InputError
from engine.image import Image, Reserved, ReservedKind, Segment, Symbol
from tests.probes.images import BASE, image_of

CODE = bytes.fromhex("55 4889e5 9090 e8fbffffff c3")  # push rbp; mov rbp, rsp; nop; nop; call; ret


def test_the_document() -> None:
    document = inspect_json(image_of(CODE))
    assert document["schema"] == 1
    assert document["image"] == "test"
    (function,) = document["functions"]
    assert (function["symbol"], function["addr"], function["size"]) == ("f", BASE, len(CODE))
    assert [site["offset"] for site in function["sites"]] == list(range(len(CODE)))
    assert function["sites"][0] == {
        "offset": 0,
        "insn": "push rbp",
        "length": 1,
        "probe": 0,
        "probe_reason": None,
        "boostable": True,
        "emulated": None,
        "optimizable": True,
        "reason": None,
        "replaced_length": 5,
        "slot": None,
        "detour": None,
    }
    assert function["sites"][2] == {
        "offset": 2,
        "insn": None,
        "length": None,
        "probe": -84,
        "probe_reason": "not-boundary",
        "boostable": None,
        "emulated": None,
        "optimizable": False,
        "reason": "not-probeable",
        "replaced_length": None,
        "slot": None,
        "detour": None,
    }
    call = function["sites"][6]
    assert (call["emulated"], call["boostable"], call["reason"]) == (
        "call",
        False,
        "first-not-boostable",
    )


def test_buffers_lie_behind_the_image() -> None:
    image = image_of(CODE)
    addresses = BufferAddresses.behind(image)
    site = inspect_json(image, "f", buffers=True)["functions"][0]["sites"][0]
    assert site["slot"]["addr"] == addresses.slot
    assert site["slot"]["hex"].startswith("55e9")
    assert site["detour"]["addr"] == addresses.detour
    start, length = site["detour"]["copied"]
    assert bytes.fromhex(site["detour"]["hex"])[start : start + length] == CODE[:5]
    assert addresses.slot % 0x1000 == 0
    assert 1 << 20 <= addresses.slot - (BASE + len(CODE)) < (1 << 20) + 0x1000


def test_preemption_never_boosts() -> None:
    sites = inspect_json(image_of(CODE, preemption=True))["functions"][0]["sites"]
    assert {site["boostable"] for site in sites} == {False, None}


def test_ftrace_sites_have_no_buffers() -> None:
    image = image_of(
        bytes.fromhex("0f1f440000c3"), reserved=(Reserved(BASE, 5, ReservedKind.FTRACE_SITE),)
    )
    site = inspect_json(image, buffers=True)["functions"][0]["sites"][0]
    assert (site["probe"], site["boostable"], site["reason"], site["slot"], site["detour"]) == (
        0,
        False,
        "ftrace-site",
        None,
        None,
    )


def test_streaming_writes_the_same_document() -> None:
    for symbols in ((Symbol("f", BASE, 4), Symbol("g", BASE + 4, 8)), (Symbol("f", BASE, 4),), ()):
        image = Image(name='a "b"', segments=(Segment(BASE, CODE, len(CODE)),), symbols=symbols)
        out = io.StringIO()
        write_inspect_json(out, image, buffers=True)
        assert json.loads(out.getvalue()) == json.loads(
            json.dumps(inspect_json(image, buffers=True))
        )


def test_unknown_functions_are_the_users_error() -> None:
    image = Image(
        name="test",
        segments=(Segment(BASE, CODE, len(CODE)),),
        symbols=(Symbol("data", BASE, 4, function=False),),
    )
    for name in ("nothing", "data"):
        with pytest.raises(InputError):
            inspect_json(image, name)


def test_functions_that_are_not_there_have_no_sites() -> None:
    image = Image(
        name="test",
        segments=(Segment(BASE, CODE, len(CODE)),),
        symbols=(Symbol("f", BASE + 0x1000, 4),),
    )
    assert inspect_function(CodeCache(image), "f").sites == ()
