"""The only writer of guest code: text versions, the text space, and the poke protocols
(arch/x86/kernel/alternative.c).
"""
