"""A port whose vCPUs stand where records say, so that rules can be asked without the machine.

The rules of choices and waits ask a machine where a vCPU stands, and whether it would take an
interrupt or an NMI there. A record has these answers
(:class:`engine.patching.automata.vcpu_record.VcpuRecord`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.patching.automata.vcpu_record import VcpuRecord
from engine.patching.port import Port

__all__ = ("RecordedPort",)


class _RecordedCpus:
    """The vCPUs of a :class:`RecordedPort`; they answer questions, and never run.

    :ivar records: where each vCPU stands.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.records: Sequence[VcpuRecord] = ()

    def ip(self, cpu: int) -> int:
        """Return the address of the vCPU's next instruction."""
        return self.records[cpu].ip

    def takes_interrupt(self, cpu: int) -> bool:
        """Return whether the vCPU takes an interrupt at the present instruction boundary."""
        return self.records[cpu].takes_interrupt

    def takes_nmi(self, cpu: int) -> bool:
        """Return whether the vCPU takes an NMI that comes at the present instruction boundary."""
        return self.records[cpu].takes_nmi


class RecordedPort:
    """A :class:`engine.patching.port.Port` of which only questions may be asked.

    :param port: the machine, whose text this port shares.
    """

    def __init__(self, port: Port) -> None:
        self.cpus: Any = _RecordedCpus(port.cpus.number)
        self.hits = port.hits
        self.text = port.text
        self.memory = port.memory
        self.unprobed = port.unprobed
        self.own_code = port.own_code

    def close(self) -> None:
        """Do nothing: the machine is released by whoever has it."""
