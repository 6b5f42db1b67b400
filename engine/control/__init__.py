"""Where control tasks run. Answers to kernel/locking, kernel/workqueue.c and kernel/stop_machine.c.

There are mutexes, delayed work, grace periods and ``stop_machine``; and a plane on which every step
of a control task is chosen from outside, for explorations.
"""
