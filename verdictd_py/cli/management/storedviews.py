"""Output about what the broker stores (keys, resources, documents), and about its status."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any, Final, Protocol

from verdictd_py.cli.management import data
from verdictd_py.cli.output.layout import Column, Facts, Group, Kind, Table, Text
from verdictd_py.cli.output.result import CommandOutput

_KEYS: Final = (
    "key",
    Column("changed", optional=True),
    Column("bytes", Kind.NUMBER),
    Column("problem", Kind.SENTENCE),
)
_RESOURCES: Final = (
    "resource",
    Column("file", wide=True),
    Column("changed", optional=True),
    Column("bytes", Kind.NUMBER),
    Column("problem", Kind.SENTENCE),
)
_DOCUMENTS: Final = (
    "document",
    "holds",
    "in force",
    Column("for", Kind.SENTENCE),
    Column("bytes", Kind.NUMBER, wide=True),
    Column("SHA-256", wide=True),
)


def content(name: str, value: bytes) -> CommandOutput:
    """Return content that is written byte for byte; as data it is base64."""
    encoded = base64.b64encode(value).decode()
    members = {"name": name, "encoding": "base64", "content": encoded}
    return CommandOutput("content", members, raw=value, names=(name,))


def text(name: str, value: bytes) -> CommandOutput:
    """Return a text that is written byte for byte, and as text in data."""
    members = {"name": name, "encoding": "text", "content": value.decode(errors="replace")}
    return CommandOutput("content", members, raw=value, names=(name,))


def confirmation(sentence: str, name: str = "") -> CommandOutput:
    """Return a sentence that confirms a change.

    Args:
        name: of the object that was changed; empty if it has none.
    """
    members = {"done": True, "name": name or None}
    return CommandOutput("done", members, Text(sentence), names=(name,) if name else ())


class StoredContent(Protocol):
    """Response of a call that stores a content that guests read."""

    @property
    def problems(self) -> Iterable[str]: ...

    @property
    def warnings(self) -> Iterable[str]: ...


def stored_content(
    sentence: str, answer: StoredContent, name: str, *, converted: Iterable[str] = ()
) -> CommandOutput:
    """Return what was stored, and why guests cannot use it, all of them or some.

    Args:
        name: path of the resource.
        converted: differences of the stored content from the file.
    """
    problems, warnings = list(answer.problems), list(answer.warnings)
    lines = (
        sentence,
        *(f"converted: {difference}" for difference in converted),
        *(f"no guest can use it: {problem}" for problem in problems),
        *(f"warning: {warning}" for warning in warnings),
    )
    members = {
        "done": True,
        "name": name,
        "problems": problems,
        "warnings": warnings,
        "converted": list(converted),
    }
    return CommandOutput("stored-content", members, Group(*lines), names=(name,))


def keys(listed: Sequence[Any]) -> CommandOutput:
    """Return a list of keys, without their bytes."""
    return CommandOutput(
        "key-list",
        [data.message(key) for key in listed],
        Table(_KEYS, map(_key, listed)),
        names=tuple(key.name for key in listed),
    )


def key(described: Any, sentence: str = "") -> CommandOutput:  # noqa: ANN401  # made at run time
    """Return one key, without its bytes.

    Args:
        sentence: text for people in place of the table.
    """
    shown = Text(sentence) if sentence else Table(_KEYS, [_key(described)])
    return CommandOutput("key", data.message(described), shown, names=(described.name,))


def _key(described: Any) -> tuple[object, ...]:  # noqa: ANN401  # as above
    return (described.name, described.changed_at, described.size, described.problem)


def key_bytes(name: str, encoded: str) -> CommandOutput:
    """Return the bytes of a key, in base64."""
    return CommandOutput("key-bytes", {"name": name, "key": encoded}, Text(encoded), names=(name,))


def keyring(listing: str, fingerprints: Iterable[str]) -> CommandOutput:
    """Return the list of the certificates in the keyring, as the broker writes it."""
    found = list(fingerprints)
    members = {"keyring": listing, "fingerprints": found}
    return CommandOutput("keyring", members, Text(listing), names=tuple(found))


def resources(listed: Sequence[Any]) -> CommandOutput:
    """Return a list of resources, without their content."""
    rows = [(item.path, item.file, item.changed_at, item.size, item.problem) for item in listed]
    return CommandOutput(
        "resource-list",
        [data.message(item) for item in listed],
        Table(_RESOURCES, rows),
        names=tuple(item.path for item in listed),
    )


def documents(listed: Sequence[Any]) -> CommandOutput:
    """Return a list of documents, with what reads each of them."""
    rows = [
        (
            item.name,
            item.kind or "-",
            "yes" if item.in_force else "no",
            item.problem or item.remark or ", ".join(item.read_by),
            item.size,
            item.sha256 or "-",
        )
        for item in listed
    ]
    return CommandOutput(
        "document-list",
        [data.message(item) for item in listed],
        Table(_DOCUMENTS, rows),
        names=tuple(item.name for item in listed),
    )


def stored_document(document: Any) -> CommandOutput:  # noqa: ANN401  # as above
    """Return whether a document that was stored is in force, and if not, why."""
    sentence = f"{document.name} is in force"
    if not document.in_force:
        sentence = f"{document.name} is stored, and not in force"
    return CommandOutput(
        "stored-document",
        {"done": True, **data.message(document)},
        Text(sentence),
        remarks=(document.remark,) if document.remark else (),
        names=(document.name,),
    )


def open_problems(status: Any) -> tuple[str, ...]:  # noqa: ANN401  # as above
    """Return the problems and open measurements that a broker's status lists, a line each."""
    lines = [
        f"UNPINNED: {tee} guests are accepted with any value of {names}"
        for tee, names in _unpinned(status)
    ]
    lines += [f"PROBLEM: {problem}" for problem in status.problems]
    lines += [f"UNREAD: {name}" for name in status.unread]
    return tuple(lines)


