"""Gauges that the operator process reads from its parts, and the pages of the status listener."""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from json import dumps
from typing import Final

from verdictd_py import __version__
from verdictd_py.daemon.health import Health
from verdictd_py.domain.events import FileChanged
from verdictd_py.listeners.status import Page
from verdictd_py.metrics.reading import Reading
from verdictd_py.ports import Tees

OPA: Final = "opa/"
RELEASE_FILES: Final = ("releasePolicy.rego", "releaseData")

_REVISION_DIGITS: Final = 12
_JSON: Final = "application/json"


@dataclass(slots=True)
class Documents:
    """Revisions of the documents that decide, from the events about their changes."""

    names: frozenset[str]
    revisions: dict[str, tuple[int, float]] = field(default_factory=dict)

    @classmethod
    def of(cls, tees: Tees) -> Documents:
        """Return the documents of the known TEEs, without revisions."""
        documents = (tee.documents for tee in tees)
        pairs = ((each.policy, each.data) for each in documents)
        return cls(frozenset((*RELEASE_FILES, *(str(name) for pair in pairs for name in pair))))

    def note(self, event: FileChanged, at: float) -> None:
        """Note a change; files that are not documents are ignored.

        Args:
            at: Unix time.
        """
        name = event.file.removeprefix(OPA)
        if name in self.names and event.file.startswith(OPA):
            digest = event.sha256 or "0"
            self.revisions[name] = (int(digest[:_REVISION_DIGITS], 16), at)

    def readings(self) -> tuple[Reading, ...]:
        """Return the revisions as gauges."""
        known = tuple(self.revisions.items())
        return (
            Reading(
                "verdictd_document_revision",
                "First 48 bits of the SHA-256 digest of a policy or reference data in force; 0 "
                "if it does not exist. It changes with the content, and is the same on all brokers "
                "with this content.",
                ("document",),
                {(name,): float(revision) for name, (revision, _) in known},
            ),
            Reading(
                "verdictd_document_changed_timestamp_seconds",
                "Time at which this broker first used the revision.",
                ("document",),
                {(name,): at for name, (_, at) in known},
            ),
        )


@dataclass(frozen=True, slots=True)
class Sources:
    """Parts of the operator process that gauges are read from.

    Attributes:
        started_at: start of the broker.
        health: its health.
        connections: numbers of connections by state, of each listener.
        limits: maximum number of connections, of each listener of guests.
        workers: numbers of configured and of running guest workers; both 0 without workers.
        collateral: start and end of the validity of each cached set of collateral.
        certificates: ends of validity, by listener.
        client_ca: end of validity of the first CA of client certificates that expires.
        unsafe: number of unsafe options.
    """

    started_at: datetime
    health: Health
    connections: Callable[[], Mapping[str, Mapping[str, int]]]
    limits: Callable[[], Mapping[str, int]]
    workers: Callable[[], tuple[int, int]]
    collateral: Callable[[], Sequence[tuple[datetime, datetime]]]
    certificates: Callable[[], Mapping[str, datetime]]
    client_ca: Callable[[], datetime | None]
    unsafe: int

    def readings(self) -> tuple[Reading, ...]:
        """Read all gauges, in the event loop of the broker."""
        parts = self.health.parts
        configured, running = self.workers()
        return (
            Reading(
                "verdictd_build_info",
                "Version of verdictd-py and of Python; the value is always 1.",
                ("version", "python"),
                {(__version__, platform.python_version()): 1},
            ),
            Reading(
                "verdictd_start_timestamp_seconds",
                "Time of the start of the broker.",
                (),
                {(): self.started_at.timestamp()},
            ),
            Reading(
                "verdictd_ready",
                "Whether the broker can appraise guests and release secrets (1) or not (0).",
                (),
                {(): float(all(parts.values()))},
            ),
            Reading(
                "verdictd_part_ready",
                "Whether a part of the broker can be used; /readyz has the cause.",
                ("part",),
                {(name,): float(usable) for name, usable in parts.items()},
            ),
            Reading(
                "verdictd_workers",
                "Guest workers; none if one process serves guests and operators.",
                ("state",),
                {("configured",): configured, ("running",): running},
            ),
            Reading(
                "verdictd_connections",
                "Open connections by what they have proven: new, evidence, attested.",
                ("listener", "state"),
                {
                    (listener, state): number
                    for listener, states in self.connections().items()
                    for state, number in states.items()
                },
            ),
            Reading(
                "verdictd_connections_limit",
                "Maximum number of connections.",
                ("listener",),
                {(listener,): limit for listener, limit in self.limits().items()},
            ),
            *self._validity(),
            Reading(
                "verdictd_unsafe_options",
                "Unsafe options that the broker runs with.",
                (),
                {(): self.unsafe},
            ),
        )

    def _validity(self) -> tuple[Reading, ...]:
        collateral = self.collateral()
        ends = [end.timestamp() for _, end in collateral]
        starts = [start.timestamp() for start, _ in collateral]
        return (
            Reading(
                "verdictd_collateral_sets",
                "Platform types with cached collateral.",
                (),
                {(): len(collateral)},
            ),
            Reading(
                "verdictd_collateral_expiry_timestamp_seconds",
                "Time at which the first cached set of collateral expires.",
                (),
                {(): min(ends)} if ends else {},
            ),
            Reading(
                "verdictd_collateral_issue_timestamp_seconds",
                "Time at which the oldest cached set of collateral was issued.",
                (),
                {(): min(starts)} if starts else {},
            ),
            Reading(
                "verdictd_certificate_expiry_timestamp_seconds",
                "Time at which the certificate of a listener expires. The listener of the key "
                "provider and the console have that of the client API.",
                ("listener",),
                {(name,): end.timestamp() for name, end in self.certificates().items()},
            ),
            Reading(
                "verdictd_client_ca_expiry_timestamp_seconds",
                "Time at which the first CA of client certificates expires.",
                (),
                {} if (end := self.client_ca()) is None else {(): end.timestamp()},
            ),
        )


def readiness_page(health: Health) -> Page:
    """Return whether the broker is ready, part by part with the cause; 503 if it is not."""
    parts, problems = health.parts, health.problems
    states = {
        name: {"ready": usable} | ({} if usable else {"reason": problems.get(name) or _cause(name)})
        for name, usable in parts.items()
    }
    ready = bool(parts) and all(parts.values())
    body = dumps({"ready": ready, "parts": states}, indent=1).encode() + b"\n"
    return Page(body, _JSON, 200 if ready else 503)


def liveness_page(late: float, limit: float) -> Page:
    """Return whether the event loop runs; 503 if it does not.

    Args:
        late: seconds since it last ran.
        limit: seconds after which it hangs.
    """
    alive = late < limit
    state: dict[str, object] = {"live": alive}
    if not alive:
        state["reason"] = f"the event loop has not run for {late:.0f} s; restart the broker"
    return Page(dumps(state).encode() + b"\n", _JSON, 200 if alive else 503)


def _cause(part: str) -> str:
    if part == "serving":
        return "the broker is stopping"
    return "not examined yet: the broker is starting"
