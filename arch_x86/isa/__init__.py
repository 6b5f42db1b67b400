"""This room decodes, encodes and assembles x86-64 code (arch/x86/lib/insn.c; SDM vol. 2).

Its functions are pure: bytes go in, and answers come out.
"""
