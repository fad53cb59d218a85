"""Messages between operator process and workers whose two sides belong together."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final, cast

from verdictd_py.daemon.collateral import CollateralService
from verdictd_py.daemon.workers.channel import Channel, ChannelFailed
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import CollateralUnavailable
from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.collateral.check import Validity
from verdictd_py.tees.intel.collateral.forms import collateral_from_json, collateral_to_json
from verdictd_py.tees.intel.collateral.pcs import Check
from verdictd_py.tees.intel.collateral.port import CollateralRequest

COLLATERAL: Final = "collateral"

FETCH_SECONDS: Final = 300.0
"""Time limit for a fetch of collateral, whose requests have limits of their own."""


async def fetch_collateral(
    channel: Channel, request: CollateralRequest, check: Check
) -> tuple[Collateral, Validity]:
    """Return collateral that the operator process has fetched, for a worker.

    It is verified again, because the worker alone answers for what it accepts.

    Raises:
        CollateralUnavailable: there is none, or the operator process does not answer.
        AttestationError: it does not verify.
    """
    body = cast("JsonValue", asdict(request))
    try:
        answer = await channel.call(COLLATERAL, body, seconds=FETCH_SECONDS)
        collateral = collateral_from_json(cast("str", answer))
    except (ValueError, ChannelFailed) as error:
        raise CollateralUnavailable(str(error)) from error
    return collateral, check(collateral)


async def send_collateral(service: CollateralService, number: int, body: JsonValue) -> JsonValue:
    """Fetch collateral for a worker (a handler of the operator process).

    Raises:
        CollateralUnavailable: there is none.
    """
    del number
    request = CollateralRequest(**cast("dict[str, str]", body))
    return collateral_to_json(await service.valid(request))
