"""vCPUs as automata: states by number, and a table of the transitions between them.

A search over these numbers (:mod:`engine.patching.automata.numbered`) touches the machine only for
a transition that it has not met before.
"""
