"""This module has the names of numbers in x86-64 ELF files (include/uapi/linux/elf.h; elf.h).

They are those of pyelftools, which a test compares. To import pyelftools takes longer than to read
a file with it.
"""

from __future__ import annotations

from typing import Final

__all__ = ("FILE_TYPES", "PROGRAM_TYPES", "RELOCATION_TYPES", "SECTION_TYPES")

FILE_TYPES: Final = {0: "ET_NONE", 1: "ET_REL", 2: "ET_EXEC", 3: "ET_DYN", 4: "ET_CORE"}
"""The names of e_type."""

SECTION_TYPES: Final = {
    **{
        number: f"SHT_{name}"
        for number, name in enumerate(
            (
                *("NULL", "PROGBITS", "SYMTAB", "STRTAB", "RELA", "HASH", "DYNAMIC", "NOTE"),
                *("NOBITS", "REL", "SHLIB", "DYNSYM"),
            )
        )
    },
    14: "SHT_INIT_ARRAY",
    15: "SHT_FINI_ARRAY",
    16: "SHT_PREINIT_ARRAY",
    17: "SHT_GROUP",
    18: "SHT_SYMTAB_SHNDX",
    19: "SHT_RELR",
    20: "SHT_NUM",
    0x6000_0000: "SHT_LOOS",
    0x6FFF_FFF3: "SHT_SUNW_LDYNSYM",
    0x6FFF_FFF5: "SHT_GNU_ATTRIBUTES",
    0x6FFF_FFF6: "SHT_GNU_HASH",
    0x6FFF_FFF7: "SHT_GNU_LIBLIST",
    0x6FFF_FFFC: "SHT_SUNW_syminfo",
    0x6FFF_FFFD: "SHT_GNU_verdef",
    0x6FFF_FFFE: "SHT_GNU_verneed",
    0x6FFF_FFFF: "SHT_GNU_versym",
    0x7000_0001: "SHT_AMD64_UNWIND",
    0x8000_0000: "SHT_LOUSER",
    0xFFFF_FFFF: "SHT_HIUSER",
}
"""The names of sh_type."""

PROGRAM_TYPES: Final = {
    **{
        number: f"PT_{name}"
        for number, name in enumerate(
            ("NULL", "LOAD", "DYNAMIC", "INTERP", "NOTE", "SHLIB", "PHDR", "TLS")
        )
    },
    0x6000_0000: "PT_LOOS",
    0x6474_E550: "PT_GNU_EH_FRAME",
    0x6474_E551: "PT_GNU_STACK",
    0x6474_E552: "PT_GNU_RELRO",
    0x6474_E553: "PT_GNU_PROPERTY",
    0x6FFF_FFFF: "PT_HIOS",
}
"""The names of p_type."""

RELOCATION_TYPES: Final = {
    **{
        number: f"R_X86_64_{name}"
        for number, name in enumerate(
            (
                *("NONE", "64", "PC32", "GOT32", "PLT32", "COPY", "GLOB_DAT", "JUMP_SLOT"),
                *("RELATIVE", "GOTPCREL", "32", "32S", "16", "PC16", "8", "PC8", "DTPMOD64"),
                *("DTPOFF64", "TPOFF64", "TLSGD", "TLSLD", "DTPOFF32", "GOTTPOFF", "TPOFF32"),
                *("PC64", "GOTOFF64", "GOTPC32", "GOT64", "GOTPCREL64", "GOTPC64", "GOTPLT64"),
                *("PLTOFF64", "SIZE32", "SIZE64", "GOTPC32_TLSDESC", "TLSDESC_CALL", "TLSDESC"),
                *("IRELATIVE", "RELATIVE64"),
            )
        )
    },
    41: "R_X86_64_GOTPCRELX",
    42: "R_X86_64_REX_GOTPCRELX",
    250: "R_X86_64_GNU_VTINHERIT",
    251: "R_X86_64_GNU_VTENTRY",
}
"""The names of relocation types; pyelftools 0.33 has none for 32, 33, 38 and 41."""
