"""Release policies that replace each other, and which of them decided about a request.

The policy of each number allows one resource of `RESOURCES` only. Two witnesses tell how long an
old policy decided after its successor was acknowledged: the guests, by the resource that they get,
and the audit trails, by the digest in each decision.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

RELEASE_POLICY: Final = "releasePolicy.rego"
RESOURCES: Final = tuple(f"r{number}" for number in range(16))
"""Names of the resources. A policy and the fifteen after it allow different ones."""

_DECISIONS: Final = {"secret.released": True, "release.refused": False}
_AT: Final = "default/brokers"


def path_of(resource: str) -> str:
    """Return the path of a resource, as guests request it."""
    return f"{_AT}/{resource}"


def content_of(resource: str) -> bytes:
    """Return the secret that is stored in a resource."""
    return f"the secret of {resource} guests".encode()


def resource_of(number: int) -> str:
    """Return the resource that the policy of a number allows."""
    return RESOURCES[number % len(RESOURCES)]


def policy(number: int) -> bytes:
    """Return the release policy of a number, which allows one resource."""
    return (
        f"# number {number}\npackage policy\n\nimport rego.v1\n\ndefault allow := false\n\n"
        f'allow if input.resource.path == "{path_of(resource_of(number))}"\n'
    ).encode()


def digest_of(number: int) -> str:
    """Return the digest of the policy of a number, as decisions name it."""
    return hashlib.sha256(policy(number)).hexdigest()


@dataclass
class Policies:
    """The policies that were sent, in the order of their numbers; times are monotonic.

    Attributes:
        changes: time at which the policy of each number was sent first, and at which it was
            acknowledged (infinite if it never was).
        before: digest of the policy that was in force before; it allows everything, and its number
            is -1.
    """

    changes: list[tuple[float, float]] = field(default_factory=list)
    before: str = ""

    @property
    def newest(self) -> int:
        """Number of the last policy that was acknowledged; 0 before the first one."""
        last = len(self.changes) - 1
        return max(0, last if last >= 0 and self.changes[last][1] < math.inf else last - 1)

    def begin(self) -> None:
        """Note that the next policy is sent."""
        self.changes.append((time.monotonic(), math.inf))

    def acknowledge(self) -> None:
        """Note that the last policy was acknowledged."""
        self.changes[-1] = (self.changes[-1][0], time.monotonic())

    def stale_seconds(self, number: int, begin: float, end: float) -> float:
        """Return how long before `begin` the successor of a policy was acknowledged.

        It is 0 if the policy may have been in force between `begin` and `end`, and infinite if it
        had not been sent by then.
        """
        if number >= len(self.changes) or (number >= 0 and self.changes[number][0] > end):
            return math.inf
        if number + 1 == len(self.changes):
            return 0.0
        return max(0.0, begin - self.changes[number + 1][1])

    def stale_release(self, resource: str, begin: float, end: float) -> float:
        """Return the least `stale_seconds` of the policies that allow a resource."""
        allowing = range(RESOURCES.index(resource), len(self.changes), len(RESOURCES))
        return min(self.stale_seconds(number, begin, end) for number in (-1, *allowing))


@dataclass(frozen=True)
class Decisions:
    """What the audit trails say about the release of the resources.

    Attributes:
        releases: number of released secrets.
        refusals: number of recorded refusals.
        late: seconds for which an old policy decided after its successor was acknowledged, for
            each such decision.
        wrong: a line for each decision that no policy explains.
    """

    releases: int
    refusals: int
    late: list[float]
    wrong: list[str]

    @property
    def longest(self) -> float:
        """The longest time for which an old policy decided."""
        return max(self.late, default=0.0)


def decisions(trails: Iterable[Path], policies: Policies) -> Decisions:
    """Read the decisions about the resources in the audit trails of some data directories."""
    offset = time.time() - time.monotonic()
    numbers = {digest_of(number): number for number in range(len(policies.changes))}
    numbers[policies.before] = -1
    counts, late, wrong = {True: 0, False: 0}, [], []
    for record in _records(trails):
        fields, released = record["fields"], _DECISIONS[record["event"]]
        counts[released] += 1
        at = datetime.fromisoformat(record["time"]).timestamp() - offset
        resource, number = fields["path"].rpartition("/")[2], numbers.get(fields["policy"])
        if number is None or released != (number < 0 or resource_of(number) == resource):
            wrong.append(f"{record['event']} of {resource} under the policy {number}")
            continue
        seconds = policies.stale_seconds(number, at, at)
        if seconds:
            late.append(seconds)
    return Decisions(counts[True], counts[False], late, wrong)


def _records(trails: Iterable[Path]) -> Iterable[dict[str, Any]]:
    for trail in trails:
        for file in sorted((trail / "audit").glob("*.jsonl")):
            for line in file.read_bytes().splitlines():
                record = _whole(line)
                if record.get("event") in _DECISIONS and _AT in record["fields"]["path"]:
                    yield record


def _whole(line: bytes) -> dict[str, Any]:
    """Return a record; nothing of one that a kill has cut off, which `audit verify` judges."""
    try:
        record: dict[str, Any] = json.loads(line)
    except ValueError:
        return {}
    return record
