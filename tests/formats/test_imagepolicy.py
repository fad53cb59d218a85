"""Validation of image policies (containers-policy.json(5)), before a guest uses them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import from_guide
from verdictd_py.encoding import quoted
from verdictd_py.formats.imagepolicy import MAX_PROBLEMS, problems

KEY = {"keyPath": "/run/image-security/cosign/cosign.pub"}
SIGSTORE = {"type": "sigstoreSigned", **KEY}
GPG = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "kbs:///default/gpg-public-config/test"}
REJECT = [{"type": "reject"}]
HASH = 64 * "0"


def policy(*requirements: Any, **more: Any) -> bytes:
    return json.dumps({"default": list(requirements) or REJECT, **more}).encode()


def scope(name: str, *requirements: Any) -> dict[str, Any]:
    return {"transports": {"docker": {name: list(requirements) or REJECT}}}


@pytest.mark.parametrize(
    "content",
    [
        policy(),
        policy({"type": "insecureAcceptAnything"}),
        policy(SIGSTORE),
        policy({**GPG, "keyPath": "/run/image-security/pubkey.gpg"}),
        policy({"type": "signedBy", "keyType": "GPGKeys", "keyData": "AAAA"}),
        policy({**SIGSTORE, "rekorPublicKeyPath": "/rekor.pub"}),
        policy({**SIGSTORE, "rekorPublicKeyDatas": ["AAAA", "BBBB"]}),
        policy(GPG),
        policy(SIGSTORE, GPG),
        policy(**scope("docker.io/test", SIGSTORE)),
        policy(**scope("", SIGSTORE)),
        policy(**scope("registry.example:5000/a/b@sha256:00", SIGSTORE)),
        policy(transports={}),
        *(
            policy(transports={transport: {"": REJECT, scope: REJECT}})
            for transport, scope in (
                *(("oci", "/some/path"), ("dir", "/a"), ("docker-archive", ""), ("x", "/a/../")),
                *(("docker", "*.example.com"), ("docker-daemon", "docker.io/a")),
                ("containers-storage", "[/x]docker.io/a"),
            )
        ),
        policy({**SIGSTORE, "signedIdentity": {"type": "matchRepository"}}),
        policy(
            {
                **SIGSTORE,
                "signedIdentity": {"type": "exactRepository", "dockerRepository": "docker.io/a/b"},
            }
        ),
        *(
            policy({**GPG, "signedIdentity": identity})
            for identity in (
                {"type": "matchExact"},
                {"type": "matchRepoDigestOrExact"},
                {"type": "matchRepository"},
                {"type": "exactReference", "dockerReference": "docker.io/a/b:c"},
                {"type": "exactRepository", "dockerRepository": "docker.io/a/b"},
                {"type": "exactReference", "dockerReference": f"a.b:5/c__d/e-f@sha256:{HASH}"},
                {"type": "exactReference", "dockerReference": f"localhost/a:1@sha256:{HASH}"},
                {"type": "exactReference", "dockerReference": "reg:5000/a:1"},
                {"type": "exactReference", "dockerReference": "Reg.Example/a:" + "t" * 128},
                {"type": "remapIdentity", "prefix": "a.example", "signedPrefix": "b.example"},
                {"type": "remapIdentity", "prefix": "a:5/b/c", "signedPrefix": "b.example/a_b"},
            )
        ),
    ],
)
def test_a_valid_policy_has_no_problem(content: bytes) -> None:
    assert problems(content) == ()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "not valid JSON"),
        (b"\xff", "not UTF-8"),
        (b'{"default":[{"type":"reject"}],}', "not valid JSON"),  # defects.md 10: a trailing comma
        (b'{"default":[{"type":"reject"}],"default":[]}', "twice"),
        (b"[]", "is not a JSON object"),
        (b"{}", "default: it is missing"),
        (b'{"default":[]}', "default: the list is empty"),
        (b'{"default":{}}', "not a list"),
        (b'{"default":["reject"]}', "default[0]: it is not an object"),
        (policy(defaults=[]), "'defaults' is not a known member"),
        (policy(transports=[]), "transports: it is not an object"),
        (policy(transports={"docker": []}), "not an object of scopes"),
        (policy({}), "default[0].type: it is missing"),
        (policy({"type": 1}), "default[0].type: it is missing or not a string"),
        (policy({"type": "accept"}), "'accept' is unknown; the known types are"),
        (policy({"type": " insecureAcceptAnything"}), 'write "insecureAcceptAnything"'),
        (policy({"type": "reject", "keyPath": "x"}), "'keyPath' is not a known member"),
        (policy({"type": "sigstoreSigned"}), "exactly one of keyPath and keyData"),
        (policy({**SIGSTORE, "keyData": "AAAA"}), "there are 2"),
        (policy({**SIGSTORE, "keyPath": ""}), "keyPath: it is not a string"),
        (policy({**SIGSTORE, "keyPath": " /x"}), "keyPath: it has white space"),
        (policy({"type": "sigstoreSigned", "keyData": "?"}), "keyData: it is not base64"),
        (policy({"type": "sigstoreSigned", "keyData": "AAAA"}), "keyData: guests read it as PEM"),
        (
            policy({"type": "signedBy", "keyType": "GPGKeys", "keyData": "AB=="}),
            "keyData: it is not base64",
        ),
        (policy({**SIGSTORE, "rekorPublicKeyPath": ""}), "rekorPublicKeyPath: it is not a string"),
        (policy({**SIGSTORE, "rekorPublicKeyPath": 5}), "rekorPublicKeyPath: it is not a string"),
        (policy({**SIGSTORE, "rekorPublicKeyPaths": []}), "rekorPublicKeyPaths: it is not a list"),
        (
            policy({**SIGSTORE, "rekorPublicKeyPaths": "/r"}),
            "rekorPublicKeyPaths: it is not a list",
        ),
        (policy({**SIGSTORE, "rekorPublicKeyData": "?"}), "rekorPublicKeyData: it is not base64"),
        (policy({**SIGSTORE, "rekorPublicKeyDatas": ["?"]}), "it is not base64"),
        (
            policy({**SIGSTORE, "rekorPublicKeyPath": "/r", "rekorPublicKeyData": "AAAA"}),
            "at most one of rekorPublicKeyPath",
        ),
        (policy({"type": "sigstoreSigned", "fulcio": {}}), "fulcio: guests do not support it"),
        (policy({**GPG, "keyType": "X509"}), 'keyType: it must be "GPGKeys"'),
        (policy({"type": "signedBaseLayer", "baseLayerIdentity": {}}), "guests do not support"),
        (policy({**SIGSTORE, "signedIdentity": "x"}), "signedIdentity: it is not an object"),
        (policy({**SIGSTORE, "signedIdentity": {}}), "signedIdentity.type: it is missing"),
        (
            policy({**SIGSTORE, "signedIdentity": {"type": "exactReference"}}),
            "signedIdentity.dockerReference: it is missing",
        ),
        (policy(**scope(" docker.io/test", SIGSTORE)), "white space around it, so it matches"),
        (policy(**scope("docker.io/test/", SIGSTORE)), "ends with '/'"),
        (policy(**scope("docker.io/test", {"type": "x"})), "transports.'docker'.'docker.io/test'"),
    ],
)
def test_a_problem_is_reported_with_its_position(content: bytes, problem: str) -> None:
    lines = problems(content)
    assert any(problem in line for line in lines), lines
    assert all("\n" not in line for line in lines)


@pytest.mark.parametrize(
    ("transport", "scope"),
    [
        *(("dir", wrong) for wrong in ("a", "/", "/a/", "//a", "/a/../b", "/a/.", "/a//b")),
        *((transport, "docker.io/a") for transport in ("oci", "oci-archive", "sif")),
        *(("docker-archive", "/a"), ("tarball", "/a"), ("docker-daemon", f"sha256:{HASH}")),
        ("containers-storage", "docker.io/a"),
    ],
)
def test_a_scope_has_the_form_of_its_transport(transport: str, scope: str) -> None:
    (line,) = problems(policy(transports={transport: {scope: REJECT}}))
    assert line.startswith(f"transports.'{transport}'.{quoted(scope)}: ")


@pytest.mark.parametrize(
    "reference",
    [
        *("x y", ":1", "A/b:1", "docker.io/A:1", "a//b:1", "docker.io/a/:1", "*.x/a:1", "é:1"),
        *("reg:x/a:1", "a___b:1", "a-.b:1", "a-/b:1", "[::1]:5/a:1", "a@sha256:00", HASH),
        *(f"a@md5:{HASH[:32]}", "a:" + "t" * 129, "r.x/" + "a" * 256 + ":1", "a-" * 100_000),
    ],
)
def test_an_invalid_image_name_is_reported(reference: str) -> None:
    for kind, name in (("exactReference", "dockerReference"), ("exactRepository", None)):
        member = name or "dockerRepository"
        identity = {"type": kind, member: reference}
        lines = problems(policy({**GPG, "signedIdentity": identity}))
        assert len(lines) == 1
        assert lines[0].startswith(f"default[0].signedIdentity.{member}: ")
        assert lines[0].endswith(" is not the name of an image")


@pytest.mark.parametrize(
    ("identity", "problem"),
    [
        ({"type": "exactReference", "dockerReference": "a/b"}, "has neither tag nor digest"),
        ({"type": "exactRepository", "dockerRepository": "a/b:c"}, "guests find no image"),
        (
            {"type": "remapIdentity", "prefix": "a:b", "signedPrefix": "b"},
            "prefix: 'a:b' is neither",
        ),
        ({"type": "remapIdentity", "prefix": "a", "signedPrefix": "b/"}, "signedPrefix: 'b/' is"),
        (
            {"type": "remapIdentity", "prefix": "a" * 256, "signedPrefix": "b"},
            "is neither a registry",
        ),
    ],
)
def test_an_identity_that_matches_nothing_is_reported(
    identity: dict[str, str], problem: str
) -> None:
    (line,) = problems(policy({**GPG, "signedIdentity": identity}))
    assert problem in line


@pytest.mark.parametrize("kind", ["matchExact", "matchRepoDigestOrExact"])
def test_guests_refuse_cosign_signatures_by_tag(kind: str) -> None:
    (line,) = problems(policy({**SIGSTORE, "signedIdentity": {"type": kind}}))
    assert line.endswith("guests refuse every image; write matchRepository or exactRepository")
    assert problems(policy({**GPG, "signedIdentity": {"type": kind}})) == ()


def test_the_guides_own_policy_is_reported() -> None:
    """Two invisible spaces and a slash make it accept every image, or none."""
    text = from_guide(r"(?s)policy\.json\n(\{.*?\n\})\nEOF")
    lines = problems(text.encode())
    assert len(lines) == 3
    assert lines[0].startswith("default[0].type: ' insecureAcceptAnything' has white space")


def test_the_number_of_problems_is_limited() -> None:
    lines = problems(policy(*({"type": "x" * 1000} for _ in range(500))))
    assert len(lines) == MAX_PROBLEMS
    assert lines[-1] == f"and {500 - MAX_PROBLEMS + 1} more"
    assert all(len(line) < 300 for line in lines)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["default", "transports", "docker", "type", "signedIdentity", "x"]),
            inner | st.sampled_from(["reject", "signedBy", "sigstoreSigned"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(st.binary(max_size=60) | VALUES.map(lambda value: json.dumps(value).encode()))
def test_arbitrary_bytes_are_handled(content: bytes) -> None:
    assert all(isinstance(line, str) for line in problems(content))
