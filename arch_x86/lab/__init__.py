"""This room wires a machine, an image and a kprobes core together; no kernel file answers to it.

The commands ``run``, ``verify``, ``script``, ``inspect`` and ``demo`` are here. So is ``litmus``,
which runs native code on this computer's CPUs and needs no machine.
"""
