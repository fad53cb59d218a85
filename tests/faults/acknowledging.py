"""One of several brokers on a directory, which reports each change: before it, and once it is made.

    python -m tests.faults.acknowledging ROOT PREFIX SEED

All names begin with PREFIX, so that each of them has one writer. A line of the output is
`begin KIND NAME STATE`, then `done` or `failed` in the place of `begin`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from tests.faults.changes import ADMIN, POLICY, VALUE, pin
from tests.support.events import RecordedEvents
from tests.support.tees import PROVING
from tests.support.usecases import opened
from tests.support.vectors import input_file
from verdictd_py.daemon.usecases import UseCases
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import Conflict, RequestError
from verdictd_py.events.audit import AuditTrail
from verdictd_py.protocols.keyprovider.parameter import parse
from verdictd_py.storage.layout import prepare

CERTIFICATES = {"a": ("ed", "nist"), "b": ("old", "bp"), "c": ("dsa",), "d": ("rsa",)}
LISTS = {"a": "mrSeam", "b": "mrConfigId", "c": "mrOwner", "d": "mrOwnerConfig"}

Steps = list[tuple[str, str, str, Callable[[], Awaitable[object]]]]


class Broker:
    """Changes of one broker, on names that no other broker uses."""

    def __init__(self, cases: UseCases, prefix: str) -> None:
        self.cases = cases
        self.admin = cases.administration
        self.prefix = prefix

    def once(self) -> Steps:
        """Return the changes of documents that all brokers share."""
        resources = self.admin.resources
        steps: Steps = [
            (
                "certificate",
                name,
                "stored",
                lambda name=name: resources.import_certificates(  # type: ignore[misc]
                    ADMIN, input_file(f"gpg/{name}.gpg").read_bytes()
                ),
            )
            for name in CERTIFICATES[self.prefix]
        ]
        field = LISTS[self.prefix]
        value = self.prefix * 96
        replaced = self.admin.references.replace
        steps.append(("list", field, "stored", lambda: replaced(ADMIN, "tdx", {field: [value]})))
        steps.append(("pin", value, "stored", self._pin))
        return steps

    async def _pin(self) -> None:
        with suppress(RequestError):  # a life before this one has pinned it
            await pin(self.cases)

    def of_name(self, name: str) -> Steps:
        """Return changes of everything that one name can be."""
        keys, resources, sets = self.admin.keys, self.admin.resources, self.admin.sets
        path, content = f"team/{self.prefix}/{name}", SecretBytes(name.encode())
        registered = SecretBytes(name.encode().ljust(32))
        parameter = parse(f"keyid=kbs:///wrap/{self.prefix}/{name}".encode())
        return [
            ("set", name, "in force", lambda: sets.add(ADMIN, "tdx", name, _VALUES, "")),
            ("key", name, "stored", lambda: keys.register(ADMIN, name, registered)),
            ("set", name, "retired", lambda: sets.retire(ADMIN, "tdx", name)),
            ("key", f"{name}-new", "stored", lambda: keys.create(ADMIN, f"{name}-new")),
            ("resource", path, "stored", lambda: resources.set(ADMIN, path, content)),
            ("key", name, "deleted", lambda: keys.delete(ADMIN, name)),
            (
                "wrapping key",
                f"wrap/{self.prefix}/{name}",
                "stored",
                lambda: self.cases.wrapper.wrap(ADMIN, parameter, content),
            ),
            (
                "policy",
                f"{name}.rego",
                "stored",
                lambda: self.admin.documents.set_policy(ADMIN, f"{name}.rego", POLICY),
            ),
            ("resource", path, "deleted", lambda: resources.delete(ADMIN, path)),
        ]


_VALUES = {"rtmr1": [VALUE]}


async def main(root: Path, prefix: str, seed: str) -> None:
    prepare(root, PROVING)
    trail = AuditTrail(root / "audit", RecordedEvents())
    trail.open()
    broker = Broker(opened(root, trail, measured=prefix * 96), prefix)
    names = random.Random(seed)  # noqa: S311  # a test's choice
    for step in broker.once():
        await _run(*step)
    while True:
        for step in broker.of_name(f"{prefix}{names.randrange(10**9)}"):
            await _run(*step)


async def _run(kind: str, name: str, state: str, change: Callable[[], Awaitable[object]]) -> None:
    _report("begin", kind, name, state)
    try:
        await change()
    except Conflict:
        word = "failed"
    else:
        word = "done"
    _report(word, kind, name, state)


def _report(*words: str) -> None:
    sys.stdout.write("\t".join(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), *sys.argv[2:]))
