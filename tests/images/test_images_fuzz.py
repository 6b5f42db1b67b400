"""Whatever the bytes, a reader gives an image or an InputError of one line, in little time and
memory.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arch_x86.images import load_code_image, load_elf
from engine.errors import InputError
from engine.image import Image
from tests.images.elf_builder import DATA_PAGE, ELF, FUNC, Dynamic

FILES = {
    path.name: path.read_bytes()
    for path in sorted(ELF.iterdir())
    if path.suffix in (".o", ".so") or path.name == "libmix"
}
SMALL = ["canary.o", "dyn.o", "dyn.so", "libmix"]
INTERESTING = [
    0,
    1,
    7,
    0x7F,
    0xFF,
    0xFFFF,
    0x7FFFFFFF,
    0xFFFFFFFF,
    1 << 32,
    1 << 47,
    1 << 60,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
]


def relr_file() -> bytes:
    d = Dynamic(data=bytes(128), relr=(DATA_PAGE, 0b101))
    d.plt_rela(DATA_PAGE + 64, d.symbol("puts", kind=FUNC))
    d.rela(DATA_PAGE + 72, 6, d.symbol("own", 1, 0x200, 1, FUNC))
    return d.build()


FILES["relr"] = relr_file()


def check(data: bytes, base: int | None = None) -> None:
    outcome = attempt(lambda: load_elf(data, "fuzz", base))
    if isinstance(outcome, Image):
        check_image(outcome)
    else:
        assert outcome.isprintable()
        assert len(outcome) < 1000


def attempt(load: Callable[[], Image]) -> Image | str:
    """The image, or the message of the InputError; anything else fails the test."""
    try:
        return load()
    except InputError as error:
        return str(error)


def check_image(image: Image) -> None:
    """What every consumer may rely on."""
    assert all(s.size > 0 and s.end <= 1 << 64 and len(s.data) <= s.size for s in image.segments)
    assert sum(s.size for s in image.segments) <= 1 << 30
    assert all(not (s.executable and s.writable) for s in image.segments)
    ordered = sorted(image.segments, key=lambda s: s.addr)
    assert all(a.end <= b.addr for a, b in pairwise(ordered))
    assert all(
        image.segment_at(s.addr) is not None and s.name and s.name.isprintable()
        for s in image.symbols
    )
    assert all(image.is_text(f.addr) for f in image.functions)
    assert all(image.segment_at(i.addr) is None and i.addr % 16 == 0 for i in image.imports)
    assert all(w.isprintable() for w in image.warnings)


@pytest.mark.parametrize("name", SMALL)
def test_every_truncation_is_refused_or_loads(name):
    data = FILES[name]
    for size in range(0, len(data), 1 if len(data) < 2000 else 3):
        check(data[:size])


@pytest.mark.parametrize("name", SMALL)
def test_each_truncation_of_a_file_whose_tables_end_it_is_refused(name):
    data = FILES[name]
    shoff, shnum = struct.unpack_from("<Q", data, 40)[0], struct.unpack_from("<H", data, 60)[0]
    assert shoff + 64 * shnum == len(data)
    for size in (1, 63, 64, len(data) // 2, len(data) - 1):
        with pytest.raises(InputError):
            load_elf(data[:size], "fuzz", None)


@settings(max_examples=500)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_flipped_bytes(name, data):
    content = bytearray(FILES[name])
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check(bytes(content))


@settings(max_examples=200)
@given(st.sampled_from(sorted(FILES)), st.data())
def test_header_fields_with_extreme_values(name, data):
    """Aimed at the ELF header, the program headers and the section headers, where the damage is
    done.
    """
    content = bytearray(FILES[name])
    shoff, shnum = (
        struct.unpack_from("<Q", content, 40)[0],
        struct.unpack_from("<H", content, 60)[0],
    )
    tables = [(0, 64 + 56 * 8)] + ([(shoff, 64 * shnum)] if shnum else [])
    for _ in range(data.draw(st.integers(1, 3))):
        start, size = data.draw(st.sampled_from(tables))
        width = data.draw(st.sampled_from([2, 4, 8]))
        at = start + data.draw(st.integers(0, size // width - 1)) * width
        value = data.draw(st.sampled_from(INTERESTING) | st.integers(0, len(content) + 64))
        content[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    check(
        bytes(content),
        data.draw(st.sampled_from([None, 0, 0xFFFFFFFFFFFFF000, 0xFFFFFFFF81000000])),
    )


@settings(max_examples=500)
@given(st.integers(0, 1 << 40).map(lambda n: n % 4096), st.binary(max_size=200))
def test_overwritten_stretches(at, junk):
    content = bytearray(FILES["dyn.so"])
    content[at : at + len(junk)] = junk
    check(bytes(content))


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["c3", "bug", "f", "code-image"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["addr", "hex", "name", "size", "insn", "fixup", "kind", "start", "end"]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)
_KEYS = [
    "version",
    "segments",
    "symbols",
    "exception_table",
    "reserved",
    "blacklist",
    "indirect_thunks",
    "preemption",
    "ibt",
    "red_zone",
]


@settings(max_examples=400)
@given(
    st.dictionaries(st.sampled_from(_KEYS), _JSON, max_size=3),
    st.sets(st.sampled_from(_KEYS), max_size=1),
)
def test_any_json(changes, dropped):
    document = {
        "format": "code-image",
        "version": 1,
        "segments": [{"addr": 0, "hex": "c3"}],
        "symbols": [{"name": "f", "addr": 0, "size": 1}],
    }
    document |= changes
    text = json.dumps({key: value for key, value in document.items() if key not in dropped})
    outcome = attempt(lambda: load_code_image(text, "fuzz"))
    if isinstance(outcome, Image):
        check_image(outcome)
    else:
        assert outcome.isprintable()


@settings(max_examples=300)
@given(st.text())
def test_any_text_is_no_code_image(text):
    with pytest.raises(InputError):
        load_code_image(text, "fuzz")
