"""Validation of image policies (containers-policy.json(5)), before a guest uses them."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.vectors import from_guide, input_file
from verdictd_py.domain.names import ResourcePath
from verdictd_py.encoding import quoted
from verdictd_py.formats import contents
from verdictd_py.formats.contents import MAX_FINDINGS, KeyKind

KEY = {"keyPath": "/run/image-security/cosign/cosign.pub"}
SIGSTORE = {"type": "sigstoreSigned", **KEY}
GPG = {"type": "signedBy", "keyType": "GPGKeys", "keyPath": "kbs:///default/gpg-public-config/test"}
REJECT = [{"type": "reject"}]
HASH = 64 * "0"
KEYRING = base64.b64encode(input_file("gpg/ed.gpg").read_bytes()).decode()
COSIGN = input_file("cosign/p256.pub").read_text()


PATH = ResourcePath.parse("team/security-policy/a")


def problems(content: bytes) -> tuple[str, ...]:
    return contents.check(PATH, content).problems


def policy(*requirements: Any, **more: Any) -> bytes:
    members = {"default": list(requirements) or REJECT, "transports": {}, **more}
    return json.dumps(members).encode()


def scope(name: str, *requirements: Any) -> dict[str, Any]:
    return {"transports": {"docker": {name: list(requirements) or REJECT}}}


@pytest.mark.parametrize(
    "content",
    [
        policy(),
        policy({"type": "insecureAcceptAnything"}),
        policy(SIGSTORE),
        policy({**GPG, "keyPath": "/run/image-security/pubkey.gpg"}),
        policy({"type": "signedBy", "keyType": "GPGKeys", "keyData": KEYRING}),
        policy({"type": "sigstoreSigned", "keyData": COSIGN}),
        policy({**SIGSTORE, "rekorPublicKeyPath": "/rekor.pub"}),
        policy({**SIGSTORE, "rekorPublicKeyDatas": ["AAAA", "BBBB"]}),
        policy(GPG),
        policy(SIGSTORE, GPG),
        policy(**scope("docker.io/test", SIGSTORE)),
        policy(**scope("", SIGSTORE)),
        policy(**scope("registry.example:5000/a/b@sha256:" + HASH, SIGSTORE)),
        policy(transports={}),
        *(
            policy(transports={"docker": {}, transport: {"": REJECT, scope: REJECT}})
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
        (policy({"type": "sigstoreSigned", "keyData": "?"}), "keyData: it is not a PEM public key"),
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
    (line,) = problems(policy(transports={"docker": {}, transport: {scope: REJECT}}))
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
    assert len(lines) == MAX_FINDINGS
    assert lines[-1] == f"and {500 - MAX_FINDINGS + 1} more"
    assert all(len(line) < 300 for line in lines)


@pytest.mark.parametrize(
    "scope",
    [
        *("docker.io", "docker.io/acme", "docker.io/library", "docker.io/library/busybox"),
        *("docker.io/library/busybox:1.36", f"docker.io/acme/a@sha256:{HASH}", "*.example.com"),
        *("localhost/a", "localhost", "reg:5000", "reg:5000/a", "a.example/a/b/c:tag", "*.com"),
        f"reg.example.com/a:tag@sha256:{HASH}",
    ],
)
def test_scopes_that_images_are_in(scope: str) -> None:
    found = contents.check(PATH, policy(transports={"docker": {scope: REJECT}}))
    assert (found.problems, found.warnings) == ((), ())


@pytest.mark.parametrize(
    ("scope", "write"),
    [
        ("busybox", "docker.io/library/busybox"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("acme/app", "docker.io/acme/app"),
        ("docker.io/nginx:1", "docker.io/library/nginx:1"),
        (f"docker.io/nginx@sha256:{HASH}", f"docker.io/library/nginx@sha256:{HASH}"),
        ("index.docker.io", "docker.io"),
        ("index.docker.io/acme", "docker.io/acme"),
        ("https://registry.example.com", "registry.example.com"),
        ("https://index.docker.io/busybox", "docker.io/library/busybox"),
        ("Registry.Example.com:5000/a", "registry.example.com:5000/a"),
        ("registry.example.com/*", "registry.example.com"),
        ("registry.example.com/a/", "remove the '/'"),
        ("*", "*.example.com"),
        ("*/a", "*.example.com"),
        ("*.example.com/a", "*.example.com"),
        ("*.example.com:5000", "without port"),
        ("a.*.com", "*.example.com"),
        ("registry.example.com/Acme", "neither a host"),
        ("registry.example.com:latest", "neither a host"),
        ("registry.example.com/a@sha256:00", "neither a host"),
        ("registry.example.com//a", "neither a host"),
    ],
)
def test_scopes_that_no_image_is_in_are_refused_with_the_right_one(scope: str, write: str) -> None:
    (problem,) = problems(policy(transports={"docker": {scope: REJECT}}))
    assert problem.startswith(f"transports.'docker'.{quoted(scope)}: ")
    assert write in problem


def test_a_scope_that_an_operator_may_misread_is_a_remark() -> None:
    found = contents.check(PATH, policy(transports={"docker": {"docker.io/nginx": REJECT}}))
    assert found.problems == ()
    assert "the official image is docker.io/library/nginx" in found.warnings[0]


def test_a_policy_for_other_transports_leaves_everything_to_the_default() -> None:
    others = {"docker-daemon": {"": REJECT}}
    (problem,) = problems(policy(transports=others))
    assert "the default decides about every image" in problem
    found = contents.check(PATH, policy(transports={"docker": {"": REJECT}, **others}))
    assert found.problems == ()
    assert "guests ignore 'docker-daemon'" in found.warnings[0]


@pytest.mark.parametrize(
    ("key_path", "part"),
    [
        ("kbs:///default/key", "names no resource"),
        ("kbs:///default/../key", "names no resource"),
        ("https://example.com/cosign.pub", "guests support kbs:///"),
        ("cosign.pub", "guests support kbs:///"),
        ("/etc/cosign.key", "has the name of a private key"),
    ],
)
def test_a_key_path_that_leads_to_nothing_is_refused(key_path: str, part: str) -> None:
    (problem,) = problems(policy({**SIGSTORE, "keyPath": key_path}))
    assert problem.startswith("default[0].keyPath: ")
    assert part in problem


def test_a_file_of_the_guest_is_a_remark() -> None:
    found = contents.check(PATH, policy({**SIGSTORE, "keyPath": "file:///etc/cosign.pub"}))
    assert found.problems == ()
    assert "is a file of the guest" in found.warnings[0]


def test_the_resources_of_key_paths_are_found_with_their_position() -> None:
    cosign = {**SIGSTORE, "keyPath": "kbs://broker:8080/a/b/c"}
    content = policy(cosign, transports={"docker": {"docker.io/a": [{"type": "reject"}, GPG]}})
    found = contents.key_paths(PATH, content)
    assert [(key.where, key.kind, str(key.resource)) for key in found] == [
        ("default[0].keyPath", KeyKind.COSIGN, "a/b/c"),
        (
            "transports.'docker'.'docker.io/a'[1].keyPath",
            KeyKind.KEYRING,
            "default/gpg-public-config/test",
        ),
    ]


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
    contents.key_paths(PATH, content)
