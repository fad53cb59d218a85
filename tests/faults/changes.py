"""Every change that a caller of the broker can make, on use cases over a real directory."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.support.usecases import APPRAISAL
from tests.support.vectors import input_file
from verdictd_py.broker.administration import COSIGN_KEY
from verdictd_py.daemon.usecases import UseCases
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.protocols.keyprovider.parameter import KbsKey, NewKey, Parameter, parse

ADMIN: Final = Caller("admin", ROLES["admin"])
OLD_KEY, NEW_KEY = SecretBytes(b"o" * 32), SecretBytes(b"n" * 32)
VALUE, OTHER = "ab" * 48, "cd" * 48
POLICY: Final = b"package policy\n\ndefault allow = false\n"

Change = Callable[[UseCases], Awaitable[object]]


async def prepared(cases: UseCases) -> None:
    """Store what the changes below delete, retire or add to."""
    admin = cases.administration
    await admin.keys.register(ADMIN, "old", OLD_KEY)
    await admin.resources.set(ADMIN, "team/secret/old", SecretBytes(b"old"))
    await admin.resources.set(ADMIN, "team/key/1", NEW_KEY)
    await admin.resources.import_certificates(ADMIN, input_file("gpg/ed.gpg").read_bytes())
    await admin.documents.set_policy(ADMIN, "unused.rego", POLICY)
    for name in ("old", "gone"):
        await admin.sets.add(ADMIN, "tdx", name, {"rtmr1": [VALUE]}, "")
    await admin.sets.add(ADMIN, "tdx", "stays", {"rtmr1": [OTHER]}, "")
    await admin.sets.retire(ADMIN, "tdx", "gone")


async def pin(cases: UseCases) -> None:
    """Pin the guest of the history."""
    references = cases.administration.references
    preview = await references.preview_pin(ADMIN, APPRAISAL, ["rtmr2"])
    await references.pin(ADMIN, APPRAISAL, ["rtmr2"], preview.revision)


async def _wrap(cases: UseCases, parameter: Parameter) -> None:
    await cases.wrapper.wrap(ADMIN, parameter, SecretBytes(b"{}"))


def _cosign_key() -> SecretBytes:
    return SecretBytes(input_file("cosign/p256.pub").read_bytes())


def _kbs_key() -> Parameter:
    parameter = parse(b"keyid=kbs:///default/key/new")
    assert isinstance(parameter, KbsKey)
    return parameter


CHANGES: Final[Mapping[str, tuple[str, Change]]] = MappingProxyType(
    {
        "key create": ("key.created", lambda c: c.administration.keys.create(ADMIN, "new")),
        "key register": (
            "key.registered",
            lambda c: c.administration.keys.register(ADMIN, "new", NEW_KEY),
        ),
        "key adopt": (
            "key.registered",
            lambda c: c.administration.keys.adopt(ADMIN, "team/key/1"),
        ),
        "key delete": ("key.deleted", lambda c: c.administration.keys.delete(ADMIN, "old")),
        "wrap with a new key": ("key.created", lambda c: _wrap(c, NewKey())),
        "wrap with a named key": ("key.created", lambda c: _wrap(c, _kbs_key())),
        "resource set": (
            "resource.set",
            lambda c: c.administration.resources.set(ADMIN, "team/secret/new", NEW_KEY),
        ),
        "resource delete": (
            "resource.deleted",
            lambda c: c.administration.resources.delete(ADMIN, "team/secret/old"),
        ),
        "cosign key set": (
            "resource.set",
            lambda c: c.administration.resources.set(ADMIN, COSIGN_KEY, _cosign_key()),
        ),
        "keyring import": (
            "resource.set",
            lambda c: c.administration.resources.import_certificates(
                ADMIN, input_file("gpg/nist.gpg").read_bytes()
            ),
        ),
        "keyring delete": (
            "resource.deleted",
            lambda c: c.administration.resources.delete_certificate(ADMIN, "ed@example.com"),
        ),
        "policy set": (
            "policy.set",
            lambda c: c.administration.documents.set_policy(ADMIN, "tdxPolicy.rego", POLICY),
        ),
        "policy delete": (
            "policy.deleted",
            lambda c: c.administration.documents.delete(ADMIN, "unused.rego"),
        ),
        "reference set": (
            "policy.set",
            lambda c: c.administration.documents.set_reference(ADMIN, "releaseData", b'{"a":1}'),
        ),
        "reference replace": (
            "policy.set",
            lambda c: c.administration.references.replace(ADMIN, "tdx", {"rtmr3": [VALUE]}),
        ),
        "reference pin": ("policy.set", pin),
        "reference add": (
            "reference.added",
            lambda c: c.administration.sets.add(ADMIN, "tdx", "new", {"rtmr1": [VALUE]}, ""),
        ),
        "reference pin --set": (
            "reference.added",
            lambda c: c.administration.sets.pin(ADMIN, APPRAISAL, "new", ["rtmr2"], ""),
        ),
        "reference retire": (
            "reference.retired",
            lambda c: c.administration.sets.retire(ADMIN, "tdx", "old"),
        ),
        "reference delete": (
            "reference.deleted",
            lambda c: c.administration.sets.delete(ADMIN, "tdx", "gone"),
        ),
    }
)
"""Each change with the event that announces it."""


def contents(root: Path) -> dict[str, bytes]:
    """Return every stored file by its path below the data directory, without records about it."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and path.name != ".lock" and not {"audit", "revisions"} & {*path.parts}
    }
