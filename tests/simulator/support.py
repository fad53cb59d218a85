"""A fixed time, and dcap-qvl as an independent verifier of simulated quotes."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import dcap_qvl

from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import collateral_json

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)


Judge = Callable[..., dict[str, Any]]


def judge(
    quote: bytes, collateral: Collateral, root_ca_der: bytes, *, now: datetime = NOW
) -> dict[str, Any]:
    """Return dcap-qvl's claims, or raise its ValueError with the whole chain of causes."""
    seconds = int(now.timestamp())
    theirs = dcap_qvl.QuoteCollateralV3.from_json(collateral_json(collateral))
    dcap_qvl.verify_with_root_ca(quote, theirs, root_ca_der, seconds)
    claims = dcap_qvl.QuoteVerifier(root_ca_der).verify_with_policy(
        quote, theirs, seconds, dcap_qvl.QuotePolicy.claims_only(seconds)
    )
    verified: dict[str, Any] = json.loads(claims.to_json())
    return verified
