"""The kprobes core: table, registration, arming, the optimizer, return probes, profiles. Answers to
kernel/kprobes.c.
"""
