"""The right answer for each file of `tests/inputs` that guests read (tests/inputs/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.vectors import INPUTS, input_file
from verdictd_py.domain.names import ResourcePath
from verdictd_py.formats import contents
from verdictd_py.formats.contents.findings import EVERY, Generation

FROM_0_9 = EVERY - {Generation.V0_8}
FROM_0_19 = FROM_0_9 - {Generation.V0_9}

POLICIES = {  # what each problem contains, in their order; () for a policy that guests can use
    "policy-no-transports.json": ('add "transports": {}',),
    "policy-scopes-that-match-nothing.json": (
        "'busybox': it does not begin with a registry, so no image is in it; write docker.io/lib",
        "'docker.io/busybox': guests look up this image as docker.io/library/busybox",
        "'library/busybox': it does not begin with a registry",
        "'index.docker.io/library/busybox': guests replace index.docker.io by docker.io",
        "'docker://docker.io/library/busybox': a scope has no scheme",
        "'https://docker.io/library/busybox': a scope has no scheme",
        "'Docker.io/library/busybox': a host is written in small letters",
        "'docker.io/library/busybox*': no image is in it: '*' is only possible",
        "'docker.io/library/*': no image is in it: '*' is only possible",
    ),
    "policy-short-name.json": (
        "'busybox': it does not begin with a registry",
        "so no image is in it; write docker.io/library/busybox:1.36",
        "'docker://docker.io/acme': a scope has no scheme, so no image is in it; write docker.io/a",
    ),
    "policy-private-key-path.json": ("'/etc/pki/cosign.key' has the name of a private key",),
    "policy-keypaths.json": ("keyPaths: guests do not support it",),
    "policy-fulcio.json": ("fulcio: guests do not support it",),
    "policy-distro-default.json": ("no image is in 'docker-daemon'",),
    "policy-kbs-keypath-wrong.json": (),  # refused by the broker, which has no such key
}
CREDENTIALS = {
    "good.json": "",
    "empty-auths.json": "",
    "identitytoken.json": "",
    "bad-base64.json": "auth: it is not padded standard base64",
    "bom.json": "a byte order mark",
    "credhelpers-only.json": "it names credential helpers",
    "dockercfg-old.json": "it is an old .dockercfg",
    "empty.json": "auths is missing",
    "identitytoken-only.json": "identitytoken does not replace it",
    "no-colon.json": "it decodes to text without ':'",
    "username-password.json": "username and password do not replace it",
}
SIGSTORE = {
    "good.yaml": "",
    "empty.yaml": "",
    "attachments.yaml": "use-sigstore-attachments",
    "broken.yaml": "a bracket that nothing closes",
    "lookaside.yaml": "its newer name lookaside",
    "tab.yaml": "indented with a tab",
}
KEYS = {
    **dict.fromkeys(
        ("p256.pub", "p256-crlf.pub", "p256-bom.pub", "preamble.pub", "oneline.pub"), EVERY
    ),
    **dict.fromkeys(("two-blocks.pub", "no-newline.pub", "trailing.pub"), EVERY),
    "indented.pub": FROM_0_9,
    **dict.fromkeys(("rsa2048.pub", "secp384r1.pub", "ed25519.pub"), FROM_0_19),
}
REFUSED_KEYS = {
    "cert-then-key.pub": "its first block of PEM is a certificate",
    "cert.pem": "its first block of PEM is a certificate",
    "dsa.pub": "DSA",
    "p256-b64.pub": "base64 once more",
    "p256-utf16.pub": "UTF-16",
    "p256.der": "it is DER, not PEM",
    "rsa-pkcs1.pub": "PKCS#1",
    "secp521r1.pub": "secp521r1",
    "x25519.pub": "X25519",
}
REFUSED_KEYRINGS = {
    "b64.txt": "the data is cut off",
    "quoted.asc": "the ASCII armour is damaged",
    "secret.asc": "a secret key",
}


def checked(resource_type: str, file: Path) -> contents.Findings:
    """Check the file under a tag of its own: the type selects the check."""
    return contents.check(ResourcePath(("team", resource_type, "a")), file.read_bytes())


def names(folder: str) -> set[str]:
    return {path.name for path in input_file(folder).iterdir()}


def test_every_file_has_an_answer() -> None:
    assert {path.name for path in INPUTS.glob("policy-*")} == set(POLICIES)
    assert names("auth") == set(CREDENTIALS)
    assert names("sigstore") == set(SIGSTORE)
    assert names("cosign") == {*KEYS, *REFUSED_KEYS}
    assert names("gpg") > set(REFUSED_KEYRINGS)


@pytest.mark.parametrize("name", POLICIES)
def test_policies(name: str) -> None:
    problems = checked("security-policy", input_file(name)).problems
    assert len(problems) == len(POLICIES[name])
    for problem, part in zip(problems, POLICIES[name], strict=True):
        assert part in problem


@pytest.mark.parametrize(
    ("resource_type", "folder", "answers"),
    [("credential", "auth", CREDENTIALS), ("sigstore-config", "sigstore", SIGSTORE)],
)
def test_credentials_and_lookaside_configurations(
    resource_type: str, folder: str, answers: dict[str, str]
) -> None:
    for name, part in answers.items():
        found = checked(resource_type, input_file(f"{folder}/{name}"))
        if part:
            assert part in found.problems[0], name
            assert found.usable == frozenset()
        else:
            assert found.problems == (), name
            assert found.usable == EVERY


@pytest.mark.parametrize("name", KEYS)
def test_keys_that_guests_can_use(name: str) -> None:
    found = checked("cosign-public-key", input_file(f"cosign/{name}"))
    assert (found.problems, found.usable) == ((), KEYS[name])
    assert bool(found.warnings) == (KEYS[name] != EVERY)
    for warning in found.warnings:
        if KEYS[name] == FROM_0_19:
            assert "from guest-components v0.19 on" in warning
            assert warning.endswith("guest-components v0.8, v0.9 to v0.18 cannot use it")
        else:
            assert warning.endswith("guests with guest-components v0.8 cannot use it")


@pytest.mark.parametrize("name", REFUSED_KEYS)
def test_keys_that_no_guest_can_use(name: str) -> None:
    found = checked("cosign-public-key", input_file(f"cosign/{name}"))
    assert REFUSED_KEYS[name] in found.problems[0]
    assert found.usable == frozenset()


def test_keyrings() -> None:
    for name in sorted(names("gpg")):
        problems = checked("gpg-public-config", input_file(f"gpg/{name}")).problems
        if name in REFUSED_KEYRINGS:
            assert REFUSED_KEYRINGS[name] in problems[0], name
        else:
            assert problems == (), name


@pytest.mark.parametrize(
    ("name", "warning", "usable"),
    [
        ("bom.asc", "a byte order mark", EVERY - {Generation.V0_20}),
        ("two.asc", "guests read only the first of its armoured blocks", EVERY),
    ],
)
def test_keyrings_that_some_guests_read_in_part_or_not(
    name: str, warning: str, usable: frozenset[Generation]
) -> None:
    found = checked("gpg-public-config", input_file(f"gpg/{name}"))
    assert (found.problems, found.usable) == ((), usable)
    assert warning in found.warnings[0]


def test_other_types_are_not_checked() -> None:
    found = checked("secret", input_file("cosign/dsa.pub"))
    assert (found.problems, found.warnings) == ((), ())
