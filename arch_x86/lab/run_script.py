"""This module is ``optprobe script``: operations on one machine, and its state after each.

The keys are those in which a real kernel's answers were recorded. They show state of
kernel/kprobes.c.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from arch_x86.emu.uc import UcPool
from arch_x86.isa.constants import ADDRESS_MASK
from arch_x86.lab.bench import Workbench
from arch_x86.lab.run import ExecOptions
from engine.core.debugfs import listed_probes, status_words
from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization
from engine.errors import InputError, KprobeError, printable
from engine.image import Image
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag
from engine.syntax.kprobe_events import several_functions
from engine.syntax.script import Operation

__all__ = ("run_script",)

_TEXT_SIZE: Final = 8
_ARGUMENT: Final = 1


class _Probe:
    """This class is a probe object of the script, with what its handlers have counted."""

    def __init__(self, bench: Workbench, address: int) -> None:
        self.kprobe = Kprobe(pre_handler=self._pre)
        self.address = address
        self.hits = self.posts = self.last_ip = 0
        self.calls: int | None = None
        self.new_ip: int | None = None
        self._bench = bench

    def _pre(self, _p: Kprobe, regs: Any) -> int:
        self.hits += 1
        self.last_ip = regs.ip
        if self.calls is not None:
            self._bench.call_nested(0, self.calls, _ARGUMENT)
        if self.new_ip is not None:
            regs.ip = self.new_ip
            return 1
        return 0

    def count_posts(self) -> None:
        """Give the probe a post_handler that counts."""
        self.kprobe.post_handler = self._post

    def _post(self, _p: Kprobe, _regs: Any, _flags: int) -> None:
        self.posts += 1


class _Script:
    """This class runs operations on one workbench.

    Each verb has a method that returns the keys of its line.
    """

    def __init__(self, bench: Workbench, max_instructions: int, shows_text: bool) -> None:
        self._bench = bench
        self._shows_text = shows_text
        self._kprobes = bench.kprobes
        self._kallsyms = bench.machine.kallsyms
        self._probes: dict[str, _Probe] = {}
        bench.limit = max_instructions
        self._verbs: dict[str, Callable[[Operation], dict[str, object]]] = {
            "reg": self._reg,
            "rereg": self._rereg,
            "unreg": self._unreg,
            "dis": lambda op: self._change(op, self._kprobes.disable_kprobe),
            "en": lambda op: self._change(op, self._kprobes.enable_kprobe),
            "cnt": self._cnt,
            "callfn": self._callfn,
            "chip": self._chip,
            "st": lambda op: self._state(self._address(op)),
            "call": self._call,
            "wait": self._wait,
            "sleep": self._sleep,
            "sysctl": self._switch,
            "debugfs": self._switch,
        }

    def run(self, operation: Operation) -> dict[str, object]:
        """Run one operation, and return its line: its keys, and the list of all probes.

        :raises InputError: the operation names a probe or a function that is not there.
        """
        try:
            answer = {"op": operation.text} | self._verbs[operation.verb](operation)
        except InputError as error:
            raise InputError(f"{operation.where}: '{printable(operation.text)}': {error}") from None
        answer["list"] = [
            [self._kallsyms.describe(p.at), status_words(p, entry)]
            for p, entry in listed_probes(self._kprobes)
        ]
        return answer

    # Look-ups -------------------------------------------------------------------------------------

    def _address(self, operation: Operation) -> int | None:
        """Return the address of the operation's place, or None for a symbol that the image lacks.

        :raises InputError: several functions have that name, and the kernel is not asked to choose
            one by the word ``sym``.
        """
        place = operation.place
        assert place is not None
        if place.address is not None:
            return place.address + place.offset & ADDRESS_MASK
        assert place.symbol is not None
        several = several_functions(self._bench.image, place.symbol, place.offset)
        if several and operation.words.isdisjoint(("sym", "both")):
            raise InputError(several)
        symbol = self._bench.image.by_name.get(place.symbol)
        return None if symbol is None else symbol.addr + place.offset & ADDRESS_MASK

    def _probe(self, operation: Operation) -> _Probe:
        assert operation.probe is not None
        found = self._probes.get(operation.probe)
        if found is None:
            raise InputError(f"there is no probe '{printable(operation.probe)}'; register it first")
        return found

    def _state(self, addr: int | None) -> dict[str, object]:
        """Return the keys for the text at ``addr``, and for what stands in the table there."""
        data = None if addr is None else self._bench.machine.read(addr, _TEXT_SIZE)
        state: dict[str, object] = {"text": (data or bytes(_TEXT_SIZE)).hex()}
        entry = None if addr is None else self._kprobes.get_kprobe(addr)
        if isinstance(entry, AggrKprobe):
            state |= {
                "hash": "aggr",
                "kflags": entry.flags.value,
                "children": len(entry.children),
                "post": int(entry.post_handler is not None),
                "optsize": entry.optinsn.size if entry.optready else 0,
                "queue": entry.queue.value,
            }
        elif entry is not None:
            state |= {"hash": "single", "kflags": entry.flags.value}
        return state

    # Probes ---------------------------------------------------------------------------------------

    def _changed(
        self, probe: _Probe, change: Callable[[], object], *, addr_null: bool = False
    ) -> dict[str, object]:
        """Make a change, and return its keys: return code, core syncs, and the state behind it.

        :param change: changes ``probe``; its error becomes the negative number that the kernel
            would return.
        :param addr_null: add the key that says whether the probe's address is cleared.
        """
        syncs, code = self._bench.plane.stats.syncs, 0
        try:
            change()
        except KprobeError as error:
            code = -error.errno
        answer: dict[str, object] = {
            "rc": code,
            "syncs": self._bench.plane.stats.syncs - syncs,
            "pflags": probe.kprobe.flags.value,
        }
        if addr_null:
            answer["addr_null"] = int(not probe.kprobe.addr)
        # A probe that came with a symbol and an offset has its address now.
        probe.address = probe.kprobe.addr or probe.address
        return answer | self._state(probe.address)

    def _reg(self, operation: Operation) -> dict[str, object]:
        place = operation.place
        assert place is not None
        assert operation.probe is not None
        old = self._probes.get(operation.probe)
        if old is not None and self._kprobes.is_registered(old.kprobe):
            raise InputError(
                f"probe '{printable(operation.probe)}' is registered; unregister it first, or write"
                " rereg"
            )
        address = self._address(operation)
        probe = self._probes[operation.probe] = _Probe(self._bench, address or 0)
        kprobe = probe.kprobe
        if "sym" in operation.words or "both" in operation.words:
            kprobe.symbol_name, kprobe.offset = place.symbol, place.offset
        if "sym" not in operation.words:
            kprobe.addr = address
        if "post" in operation.words:
            probe.count_posts()
        if "disabled" in operation.words:
            kprobe.flags = KprobeFlag.DISABLED
        if address is None and "sym" not in operation.words:
            code = errno.ENOENT if self._kprobes.profile.lookup_is_enoent else errno.EINVAL
            return {
                "rc": -code,
                "syncs": 0,
                "pflags": 0,
                "reason": f"the image has no {place.symbol}",
            } | self._state(None)
        return self._changed(probe, lambda: self._kprobes.register_kprobe(kprobe))

    def _rereg(self, operation: Operation) -> dict[str, object]:
        probe = self._probe(operation)
        return self._changed(probe, lambda: self._kprobes.register_kprobe(probe.kprobe))

    def _unreg(self, operation: Operation) -> dict[str, object]:
        probe = self._probe(operation)
        return self._changed(
            probe, lambda: self._kprobes.unregister_kprobe(probe.kprobe), addr_null=True
        )

    def _change(self, operation: Operation, change: Callable[[Kprobe], None]) -> dict[str, object]:
        probe = self._probe(operation)
        return self._changed(probe, lambda: change(probe.kprobe))

    def _cnt(self, operation: Operation) -> dict[str, object]:
        probe = self._probe(operation)
        found = self._kallsyms.lookup(probe.last_ip)
        last = (
            f"{found[0].name}+{found[1]:#x}/{found[0].size:#x}" if found else f"{probe.last_ip:#x}"
        )
        counts: dict[str, object] = {
            "hits": probe.hits,
            "posts": probe.posts,
            "rhits": 0,
            "nmissed": probe.kprobe.nmissed,
            "rpnmissed": 0,
        }
        return counts | {"lastip": last}

    def _callfn(self, operation: Operation) -> dict[str, object]:
        self._probe(operation).calls = self._function(operation)
        return {}

    def _chip(self, operation: Operation) -> dict[str, object]:
        address = self._address(operation)
        if address is None:
            raise InputError("the image has no such symbol")
        self._probe(operation).new_ip = address
        return {}

    # The rest -------------------------------------------------------------------------------------

    def _function(self, operation: Operation) -> int:
        assert operation.symbol is not None
        several = several_functions(self._bench.image, operation.symbol)
        if several:
            raise InputError(several)
        symbol = self._kallsyms.function(operation.symbol)
        if symbol is None:
            raise InputError(
                f"no function '{printable(operation.symbol)}'; there is"
                f" {self._kallsyms.suggest(operation.symbol)}"
            )
        return symbol.addr

    def _call(self, operation: Operation) -> dict[str, object]:
        addr, bench = self._function(operation), self._bench
        answer: dict[str, object] = {}
        for _ in range(operation.number):
            bench.start_call(0, addr, (_ARGUMENT,))
            faults = bench.finish_calls()
            if faults:
                return {"fault": faults[0].to_json()}
            answer["ret"] = f"{bench.machine.cpus[0].registers()[0]:x}"
        bench.plane.sleep(0)  # This runs the delayed work that has become due during the calls.
        return answer

    def _wait(self, _operation: Operation) -> dict[str, object]:
        syncs = self._bench.plane.stats.syncs
        self._kprobes.wait_for_kprobe_optimizer()
        answer: dict[str, object] = {"syncs": self._bench.plane.stats.syncs - syncs}
        if self._shows_text:
            places = dict.fromkeys(p.at for p, _ in listed_probes(self._kprobes))
            answer |= {
                self._kallsyms.describe(at): (self._bench.machine.read(at, _TEXT_SIZE) or b"").hex()
                for at in places
            }
        return answer

    def _sleep(self, operation: Operation) -> dict[str, object]:
        self._bench.plane.sleep(operation.number)
        return {}

    def _switch(self, operation: Operation) -> dict[str, object]:
        change = set_kprobes_optimization if operation.verb == "sysctl" else set_kprobes_enabled
        change(self._kprobes, on=bool(operation.number))
        return {}


def run_script(
    image: Image,
    operations: Sequence[Operation],
    options: ExecOptions,
    *,
    pool: UcPool | None = None,
    shows_text: bool = False,
) -> Iterator[dict[str, object]]:
    """Run ``operations`` on a fresh machine, and yield the line of each.

    A line has ``op``, the keys of its verb, and ``list``.

    :param shows_text: add to the line of each ``wait`` the text at each registered probe, by place,
        for a person.
    :raises InputError: an operation names a probe or a function that is not there.
    """
    bench = Workbench(
        image, cpus=options.cpus, config=options.machine, pool=pool, profile=options.profile
    )
    try:
        script = _Script(bench, options.max_instructions, shows_text)
        for operation in operations:
            yield script.run(operation)
    finally:
        bench.close()
