"""The scenarios of what else meets under load, in one list: two control tasks at one address or on
neighbours, several probes and return probes on one function, hits within hits, the global switches
against single operations, and code that goes away while a probe of it waits on a list.

Each of :data:`LOAD` is small, and sound in the profiles that it names, with one preemption, switch
or interrupt that costs something, unless it says otherwise itself.
"""

from __future__ import annotations

from arch_x86.explore.scenario import Scenario
from arch_x86.explore.scenarios.code_goes_away import (
    module_back_with_a_new_probe,
    module_going_while_listed,
)
from arch_x86.explore.scenarios.neighbours import (
    forced_back_and_gone,
    forced_back_while_it_waits,
    neighbour_at_first_byte,
    neighbour_at_last_byte,
    two_jumps_backwards,
)
from arch_x86.explore.scenarios.nested_hits import (
    direction,
    nmi_boosted,
    nmi_post_handler,
)
from arch_x86.explore.scenarios.one_address import (
    disabled_children,
    joins_disabled,
    registered_disabled,
    taken_over,
    taken_over_disabled,
    two_post_handlers,
)
from arch_x86.explore.scenarios.probed_returns import (
    return_and_entry,
    return_of_a_preempted_task,
    return_of_recursion,
    two_return_probes,
)
from arch_x86.explore.scenarios.switched_off import (
    enabled_while_disarmed,
    registered_while_disarmed,
    registered_while_unoptimized,
    switch_of_two,
)
from arch_x86.explore.scenarios.two_tasks import (
    enable_and_join,
    neighbours,
    optimization_against_register,
)

__all__ = ("LOAD",)


LOAD: tuple[Scenario, ...] = (
    enable_and_join,
    neighbours,
    optimization_against_register,
    disabled_children,
    joins_disabled,
    registered_disabled,
    two_post_handlers,
    taken_over,
    taken_over_disabled,
    registered_while_disarmed,
    enabled_while_disarmed,
    switch_of_two,
    registered_while_unoptimized,
    neighbour_at_first_byte,
    neighbour_at_last_byte,
    forced_back_while_it_waits,
    forced_back_and_gone,
    two_jumps_backwards,
    two_return_probes,
    return_of_recursion,
    return_and_entry,
    return_of_a_preempted_task,
    direction,
    nmi_boosted,
    nmi_post_handler,
    module_going_while_listed,
    module_back_with_a_new_probe,
)
