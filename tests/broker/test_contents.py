"""Contents that guests read, checked with what is stored."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.stores import resource_store
from tests.support.tees import PROVING
from tests.support.vectors import from_guide, input_file
from verdictd_py.broker.contents import MAX_CHECKED, StoredContents
from verdictd_py.domain.names import LEGACY_RESOURCES, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.ports import ResourceStore
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.memory import MemoryResourceStore

POLICY = ResourcePath.parse("team/security-policy/a")
COSIGN = ResourcePath.parse("team/cosign-public-key/a")
CREDENTIAL = LEGACY_RESOURCES["Credential"]
P256 = input_file("cosign/p256.pub").read_bytes()
P384 = input_file("cosign/secp384r1.pub").read_bytes()
KEYRING = input_file("gpg/ed.gpg").read_bytes()
GOOD = input_file("auth/good.json").read_bytes()


def policy(resource: ResourcePath, kind: str = "sigstoreSigned") -> bytes:
    requirement: dict[str, Any] = {"type": kind, "keyPath": f"kbs:///{resource}"}
    if kind == "signedBy":
        requirement["keyType"] = "GPGKeys"
    scopes = {"registry.example.com": [requirement]}
    return json.dumps({"default": [{"type": "reject"}], "transports": {"docker": scopes}}).encode()


@pytest.fixture
def resources() -> ResourceStore:
    return MemoryResourceStore()


async def put(resources: ResourceStore, path: ResourcePath, content: bytes) -> None:
    await resources.put(path, SecretBytes(content))


async def test_a_key_path_that_leads_to_a_key_has_no_findings(resources: ResourceStore) -> None:
    contents = StoredContents(resources)
    for kind, content in (("sigstoreSigned", P256), ("signedBy", KEYRING)):
        await put(resources, ResourcePath.parse("a/b/c"), content)
        found = await contents.check(POLICY, policy(ResourcePath.parse("a/b/c"), kind))
        assert (found.problems, found.warnings) == ((), ())


async def test_a_key_path_that_leads_to_nothing_is_a_warning(resources: ResourceStore) -> None:
    """policy-kbs-keypath-wrong.json; the key may be stored afterwards."""
    content = input_file("policy-kbs-keypath-wrong.json").read_bytes()
    found = await StoredContents(resources).check(POLICY, content)
    assert found.problems == ()
    (warning,) = found.warnings
    assert warning.startswith("transports.'docker'.'ghcr.io/acme'[0].keyPath: ")
    assert "no-such-key is not stored here, so every image of the scope is refused" in warning


@pytest.mark.parametrize(
    ("kind", "content"),
    [("sigstoreSigned", GOOD), ("sigstoreSigned", KEYRING), ("signedBy", P256)],
)
async def test_a_key_path_that_leads_to_something_else_is_refused(
    resources: ResourceStore, kind: str, content: bytes
) -> None:
    await put(resources, ResourcePath.parse("a/b/c"), content)
    found = await StoredContents(resources).check(POLICY, policy(ResourcePath.parse("a/b/c"), kind))
    assert "[0].keyPath: a/b/c is not a key that guests can use: " in found.problems[0]
    assert found.usable == frozenset()


async def test_a_key_for_some_guests_is_a_warning_about_the_policy(
    resources: ResourceStore,
) -> None:
    await put(resources, COSIGN, P384)
    found = await StoredContents(resources).check(POLICY, policy(COSIGN))
    assert found.problems == ()
    assert "P-384 from guest-components v0.19 on" in found.warnings[0]


async def test_stored_contents_are_reported_with_their_file(resources: ResourceStore) -> None:
    contents = StoredContents(resources)
    await put(resources, CREDENTIAL, b"{}")
    await put(resources, COSIGN, P384)
    await put(resources, ResourcePath.parse("team/secret/a"), b"{}")
    remarks = await contents.remarks()
    assert set(remarks) == {str(CREDENTIAL), str(COSIGN)}
    assert remarks[str(CREDENTIAL)].startswith("image/auth.json: no guest can use it: auths is")
    assert remarks[str(COSIGN)].startswith(f"resources/{COSIGN}: note: guests verify")
    await put(resources, CREDENTIAL, GOOD)
    assert set(await contents.remarks()) == {str(COSIGN)}


async def test_a_deleted_key_is_reported_for_the_policy_that_names_it(
    resources: ResourceStore,
) -> None:
    contents = StoredContents(resources)
    await put(resources, COSIGN, P256)
    await put(resources, POLICY, policy(COSIGN))
    assert await contents.remarks() == {}
    await resources.delete(COSIGN)
    assert f"{COSIGN} is not stored here" in (await contents.remarks())[str(POLICY)]


async def test_files_edited_by_hand_are_reported(tmp_path: Path) -> None:
    """The guide's own policy, the files of the original, and a private key."""
    data = tmp_path / "data"
    directory, _ = prepare(data, PROVING)
    contents = StoredContents(resource_store(directory))
    assert await contents.remarks() == {}
    guide = from_guide(r"(?s)policy\.json\n(\{.*?\n\})\nEOF").encode()
    for name, content, part in (
        ("image/policy.json", guide, "' insecureAcceptAnything' has white space around it"),
        ("image/policy.json", b'{"default": [{"type":"reject"},],}', "not valid JSON"),
        ("image/policy.json", b'{"default":[{"type":"reject"}]}', "transports: it is missing"),
        ("image/auth.json", b"{'auths':{}}", "not valid JSON"),
        ("image/sigstore.yaml", b"default-docker:\n  lookaside: file:///x\n", "lookaside"),
        ("image/cosign.key", b"-----BEGIN PRIVATE KEY-----\n", "it contains a private key"),
        ("gpg/keyring.gpg", b"\x95\x01\xd8" + bytes(100), "it contains a secret key"),
    ):
        (data / name).write_bytes(content)
        texts = [text for text in (await contents.remarks()).values() if text.startswith(name)]
        assert len(texts) == 1
        assert texts[0].startswith(f"{name}: no guest can use it: ")
        assert part in texts[0]


async def test_the_number_of_checked_contents_is_limited(resources: ResourceStore) -> None:
    for number in range(MAX_CHECKED + 5):
        await put(resources, ResourcePath.parse(f"team/credential/{number}"), b"{}")
    assert len(await StoredContents(resources).remarks()) == MAX_CHECKED
