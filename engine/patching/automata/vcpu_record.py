"""A vCPU at a choice point as an immutable record with a number: a state of the vCPU's automaton.

Two moments of a vCPU are one record if nothing that follows can tell them apart: its registers, the
live part of its stacks, the buffers of its calls, and what the explorer knows of it beside these
(:class:`engine.patching.vcpu.VcpuState`). What the vCPU left below its stack pointer is cleared.
Passes over sites are kept only as far as a verdict on them can still depend on them: once an
operation has concerned a probe, nothing is asked of that probe when the pass ends, so what the pass
has seen of the probe is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import Any, Final

from engine.hit_phases import HitPhase
from engine.patching.expectations import Life, Lives
from engine.patching.parked_task import Mode, ParkedTask
from engine.patching.passes import Pass, Seen
from engine.patching.port import Port
from engine.patching.vcpu import VcpuState
from engine.search.parts import ReplayDivergence

__all__ = ("Records", "VcpuRecord", "settle", "stable_hash")

_COMPARED: Final = 8
"""One state in so many that was met before is compared with the record, byte for byte."""
_POSITION, _PARKED, _NESTED, _ASLEEP = 7, 9, 11, 13
"""Where these are in what :meth:`engine.patching.vcpu.VcpuState.save` returns."""
_CLOSED: Final = (Life.CHANGING, -1)
"""This stands for what held for a probe of which nothing is asked any more."""


class VcpuRecord:
    """A state of one vCPU's automaton, which never changes.

    :ivar number: the count of the records that were made before this one.
    :ivar index: the number of the vCPU.
    :ivar state: what :meth:`engine.patching.vcpu.VcpuState.save` has returned.
    :ivar content: a digest of registers, live stacks and buffers.
    :ivar kept: what the machine needs to go on from here
        (:meth:`engine.patching.port.MemoryPort.keep`), and the content of the buffers.
    :ivar name: a hash of 63 bits, equal for records that a state's hash does not tell apart.
    :ivar facts: the number of all that rules ask about the record (:class:`Records`).
    :ivar ip: the address of the next instruction; 0 outside of a call and an NMI.
    :ivar takes_interrupt: whether the machine would take an interrupt here.
    :ivar takes_nmi: whether the machine would take an NMI here.
    :ivar asleep: a task of the vCPU will never run again.
    :ivar live: the vCPU is in a call or in an NMI.
    :ivar idle: none of the vCPU's tasks is in the middle of a call.
    :ivar busy: the running task is in its call, or in an NMI.
    :ivar parked_busy: a task that does not run is in its call.
    :ivar leaves_status: as in :class:`engine.patching.vcpu.VcpuState`.
    :ivar alone: no step of a control task can change the record, but for what it says of passes
        and for stores that the vCPU has not seen.
    :ivar viewed: there are stores that the vCPU has not seen, or code is hidden from it.
    :ivar stops: ``stop_machine`` can park the vCPU here.
    :ivar rests: the vCPU stands in ``schedule()``, or is not in a call.
    :ivar held_back: the vCPU is suspended, or may wait at hidden code.
    """

    __slots__ = (
        "alone",
        "asleep",
        "busy",
        "content",
        "facts",
        "held_back",
        "idle",
        "index",
        "ip",
        "kept",
        "leaves_status",
        "live",
        "name",
        "number",
        "parked_busy",
        "rests",
        "state",
        "stops",
        "takes_interrupt",
        "takes_nmi",
        "viewed",
    )

    number: int
    index: int
    state: tuple[Any, ...]
    content: bytes
    kept: tuple[Any, tuple[bytes, ...]]
    name: int
    facts: int
    ip: int
    takes_interrupt: bool
    takes_nmi: bool
    live: bool
    idle: bool
    busy: bool
    parked_busy: bool
    asleep: bool
    held_back: bool
    leaves_status: bool
    alone: bool
    viewed: bool
    stops: bool
    rests: bool


def _without_contexts(state: tuple[Any, ...]) -> list[Any]:
    """Return what :meth:`VcpuState.save` has returned, without counts and contexts."""
    told: list[Any] = []
    for at, part in enumerate(state):
        if at in (_POSITION, _NESTED):
            continue
        if at in (_PARKED, _ASLEEP):
            part = [replace(one, context=None) for one in part]
        told.append(part)
    return told


def settle(vcpu: VcpuState, lives: Lives) -> None:
    """Leave out of the passes of ``vcpu`` what no verdict can depend on any more.

    :param lives: what holds for each probe now.
    """
    if vcpu.passing is not None:
        vcpu.passing = _settled(vcpu.passing, lives)
    if vcpu.parked:
        vcpu.parked = tuple(_settled_task(one, lives) for one in vcpu.parked)
    before = vcpu.interrupted
    if before is not None and before.passing is not None:
        vcpu.interrupted = before._replace(passing=_settled(before.passing, lives))


def _settled_task(one: ParkedTask, lives: Lives) -> ParkedTask:
    """Return a task that does not run without what nothing can depend on any more.

    Where a task between two calls would go on does not matter, since its next call sets that.
    """
    if one.mode is not Mode.CALL:
        return replace(one, rip=0, resume=0) if one.rip or one.resume else one
    if one.passing is None:
        return one
    passing = _settled(one.passing, lives)
    return one if passing is one.passing else replace(one, passing=passing)


def _settled(one: Pass, lives: Lives) -> Pass:
    asked = tuple(one.open(lives))
    if len(asked) == len(one.lives):
        return one
    return one._replace(
        lives=tuple(life if n in asked else _CLOSED for n, life in enumerate(one.lives)),
        seen=tuple((seen, n) for seen, n in one.seen if seen is Seen.FOREIGN or n in asked),
    )


class Records:
    """All records of one exploration's vCPUs.

    :param port: the machine.
    :param buffers: of each vCPU, the physical spans of the buffers of its calls.
    :param lock: the addresses at which a task holds the allocator's lock, or None.
    :param user: the addresses at which a vCPU in a call counts as in user mode, or None.
    :param preempt: whether an interrupt may give a vCPU to another task.
    :ivar all: the records by number.
    """

    def __init__(
        self,
        port: Port,
        *,
        buffers: Sequence[Sequence[tuple[int, int]]],
        lock: range | None,
        user: range | None,
        preempt: bool,
    ) -> None:
        self._port = port
        self._buffers = buffers
        self._lock = lock
        self._user = user
        self._preempt = preempt
        self._by: dict[bytes, VcpuRecord] = {}
        self._facts: dict[tuple[Any, ...], int] = {}
        self._idle_left: dict[tuple[Any, ...], int] = {}
        self.all: list[VcpuRecord] = []
        self._met_again = 0

    def present(self, vcpu: VcpuState, lives: Lives) -> VcpuRecord:
        """Return the record of the vCPU as it stands on the machine."""
        settle(vcpu, lives)
        cpu, memory, cpus = vcpu.index, self._port.memory, self._port.cpus
        digest = blake2b(digest_size=16)
        if vcpu.live:
            memory.add_cpu(cpu, digest)
        for one in vcpu.parked:
            memory.add_task(one, digest)
        room = memory.room
        buffers = tuple(room[begin:end] for begin, end in self._buffers[cpu])
        for data in buffers:
            digest.update(data)
        ip = cpus.ip(cpu) if vcpu.live else 0
        digest.update(repr(ip).encode())
        content = digest.digest()
        known = self._by.get(self._identity(vcpu, lives, content))
        if known is not None:
            self._met_again += 1
            if self._met_again % _COMPARED == 0:
                self._require_same(known, vcpu, buffers)
            return known
        record = VcpuRecord()
        record.content = content
        record.ip = ip
        record.takes_interrupt = vcpu.live and cpus.takes_interrupt(cpu)
        record.takes_nmi = vcpu.live and cpus.takes_nmi(cpu)
        record.kept = (memory.keep(cpu, vcpu.parked, live=vcpu.live), buffers)
        return self._add(record, vcpu, lives)

    def _require_same(self, known: VcpuRecord, vcpu: VcpuState, buffers: tuple[bytes, ...]) -> None:
        """Require that the vCPU on the machine is what ``known`` says, byte for byte.

        :raises ReplayDivergence: two states that differ have one name.
        """
        memory = self._port.memory
        kept = memory.keep(vcpu.index, vcpu.parked, live=vcpu.live)
        then, now = _without_contexts(known.state), _without_contexts(vcpu.save())
        if memory.differs(kept, known.kept[0]) or buffers != known.kept[1] or then != now:
            raise ReplayDivergence(
                f"two states of CPU {vcpu.index} that differ have one name, so a search would take"
                " one for the other"
            )

    def changed(self, record: VcpuRecord, vcpu: VcpuState, lives: Lives) -> VcpuRecord:
        """Return the record of a vCPU whose machine part is that of ``record``.

        :param vcpu: the rest, which may have changed.
        """
        settle(vcpu, lives)
        known = self._by.get(self._identity(vcpu, lives, record.content))
        if known is not None:
            return known
        other = VcpuRecord()
        for name in ("content", "ip", "takes_interrupt", "takes_nmi", "kept"):
            setattr(other, name, getattr(record, name))
        return self._add(other, vcpu, lives)

    def put(self, record: VcpuRecord, vcpu: VcpuState, spent: int) -> None:
        """Bring the vCPU, and the machine as far as the vCPU is concerned, to ``record``."""
        kept, buffers = record.kept
        memory = self._port.memory
        memory.put(record.index, kept, spent)
        room = memory.room
        for (begin, end), data in zip(self._buffers[record.index], buffers, strict=True):
            room[begin:end] = data
        vcpu.restore(record.state)

    def _add(self, record: VcpuRecord, vcpu: VcpuState, lives: Lives) -> VcpuRecord:
        key = vcpu.key(lives)
        record.number, record.index = len(self.all), vcpu.index
        record.state = vcpu.save()
        record.live, record.idle = vcpu.live, vcpu.idle
        record.leaves_status = vcpu.leaves_status
        record.busy = vcpu.mode is Mode.CALL or vcpu.nmi
        record.parked_busy = any(one.mode is Mode.CALL for one in vcpu.parked)
        record.asleep = bool(vcpu.asleep)
        record.held_back = vcpu.frozen or vcpu.shut_out
        record.viewed = bool(vcpu.view) or vcpu.shut_out
        passing = vcpu.passing is not None or any(one.passing is not None for one in vcpu.parked)
        buffers = self._port.text.buffers
        inside = record.ip in buffers or any(one.resume in buffers for one in vcpu.parked)
        record.alone = not (
            passing or inside or vcpu.interrupted or vcpu.hit or record.held_back or record.viewed
        )
        takes = not vcpu.nmi and (vcpu.mode is not Mode.CALL or record.takes_interrupt)
        preempted = self._preempt and vcpu.hit is None and takes
        record.stops = not vcpu.nmi and (vcpu.quiescent or preempted)
        record.rests = vcpu.quiet or vcpu.mode is not Mode.CALL
        record.name = stable_hash((record.content, vcpu.index, key))
        record.facts = self._facts.setdefault(self._facts_of(record, vcpu), len(self._facts))
        self._by[self._identity(vcpu, lives, record.content)] = record
        self.all.append(record)
        return record

    def _identity(self, vcpu: VcpuState, lives: Lives, content: bytes) -> bytes:
        """Return a digest of all that decides how the vCPU goes on."""
        before = vcpu.interrupted
        told = (
            vcpu.index,
            content,
            vcpu.key(lives),
            vcpu.task,
            vcpu.mode.value,
            vcpu.calls,
            vcpu.passing,
            vcpu.hit,
            [(one.task, one.mode.value, one.passing, one.quiet, one.resume) for one in vcpu.parked],
            None if before is None else (before.passing, before.hit),
        )
        return blake2b(repr(told).encode(), digest_size=16).digest()

    def _facts_of(self, record: VcpuRecord, vcpu: VcpuState) -> tuple[Any, ...]:
        """Return all that the rules of choices and waits ask about a vCPU."""
        hit, ip = vcpu.hit, record.ip
        outside = self._port.text
        lock, user = self._lock, self._user
        return (
            (vcpu.index, vcpu.mode.value, vcpu.nmi, vcpu.quiet, vcpu.over, vcpu.task),
            (hit is None, hit is not None and hit.phase is HitPhase.POKE),
            (record.takes_interrupt, record.takes_nmi),
            (vcpu.chosen, vcpu.view, ip if vcpu.view or vcpu.shut_out else 0),
            (vcpu.frozen, vcpu.shut_out),
            tuple((one.task, one.mode.value, one.quiet) for one in vcpu.parked),
            tuple((one.task, one.mode.value, one.quiet) for one in vcpu.asleep),
            (vcpu.live and (ip in outside.stubs or ip in outside.buffers)),
            lock is not None
            and (
                (vcpu.mode is Mode.CALL and ip in lock)
                or any(one.mode is Mode.CALL and one.resume in lock for one in vcpu.parked)
            ),
            user is not None and vcpu.mode is Mode.CALL and ip in user,
            vcpu.key(())[0] if vcpu.idle else (),
        )


def stable_hash(told: object) -> int:
    """Return a hash of 63 bits of the text that ``told`` prints as."""
    return int.from_bytes(blake2b(repr(told).encode(), digest_size=8).digest()) >> 1
