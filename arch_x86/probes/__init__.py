"""Probing x86-64 code: eligibility, copies, slots and detours (pure), and their effects on guest
text.
"""
