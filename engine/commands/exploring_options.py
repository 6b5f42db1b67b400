"""The options that ``check``, ``explore`` and ``matrix`` share.

``read_options()`` in engine/patching/request_options.py and ``read_search()`` in
engine/patching/search_options.py read them.
"""

from __future__ import annotations

import argparse
from typing import Any

from engine import defaults
from engine.commands.parser import Once
from engine.commands.shared_options import add_list

__all__ = ("add_experiment", "add_fetch", "add_save", "add_search", "add_strict")


class _Preemptions(Once):
    """An action that keeps the bound and notes that it was given.

    Where it was not given, a scenario's own bound holds.
    """

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        super().__call__(parser, namespace, values, option_string)
        namespace.preemptions_given = True


def add_experiment(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``check`` and ``explore`` have, and that ``matrix`` sets itself."""
    add_save(parser)
    add_list(parser, "--without", metavar="STEP", shown="leave a safety step out")
    parser.add_argument(
        "--protocol",
        metavar="P",
        help=(
            "write text by this patch protocol: a name, or FILE.py[:NAME] (the profile's own"
            " protocol)"
        ),
    )
    parser.add_argument(
        "--points",
        metavar="P",
        default=defaults.POINTS,
        help=(
            "where control tasks stop: locks (text writes and waits, too), or stores as well"
            " (%(default)s)"
        ),
    )
    add_strict(parser)


def add_save(parser: argparse.ArgumentParser) -> None:
    """Add ``--save``, which ``patch`` has, too."""
    parser.add_argument(
        "--save", metavar="DIR", help="write what is found to files that replay takes"
    )


def add_strict(parser: argparse.ArgumentParser) -> None:
    """Add ``--strict``, which ``patch`` has, too."""
    parser.add_argument(
        "--strict",
        action="store_true",
        help="no vCPU may execute an instruction with a store that it has not seen",
    )


def add_fetch(parser: argparse.ArgumentParser, *, default: str | None, shown: str) -> None:
    """Add the option that says what the vCPUs fetch while text is written.

    :param default: the fetch model if none is given; None leaves it to a scenario.
    :param shown: what ``--help`` shows as the default.
    """
    parser.add_argument(
        "--fetch",
        metavar="MODEL",
        default=default,
        help=(
            "which stores to text a vCPU may not have seen: coherent, stale, unit:8, unit:16,"
            f" unit:32, unit:64 or torn ({shown})"
        ),
    )


def add_search(parser: argparse.ArgumentParser, *, preemptions: str) -> None:
    """Add the options that say how to search.

    :param preemptions: what ``--help`` shows as the default of ``--preemptions``.
    """
    _add_strategy(parser, preemptions)
    parser.add_argument(
        "--checkpoint",
        metavar="DIR",
        help="write down what is found there, and go on from it when it was killed",
    )
    parser.add_argument(
        "--no-reduction",
        action="store_true",
        help="choose at every instruction, not only where others could tell",
    )
    parser.add_argument(
        "--no-hashing",
        action="store_true",
        help="go on from states that were met before, too (random and pct always do)",
    )
    parser.add_argument(
        "--recheck",
        action="store_true",
        help="run every schedule twice and compare (else one in 100)",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="make each run of a vCPU on the machine, also one that was made before (slower)",
    )


def _add_strategy(parser: argparse.ArgumentParser, preemptions: str) -> None:
    """Add the strategy, its bounds, and the options that only some strategies have."""
    parser.add_argument(
        "--strategy",
        metavar="S",
        default=defaults.STRATEGY,
        help="exhaustive, random or pct (%(default)s)",
    )
    parser.add_argument(
        "--preemptions",
        metavar="K",
        action=_Preemptions,
        default=str(defaults.PREEMPTIONS),
        help=f"bound on interrupts and switches from a busy vCPU; or none ({preemptions})",
    )
    parser.set_defaults(preemptions_given=False)
    parser.add_argument(
        "--max-schedules",
        metavar="N",
        help="stop after so many schedules (exhaustive: no limit; else 10000)",
    )
    parser.add_argument("--seed", metavar="N", help=f"of random and pct only ({defaults.SEED})")
    parser.add_argument(
        "--depth",
        metavar="D",
        help=f"of pct only: points of change, and one more ({defaults.PCT_DEPTH})",
    )
