"""Writes the table of contents that guests read, by running the checks on an example of each."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from verdictd_py.domain.names import ResourcePath
from verdictd_py.formats import contents
from verdictd_py.formats.contents import Generation

INPUTS: Final = Path(__file__).resolve().parents[1] / "tests" / "inputs"

TITLES: Final[Mapping[str, str]] = {
    "security-policy": "Image policy",
    "cosign-public-key": "Public key of cosign signatures",
    "credential": "Registry credential",
    "sigstore-config": "Lookaside configuration",
    "gpg-public-config": "OpenPGP keyring",
}

_REJECT: Final = [{"type": "reject"}]


def _policy(scope: str = "", **requirement: object) -> bytes:
    """Return a policy with one scope of images."""
    requirements = [requirement] if requirement else _REJECT
    scopes = {scope: requirements} if scope else {}
    return json.dumps({"default": _REJECT, "transports": {"docker": scopes}}).encode()


def _signed(**more: object) -> bytes:
    return _policy("registry.example.com", type="sigstoreSigned", **more)


_KEY: Final = {"keyPath": "kbs:///default/cosign-public-key/test"}

_INLINE: Final[Mapping[str, tuple[tuple[str, bytes], ...]]] = {
    "security-policy": (
        ("`sigstoreSigned` with one `keyPath` or `keyData`", _signed(**_KEY)),
        (
            "`sigstoreSigned` with `signedIdentity` `matchExact`",
            _signed(**_KEY, signedIdentity={"type": "matchExact"}),
        ),
        (
            "scope `registry.example.com`, `docker.io/library/busybox`, `*.example.com`",
            _policy("*.example.com"),
        ),
        ("scope `docker.io/busybox`", _policy("docker.io/busybox")),
        ("scope `busybox`, `library/busybox`", _policy("busybox")),
        ("scope `index.docker.io/...`", _policy("index.docker.io/acme")),
        ("scope with a scheme", _policy("https://registry.example.com")),
        ("scope with capital letters in the host", _policy("Registry.example.com")),
        ("scope with `*` elsewhere", _policy("registry.example.com/*")),
        ("`keyPath` of three segments, `kbs:///a/b/c`", _signed(keyPath="kbs:///a/b/c")),
        ("`keyPath` of another form", _signed(keyPath="https://example.com/cosign.pub")),
    ),
    "credential": (("`null`", b"null"), ("a Kubernetes Secret", b'{"apiVersion":1,"kind":1}')),
    "sigstore-config": (
        ("`sigstore: https:...`", b"default-docker:\n  sigstore: https://example.com\n"),
    ),
}
_FILES: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "security-policy": (
        ("no `transports`", "policy-no-transports.json"),
        ("no rules for `docker`, but for other transports", "policy-distro-default.json"),
        ("`keyPaths`", "policy-keypaths.json"),
        ("`fulcio`, `pki`, `keyDatas`", "policy-fulcio.json"),
    ),
    "cosign-public-key": (
        ("P-256", "cosign/p256.pub"),
        ("P-256, CRLF, byte order mark, text around it, in one line", "cosign/p256-bom.pub"),
        ("P-256, indented", "cosign/indented.pub"),
        ("P-384", "cosign/secp384r1.pub"),
        ("Ed25519", "cosign/ed25519.pub"),
        ("RSA of 2048 to 4096 bits", "cosign/rsa2048.pub"),
        ("RSA in the form of PKCS#1", "cosign/rsa-pkcs1.pub"),
        ("P-521", "cosign/secp521r1.pub"),
        ("X25519", "cosign/x25519.pub"),
        ("DSA", "cosign/dsa.pub"),
        ("a certificate, or a certificate before the key", "cosign/cert-then-key.pub"),
        ("DER", "cosign/p256.der"),
        ("base64 of PEM", "cosign/p256-b64.pub"),
        ("UTF-16", "cosign/p256-utf16.pub"),
    ),
    "credential": (
        ('`{"auths": {host: {"auth": base64 of user:password}}}`', "auth/good.json"),
        ('`{"auths": {}}`', "auth/empty-auths.json"),
        ("`identitytoken` in addition to `auth`", "auth/identitytoken.json"),
        ("`identitytoken` in place of `auth`", "auth/identitytoken-only.json"),
        ("`username` and `password` in place of `auth`", "auth/username-password.json"),
        ("an object without `auths`", "auth/empty.json"),
        ("credential helpers without `auths`", "auth/credhelpers-only.json"),
        ("an old .dockercfg", "auth/dockercfg-old.json"),
        ("a byte order mark", "auth/bom.json"),
        ("`auth` that is not base64", "auth/bad-base64.json"),
        ("`auth` without `:`", "auth/no-colon.json"),
    ),
    "sigstore-config": (
        ("`sigstore: file:...` in each entry", "sigstore/good.yaml"),
        ("an empty file", "sigstore/empty.yaml"),
        ("`lookaside:`", "sigstore/lookaside.yaml"),
        ("`use-sigstore-attachments:`", "sigstore/attachments.yaml"),
        ("invalid YAML", "sigstore/broken.yaml"),
    ),
    "gpg-public-config": (
        ("certificates, binary or armoured", "gpg/rsa.gpg"),
        ("two armoured blocks", "gpg/two.asc"),
        ("a byte order mark before the armour", "gpg/bom.asc"),
        ("a secret key", "gpg/secret.asc"),
        ("quoted or otherwise damaged armour", "gpg/quoted.asc"),
    ),
}


def _generated() -> Iterator[tuple[str, bytes]]:
    """Yield keys that no file has; the table does not depend on their values."""
    keys = {
        "secp256k1": ec.generate_private_key(ec.SECP256K1()),
        "Ed448": ed448.Ed448PrivateKey.generate(),
        "RSA of 1024 bits": rsa.generate_private_key(65537, 1024),  # noqa: S505  # to be refused
        "RSA of more than 4096 bits": rsa.generate_private_key(65537, 4104),
    }
    for name, key in keys.items():
        public = key.public_key()
        yield name, public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    yield "a private key", b"-----BEGIN PRIVATE KEY-----\n"


def examples(resource_type: str) -> Iterator[tuple[str, bytes]]:
    """Yield a description and an example of each form of a content."""
    for description, name in _FILES.get(resource_type, ()):
        yield description, (INPUTS / name).read_bytes()
    yield from _INLINE.get(resource_type, ())
    if resource_type == "cosign-public-key":
        yield from _generated()


def table() -> Iterator[str]:
    """Yield the page after its first line."""
    yield (
        "\n# Contents that guests read\n\n"
        "Which releases of guest-components, whose image-rs reads these contents, can use them. "
        "The broker\nchecks each content by the *type* in its path `<repository>/<type>/<tag>`. It "
        "refuses what no guest can\nuse, and warns about what some guests cannot use. `--force` of "
        "`verdict-py`, `force` of the client API\nand `?force=true` of the HTTP listener store "
        "the content anyway; a secret key in place of a public one is\nnever stored nor served. "
        "Stored files are checked at start, at SIGHUP and while the daemon runs; the\nlog "
        "(`warning.content`) and `verdict-py status` report them.\n"
    )
    for resource_type in contents.TYPES:
        yield f"\n## {TITLES[resource_type]}: `*/{resource_type}/*`\n\n"
        yield f"| content | {' | '.join(Generation)} | report of the broker |\n"
        yield f"| --- |{' --- |' * (len(Generation) + 1)}\n"
        path = ResourcePath(("default", resource_type, "test"))
        for description, example in examples(resource_type):
            found = contents.check(path, example)
            usable = ["yes" if each in found.usable else "no" for each in Generation]
            report = "; ".join((*found.problems, *found.warnings)) or "-"
            yield f"| {description} | {' | '.join(usable)} | {_cell(report)} |\n"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")
