"""Every mistake in the HTTP listener's settings is one line with cause and remedy (product.md)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.support.command import Run, run_all, run_here

FREE = ("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0")
HTTP = ("--kbs-http", "127.0.0.1:0")
NO_FILE = "No such file or directory"
A_DIRECTORY = "Is a directory"
OFF = "has no effect without --kbs-http; give the listener an address, or remove "

KEY = '[[key]]\nname = "a"\npublic_key = "ed25519.pub"\nroles = ["admin"]\n'
ADMINS: dict[str, tuple[str, tuple[str, ...]]] = {
    "no TOML": ("[[key]", ("is not valid TOML: ", "fix that line")),
    "empty": ("", ("must have tables [[key]] only", "docs/http-guests.md")),
    "one table": (KEY.replace("[[key]]", "[key]"), ("must have tables [[key]] only",)),
    "another table": (KEY + "[other]\n", ("must have tables [[key]] only",)),
    "no name": (KEY.replace('name = "a"', ""), ("has a key without a name", 'write name = "')),
    "an empty name": (KEY.replace('"a"', '""'), ("has a key without a name",)),
    "an unprintable name": (KEY.replace('"a"', '"a\\n"'), ("has a key without a name",)),
    "a name of another type": (KEY.replace('"a"', "5"), ("has a key without a name",)),
    "unknown member": (KEY + 'role = "admin"\n', ("has the unknown setting 'role'", "remove it")),
    "unknown role": (
        KEY.replace('["admin"]', '["boss"]'),
        ("key 'a' in", "the roles are register, operator, admin"),
    ),
    "roles as a text": (KEY.replace('["admin"]', '"admin"'), ("has an unknown role",)),
    "roles as a number": (KEY.replace('["admin"]', "5"), ("has an unknown role",)),
    "unknown default role": (KEY + 'default_role = "x"\n', ("has an unknown role",)),
    "no role": (KEY.replace('["admin"]', "[]"), ('write roles = ["admin"]', "default_role")),
    "prefix without slash": (KEY + 'prefix = "default/key"\n', ('write prefix = "default/key/"',)),
    "prefix with a slash before": (
        KEY + 'prefix = "/default/"\n',
        ("has a prefix that cannot begin",),
    ),
    "prefix of three": (KEY + 'prefix = "a/b/c/"\n', ("has a prefix that cannot begin",)),
    "prefix with dots": (KEY + 'prefix = "../"\n', ("has a prefix that cannot begin",)),
    "prefix of another type": (KEY + "prefix = 5\n", ("has a prefix that cannot begin",)),
    "register without prefix": (
        KEY.replace("admin", "register"),
        ("the role register and no prefix", "give a prefix for its keys"),
    ),
    "register by default without prefix": (
        KEY + 'default_role = "register"\n',
        ("the role register and no prefix",),
    ),
    "two of one name": (KEY + KEY, ("two keys with the same name", "give each its own")),
    "no public key": (
        KEY.replace('public_key = "ed25519.pub"', ""),
        ("has no public_key", "name a PEM file"),
    ),
    "public key missing": (
        KEY.replace("ed25519.pub", "none.pub"),
        ("none.pub: " + NO_FILE, "check public_key of key 'a'"),
    ),
    "public key is a directory": (
        KEY.replace("ed25519.pub", "directory"),
        ("directory: " + A_DIRECTORY, "check public_key of key 'a'"),
    ),
    "public key is garbage": (
        KEY.replace("ed25519.pub", "garbage"),
        ("is not a PEM public key, Ed25519 or P-256", "correct public_key of key 'a'"),
    ),
    "public key is RSA": (
        KEY.replace("ed25519.pub", "rsa.pub"),
        ("is not a PEM public key, Ed25519 or P-256", "correct public_key of key 'a'"),
    ),
    "public key is P-384": (
        KEY.replace("ed25519.pub", "p384.pub"),
        ("is not a PEM public key, Ed25519 or P-256",),
    ),
    "public key is private": (
        KEY.replace("ed25519.pub", "ed25519.key"),
        ("is not a PEM public key, Ed25519 or P-256",),
    ),
}
"""Files for --kbs-admins, and what is said of each."""

TLS = "are not a PEM certificate and its unencrypted PEM key; correct --kbs-tls-cert and"
TOKEN = "is not an unencrypted PEM key on P-256; create one with `openssl genpkey"

MISTAKES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "no address": (
        ("--kbs-http", "nowhere"),
        ("--kbs-http: 'nowhere' is not an address", "write host:port"),
    ),
    "a socket": (("--kbs-http", "unix:/x"), ("--kbs-http: 'unix:/x' is not served here",)),
    "in use": (("--kbs-http", "TAKEN"), ("127.0.0.1:", "the address is in use", "--kbs-http")),
    "elsewhere": (("--kbs-http", "192.0.2.1:1"), ("this host has no such address", "--kbs-http")),
    "in use, with sessions": (
        ("--kbs-http", "TAKEN", "--kbs-sessions", "DIR/s", "--kbs-token-key", "DIR/p256.key"),
        ("the address is in use", "--kbs-http"),
    ),
    "guests' tokens as administrators'": (
        (*HTTP, "--kbs-token-key", "DIR/p256.key", "--kbs-admins", "DIR/of-tokens.toml"),
        ("key 'a' in", "is that of --kbs-token-key", "another key"),
    ),
    "certificate alone": ((*HTTP, "--kbs-tls-cert", "DIR/a.pem"), ("go together", "give both")),
    "key alone": ((*HTTP, "--kbs-tls-key", "DIR/a.key"), ("go together", "give both")),
    "certificate missing": (
        (*HTTP, "--kbs-tls-cert", "DIR/none", "--kbs-tls-key", "DIR/a.key"),
        ("none: " + NO_FILE, "check --kbs-tls-cert"),
    ),
    "certificate's key missing": (
        (*HTTP, "--kbs-tls-cert", "DIR/a.pem", "--kbs-tls-key", "DIR/none"),
        ("none: " + NO_FILE, "check --kbs-tls-key"),
    ),
    "certificate is a directory": (
        (*HTTP, "--kbs-tls-cert", "DIR/directory", "--kbs-tls-key", "DIR/a.key"),
        ("directory: " + A_DIRECTORY, "check --kbs-tls-cert"),
    ),
    "certificate is garbage": (
        (*HTTP, "--kbs-tls-cert", "DIR/garbage", "--kbs-tls-key", "DIR/a.key"),
        ("garbage", TLS),
    ),
    "certificate's key is encrypted": (
        (*HTTP, "--kbs-tls-cert", "DIR/a.pem", "--kbs-tls-key", "DIR/encrypted.key"),
        ("encrypted.key is encrypted with a passphrase", "openssl pkey", "--kbs-tls-key"),
    ),
    "another certificate's key": (
        (*HTTP, "--kbs-tls-cert", "DIR/a.pem", "--kbs-tls-key", "DIR/b.key"),
        ("a.pem and ", "b.key", TLS),
    ),
    "another kind of key": (
        (*HTTP, "--kbs-tls-cert", "DIR/a.pem", "--kbs-tls-key", "DIR/ed25519.key"),
        ("ed25519.key", TLS),
    ),
    "certificate and plain": (
        (*HTTP, "--kbs-tls-cert", "DIR/a.pem", "--kbs-tls-key", "DIR/a.key", "--insecure-kbs-http"),
        ("contradict each other", "remove one"),
    ),
    "token key missing": (
        (*HTTP, "--kbs-token-key", "DIR/none"),
        ("none: " + NO_FILE, "check --kbs-token-key"),
    ),
    "token key is a directory": (
        (*HTTP, "--kbs-token-key", "DIR/directory"),
        (A_DIRECTORY, "check --kbs-token-key"),
    ),
    "token key is garbage": ((*HTTP, "--kbs-token-key", "DIR/garbage"), ("garbage", TOKEN)),
    "token key is public": ((*HTTP, "--kbs-token-key", "DIR/ed25519.pub"), ("ed25519.pub", TOKEN)),
    "token key is Ed25519": ((*HTTP, "--kbs-token-key", "DIR/ed25519.key"), (TOKEN,)),
    "token key is RSA": ((*HTTP, "--kbs-token-key", "DIR/rsa.key"), (TOKEN,)),
    "token key is P-384": ((*HTTP, "--kbs-token-key", "DIR/p384.key"), (TOKEN,)),
    "token key is encrypted": ((*HTTP, "--kbs-token-key", "DIR/encrypted.key"), (TOKEN,)),
    "sessions without token key": (
        (*HTTP, "--kbs-sessions", "DIR/s"),
        ("--kbs-sessions needs --kbs-token-key", "sign with one key"),
    ),
    "sessions in no directory": (
        (*HTTP, "--kbs-sessions", "DIR/none/s", "--kbs-token-key", "DIR/p256.key"),
        ("cannot store sessions in", NO_FILE, "choose another --kbs-sessions"),
    ),
    "sessions in a directory": (
        (*HTTP, "--kbs-sessions", "DIR/directory", "--kbs-token-key", "DIR/p256.key"),
        ("cannot store sessions in", "choose another --kbs-sessions"),
    ),
    "sessions in garbage": (
        (*HTTP, "--kbs-sessions", "DIR/garbage", "--kbs-token-key", "DIR/p256.key"),
        ("cannot store sessions in", "not a database", "choose another --kbs-sessions"),
    ),
    "admins missing": (
        (*HTTP, "--kbs-admins", "DIR/none"),
        ("none: " + NO_FILE, "check --kbs-admins"),
    ),
    "admins in a directory": (
        (*HTTP, "--kbs-admins", "DIR/directory"),
        (A_DIRECTORY, "check --kbs-admins"),
    ),
    "admins in bytes": (
        (*HTTP, "--kbs-admins", "DIR/bytes"),
        ("bytes is not valid TOML", "fix that line"),
    ),
    "sample alone": (
        (*HTTP, "--insecure-sample-verifier"),
        ("would release every secret in", "verdictd-py demo", "--insecure-sample-data-dir"),
    ),
    "sample data directory alone": (
        (*HTTP, "--insecure-sample-data-dir"),
        ("no effect without --insecure-sample-verifier", "remove it"),
    ),
    "sample without listener": (
        ("--insecure-sample-verifier", "--insecure-sample-data-dir"),
        ("--insecure-sample-verifier " + OFF,),
    ),
    "plain without listener": (("--insecure-kbs-http",), ("--insecure-kbs-http " + OFF,)),
    **{
        f"{name} without listener": ((f"--kbs-{name}", "DIR/a.pem"), (f"--kbs-{name} " + OFF,))
        for name in ("tls-cert", "tls-key", "admins", "token-key", "sessions")
    },
    **{
        f"admins: {name}": ((*HTTP, "--kbs-admins", f"DIR/admins/{number}.toml"), said)
        for number, (name, (_, said)) in enumerate(ADMINS.items())
    },
}

AS_PROCESS = (
    "in use, with sessions",
    "another certificate's key",
    "sessions in garbage",
    "admins: register without prefix",
    "sample alone",
)
"""Made as a user would; the others in this process, which is faster."""


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def write_files(base: Path) -> None:
    """Write the files that the mistakes name."""
    keys: dict[str, Key] = {
        "p256": ec.generate_private_key(ec.SECP256R1()),
        "p384": ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate(),
        "rsa": rsa.generate_private_key(65537, 2048),
    }
    admins = base / "admins"
    admins.mkdir()
    for name, key in keys.items():
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for directory in (base, admins):
            (directory / f"{name}.key").write_bytes(
                key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            )
            (directory / f"{name}.pub").write_bytes(public)
    for directory in (base, admins):
        (directory / "garbage").write_text("neither PEM nor TOML {" * 50)
        (directory / "directory").mkdir()
    encryption = BestAvailableEncryption(b"secret")
    (base / "encrypted.key").write_bytes(
        keys["p256"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    )
    (base / "bytes").write_bytes(b"\xff\xfe")
    (base / "of-tokens.toml").write_text(KEY.replace("ed25519.pub", "p256.pub"))
    ca = trustme.CA()
    for name in ("a", "b"):
        made = ca.issue_cert("127.0.0.1")
        (base / f"{name}.pem").write_bytes(made.cert_chain_pems[0].bytes())
        (base / f"{name}.key").write_bytes(made.private_key_pem.bytes())
    for number, (text, _) in enumerate(ADMINS.values()):
        (admins / f"{number}.toml").write_text(text)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    base = tmp_path_factory.mktemp("kbs-mistakes")
    write_files(base)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = f"127.0.0.1:{server.getsockname()[1]}"
        common = (*FREE, "--data-dir", str(base / "data"), "--collateral-url", "")
        yield {
            name: Run(
                (
                    *common,
                    *(text.replace("DIR", str(base)).replace("TAKEN", taken) for text in arguments),
                )
            )
            for name, (arguments, _) in MISTAKES.items()
        }
    assert not (base / "none").exists()


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_with_cause_and_remedy(
    runs: dict[str, Run], mistake: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    line = run_here(runs[mistake].arguments, capfdbinary).complaint(2)
    for part in MISTAKES[mistake][1]:
        assert part in line
    for secret in ("BEGIN", "PRIVATE"):
        assert secret not in line


def test_the_installed_command_reports_mistakes(runs: dict[str, Run]) -> None:
    ended = run_all({name: runs[name] for name in AS_PROCESS})
    for name, one in ended.items():
        line = one.complaint(2)
        for part in MISTAKES[name][1]:
            assert part in line


@pytest.mark.parametrize(
    "name", ["kbs_tls_cert", "kbs_tls_key", "kbs_admins", "kbs_token_key", "kbs_sessions"]
)
def test_settings_without_effect_are_refused_from_every_source(
    runs: dict[str, Run],
    name: str,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    common = (*FREE, "--data-dir", str(tmp_path / "data"))
    monkeypatch.setenv(f"VERDICTD_{name.upper()}", "/x")
    line = run_here(common, capfdbinary).complaint(2)
    assert f"--{name.replace('_', '-')} {OFF}" in line
