"""CPU time in a unit that does not depend on the machine or on its load."""

from __future__ import annotations

import time
from collections.abc import Callable


def cost(call: Callable[[], object]) -> float:
    """Return the CPU time of a call, as a multiple of the CPU time of a million additions.

    The additions run before and after the call. The slower of both runs is the unit, so that a
    processor that other programs slow down for a while does not count as work of the call.
    """
    before = _cpu_seconds(_million_additions)
    spent = _cpu_seconds(call)
    return spent / max(before, _cpu_seconds(_million_additions))


def _cpu_seconds(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _million_additions() -> None:
    number = 0
    while number < 1_000_000:
        number += 1
