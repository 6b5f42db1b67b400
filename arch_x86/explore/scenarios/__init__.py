"""The scenarios that come along: a probe's life and what can cross it (:mod:`.life`), and faults
from the kernel's history (:mod:`.history`).
"""
