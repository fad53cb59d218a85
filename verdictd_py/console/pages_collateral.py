"""The page of collateral: bars of validity by platform."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from verdictd_py.console.requests import Visit
from verdictd_py.console.site import Answer, Site
from verdictd_py.console.views.collateral import validity


async def collateral_page(site: Site, visit: Visit) -> Answer:
    """From when, until when."""
    frame = await site.frame(visit)
    parts = await site.sources.collateral(visit.caller)
    view = validity(
        [(part.platform, part.part, part.since, part.until, part.number) for part in parts],
        datetime.now(UTC),
        site.sources.grace_days,
    )
    values: dict[str, Any] = {"view": view, "grace_days": site.sources.grace_days}
    return await site.page(visit, frame, "collateral.html", values)
