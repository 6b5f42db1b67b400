"""The x86-64 arch layer: decode, decide, copy, poke, and the emulated machine.

Imports engine; engine never imports it, but for the command line.
"""
