"""The names of numbers in ELF files are those of pyelftools."""

from __future__ import annotations

import pytest
from elftools.elf import enums

from arch_x86.images import elf_names


@pytest.mark.parametrize(
    ("ours", "theirs", "more"),
    [
        (elf_names.FILE_TYPES, enums.ENUM_E_TYPE, []),
        (elf_names.SECTION_TYPES, enums.ENUM_SH_TYPE_AMD64, []),
        (elf_names.PROGRAM_TYPES, enums.ENUM_P_TYPE_BASE, []),
        # pyelftools 0.33 has no names for these.
        (elf_names.RELOCATION_TYPES, enums.ENUM_RELOC_TYPE_x64, [32, 33, 38, 41]),
    ],
)
def test_the_names_of_numbers_are_those_of_pyelftools(ours, theirs, more):
    names = {number: name for name, number in theirs.items() if isinstance(number, int)}
    processors = {number for number in names if names[number] in ("ET_LOPROC", "ET_HIPROC")}
    assert {number: name for number, name in ours.items() if number not in more} == {
        number: name for number, name in names.items() if number not in processors
    }
