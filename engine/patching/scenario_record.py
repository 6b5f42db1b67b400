"""Scenarios: named experiments in Python, for ``optprobe explore`` and ``matrix``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar, cast

from engine import defaults
from engine.brief import count, described, shortened
from engine.core.profiles import Profile
from engine.errors import InputError, OptprobeError, printable
from engine.patching.control_code import ControlCode, require_done
from engine.patching.error_in_file import error_in_file, is_of_users_code
from engine.patching.experiment import Experiment
from engine.patching.make_experiment import by_protocol, experiment_of_request, profile_of
from engine.patching.operations import Control
from engine.patching.request import Request
from engine.patching.setup_port import SetupPort
from engine.syntax.arguments import parse_argument

__all__ = ("Scenario", "Setup")

Body = TypeVar("Body", bound=Callable[[Control], None])


class Setup:
    """A scenario's function is given this object, and places its control tasks with it.

    :ivar profile: the profile in which the scenario runs.
    :ivar code: the control tasks so far, by name.
    """

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.code: list[tuple[str, ControlCode]] = []

    def control(self, body: Body) -> Body:
        """Add a control task that has the name of the function ``body``.

        For each control state the scenario's function and then ``body`` run from their
        starts. What the scenario's function keeps is shared by its tasks. Keep nothing
        outside of that function.

        :raises InputError: ``body`` can't be called.
        """
        if not callable(body):
            raise InputError(
                f"setup.control({printable(repr(body))}): a control task is a function of one"
                " argument, k"
            )
        self.code.append((getattr(body, "__name__", "task"), body))
        return body


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario is a named experiment.

    :ivar name: the name of the scenario.
    :ivar doc: the docstring of its function.
    :ivar build: its function, which places the control tasks.
    :ivar request: what the scenario asks the experiment to be.
    :ivar preemptions: the bound that it is meant for.
    :ivar profiles: the names of the profiles in which it makes sense.
    :ivar steps: the safety steps without which it fails.
    :ivar source: the text of its function, for the fingerprint.
    """

    name: str
    doc: str
    build: Callable[[Setup], None]
    request: Request
    preemptions: int = defaults.PREEMPTIONS
    profiles: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    source: str = field(default="", compare=False)

    def __repr__(self) -> str:
        return described(
            self,
            shortened(self.name),
            f"{count(self.request.calls, 'call')} of {shortened(self.request.call)}",
            " ".join(self.profiles),
        )

    def asked(self, changes: Mapping[str, Any]) -> Request:
        """Return the scenario's request, changed by what its user asks.

        :param changes: fields of a request by name; those that are None change nothing.
        :raises InputError: the profile is none of the scenario's.
        """
        request = self.request.changed(changes)
        profile = request.profile
        name = profile.name if isinstance(profile, Profile) else profile
        if name not in self.profiles:
            raise InputError(
                f"--profile {printable(name)}: {self.name} is a scenario of"
                f" {', '.join(self.profiles)}"
            )
        return request

    def experiment(self, request: Request, port: SetupPort) -> Experiment:
        """Make the experiment of the scenario.

        :param request: the scenario's own request, or that with some changes.
        :raises InputError: something in the request is wrong.
        """
        request = by_protocol(request, port)
        profile = profile_of(request)
        image = port.scenario_image(str(request.image))
        port.function(image, request.call)
        return experiment_of_request(
            request,
            port,
            image=image,
            arguments=tuple(parse_argument(text) for text in request.arguments),
            code=partial(self._control_tasks, profile),
            tag=f"{self.name}:{self.source}",
        )

    def _control_tasks(self, profile: Profile) -> Sequence[tuple[str, ControlCode]]:
        """Return the control tasks, which share what the scenario's function keeps."""
        setup = Setup(profile)
        try:
            left = cast("object", self.build(setup))
        except OptprobeError:
            raise
        except BaseException as error:
            if not is_of_users_code(error):
                raise
            raise InputError(error_in_file(error, self.build.__code__.co_filename)) from None
        require_done(f"scenario {self.name}", left)
        return setup.code
