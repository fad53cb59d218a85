"""Bounds that every guest-facing listener shares."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of each guest-facing listener (wire-rats-tls.md, "Session"). Times are in seconds."""

    handshake: float = 10
    appraisal: float = 30
    request: float = 30
    idle: float = 300
    connections: int = 4096
    evidence_age: timedelta | None = None
