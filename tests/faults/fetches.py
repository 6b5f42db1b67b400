"""Faults of the explorer in what vCPUs fetch, in tasks that are suspended, and in code that a patch
protocol, a static key or a static call replaces.
"""

from __future__ import annotations

from typing import Final

from tests.faults.fault import Fault, Kind

__all__ = ("FETCHES",)

_VCPU = "engine/patching/vcpu.py"
_WAITS = "engine/patching/waits.py"
_FETCHES = "engine/patching/fetches.py"
_CONTROL_STATE = "engine/patching/control_state.py"
_SUSPENDED = "engine/patching/suspended_tasks.py"
_BOUNDARIES = "engine/patching/boundaries.py"

FETCHES: Final = (
    Fault(
        "not part of a state: the stores that a vCPU in a call has not seen",
        _VCPU,
        "            nmi,\n            self._held_back(),\n",
        "            nmi,\n",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the stores that a vCPU between calls has not seen",
        _VCPU,
        "asleep, self._held_back(), *left)",
        "asleep, *left)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the way in which a vCPU fetches next",
        _VCPU,
        "return (self.view, self.chosen, self.frozen, self.shut_out)",
        "return (self.view, self.frozen, self.shut_out)",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: how far a patch protocol has come",
        _CONTROL_STATE,
        "            told = (*told, control.text_is.value)\n",
        "            pass\n",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the count of a static key",
        _CONTROL_STATE,
        "switched = (*control.branches.state, *control.static_calls.state)",
        "switched = control.static_calls.state",
        Kind.EXPLORER,
    ),
    Fault(
        "not part of a state: the function that static calls go to",
        _CONTROL_STATE,
        "switched = (*control.branches.state, *control.static_calls.state)",
        "switched = control.branches.state",
        Kind.EXPLORER,
    ),
    Fault(
        "a core sync that is deferrable interrupts CPUs in user mode",
        _WAITS,
        "[one for one in self._vcpus if not self._in_user_mode(one.index)]",
        "self._vcpus",
        Kind.EXPLORER,
    ),
    Fault(
        "a CPU whose other task is in a call counts as in user mode",
        _BOUNDARIES,
        "if vcpu.nmi or any(one.mode is Mode.CALL for one in vcpu.parked):",
        "if vcpu.nmi:",
        Kind.EXPLORER,
    ),
    Fault(
        "a core sync synchronizes nobody",
        _WAITS,
        "            vcpu.synchronize()\n            vcpu.shut_out",
        "            vcpu.shut_out",
        Kind.EXPLORER,
    ),
    Fault(
        "the end of stop_machine synchronizes nobody",
        _FETCHES,
        "            for vcpu in self._now.vcpus:\n                vcpu.synchronize()\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "a serializing instruction synchronizes nobody",
        _FETCHES,
        "        if self._text.is_synchronizing(insn, ip):\n            view = ()\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "the end of an NMI synchronizes nobody",
        "engine/patching/nmis.py",
        "        vcpu.synchronize()  # The NMI's handler has ended in its IRET.\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "suspended tasks go on without a synchronization",
        _SUSPENDED,
        "                    vcpu.synchronize()  # A suspended task goes on through the kernel's"
        " IRET.\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "a preempted task inside the bytes is not moved",
        _SUSPENDED,
        "            vcpu.parked = tuple(self._moved(one, moves) for one in vcpu.parked)\n",
        "",
        Kind.EXPLORER,
    ),
    Fault(
        "a task is suspended wherever it stands",
        _WAITS,
        "            return all(self._freezes(vcpu.index) for vcpu in self._vcpus)\n",
        "            return True\n",
        Kind.EXPLORER,
    ),
    Fault(
        "the allocator's lock is never held",
        _BOUNDARIES,
        "        lock = self._lock\n",
        "        lock = None\n",
        Kind.EXPLORER,
    ),
    Fault(
        "code that is not executable is executed",
        _BOUNDARIES,
        "vcpu.frozen or (vcpu.shut_out and self._faults(vcpu)) or",
        "vcpu.frozen or",
        Kind.EXPLORER,
    ),
    Fault(
        "a call may leave what it leaves with neither code",
        "engine/patching/oracles/call_results.py",
        "if patched is not None and outcome in patched[vcpu.task][vcpu.calls - 1]:",
        "if patched is not None:",
        Kind.EXPLORER,
    ),
    Fault(
        "the old code may be executed when the protocol is done",
        "engine/patching/oracles/patched_text.py",
        "        if now is TextIs.CHANGING:\n",
        "        if True:\n",
        Kind.EXPLORER,
    ),
)