def _unpinned(status: Any) -> list[tuple[str, str]]:  # noqa: ANN401  # as above
    """Return the open measurements of each TEE, separated by commas."""
    by_tee: dict[str, list[str]] = {}
    for unpinned in status.unpinned:
        tee, _, name = unpinned.partition(" ")
        by_tee.setdefault(tee, []).append(name)
    return [(tee, ", ".join(names)) for tee, names in by_tee.items()]


def status(answer: Any) -> CommandOutput:  # noqa: ANN401  # as above
    """Return the status that a daemon reports."""
    verdicts = (
        f"{answer.guests_accepted} accepted, {answer.guests_refused} refused, "
        f"{answer.guests_unverified} not verified"
    )
    facts: list[tuple[str, object]] = [
        ("version", answer.version),
        ("started", answer.started_at),
        ("guests", answer.listen),
        ("client API", answer.client_api),
        ("key provider", answer.keyprovider_api or "on the client API"),
        ("HTTP guests", answer.kbs_http or "not served"),
        ("web console", answer.console or "not served"),
        ("data directory", answer.data_dir),
        ("verifiers", ", ".join(answer.verifiers)),
        ("attester", answer.attester),
        ("appraised", verdicts),
        ("you are", f"{answer.caller} ({', '.join(answer.rights)})"),
    ]
    where = (
        ("store", answer.store),
        ("sealed with", answer.seal and f"a key of the type {answer.seal}"),
        ("sessions", answer.kbs_sessions),
    )
    facts += [(name, value) for name, value in where if value]
    if answer.workers:
        facts.append(("workers", f"{answer.workers_serving} of {answer.workers} serve guests"))
    facts += [("UNPINNED", f"{tee}: {names}") for tee, names in _unpinned(answer)]
    facts += [("PROBLEM", problem) for problem in answer.problems]
    facts += [("UNREAD", name) for name in answer.unread]
    facts += [("UNSAFE", flag) for flag in answer.unsafe]
    facts += [("warning", warning) for warning in answer.warnings]
    return CommandOutput("status", data.message(answer), Facts(facts))
