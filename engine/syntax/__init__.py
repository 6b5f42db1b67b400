"""Texts that users write: probes, call arguments, interrupt plans, scripts.

Probes answer to kernel/trace/trace_kprobe.c.
"""
