# SPDX-License-Identifier: GPL-2.0-only
"""Laws of the workloads' list of calls: complete, unambiguous, and well-formed. What the calls
return is not run here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from workloads.reference import Case, cases

ELF = Path(__file__).parents[2] / "workloads" / "elf"
IMAGES = sorted(path.name for path in ELF.iterdir())
CASES = cases()


def symbols(image: str) -> list:
    with (ELF / image).open("rb") as file:
        table = ELFFile(file).get_section_by_name(".symtab")
        return [symbol for symbol in table.iter_symbols() if symbol.name]


def global_functions(image: str) -> set[str]:
    functions = ("STT_FUNC", "STT_LOOS")  # the latter is STT_GNU_IFUNC
    return {
        s.name
        for s in symbols(image)
        if s["st_info"]["bind"] == "STB_GLOBAL" and s["st_info"]["type"] in functions
    }


def buffer_sizes(case: Case) -> list[int]:
    given = [arg.removeprefix("buf:") for arg in case.args if arg.startswith("buf:")]
    return [int(text) if text.startswith("+") else len(bytes.fromhex(text)) for text in given]


def test_names_are_unique():
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []


def test_two_lists_are_equal():
    assert cases() == CASES


@pytest.mark.parametrize("image", IMAGES)
def test_cases_cover_exactly_the_global_functions(image):
    assert {case.symbol for case in CASES if case.image == image} == global_functions(image)


@pytest.mark.parametrize("image", IMAGES)
def test_image_needs_no_other(image):
    needed = [s.name for s in symbols(image) if s["st_shndx"] == "SHN_UNDEF"]
    # the assembler's mark of a GOT; no relocation uses it
    assert needed == (["_GLOBAL_OFFSET_TABLE_"] if image == "tls.o" else [])


@pytest.mark.parametrize("image", IMAGES)
def test_functions_have_sizes(image):
    assert [
        s.name for s in symbols(image) if s["st_info"]["type"] == "STT_FUNC" and s["st_size"] == 0
    ] == []


def test_every_image_exists():
    assert {case.image for case in CASES} == set(IMAGES)


def test_every_buffer_has_an_expected_content_of_its_size():
    wrong = [
        case.name
        for case in CASES
        if buffer_sizes(case) != [len(content) for content in case.buffers]
    ]
    assert wrong == []


def test_no_buffer_is_empty():
    assert [case.name for case in CASES if 0 in buffer_sizes(case)] == []


def test_arguments_fit_the_registers():
    for case in CASES:
        doubles = [float(arg.removeprefix("f64:")) for arg in case.args if arg.startswith("f64:")]
        integers = [int(arg, 0) for arg in case.args if ":" not in arg]
        assert len(case.args) - len(doubles) <= 6, case.name
        assert len(doubles) <= 8, case.name
        assert all(-(1 << 63) <= value < 1 << 64 for value in integers), case.name


def test_results_are_unsigned_64_bit():
    assert [
        case.name for case in CASES if case.result is not None and not 0 <= case.result < 1 << 64
    ] == []


def test_short_calls_of_real_algorithms_exist():
    assert {"lz.o", "sse2.o", "qsort.o", "interp.so"} <= {
        case.image for case in CASES if case.short
    }


@pytest.mark.parametrize("form", ["short", "near"])
def test_each_conditional_jump_goes_both_ways(form):
    results = Counter(
        (case.symbol, case.result) for case in CASES if case.symbol.startswith(f"shape_jcc_{form}_")
    )
    assert len({symbol for symbol, _ in results}) == 16
    assert {result for _, result in results} == {1, 2}
    assert len(results) == 32
