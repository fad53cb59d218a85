"""`verdictd-py admin-token`: a broker with the public key accepts the tokens that it signs."""

from __future__ import annotations

import json
import subprocess
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from jwcrypto import jwk, jws

from tests.support.command import Run, run, run_here
from verdictd_py import daemon as app
from verdictd_py.errors import NotAuthorized, TokenInvalid
from verdictd_py.listeners.kbs.files import read_admins
from verdictd_py.protocols.rcar.admins import Administrator, Role

Capture = pytest.CaptureFixture[bytes]

KINDS = {
    "ed25519": ("-algorithm", "ed25519"),
    "p256": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"),
    "rsa": ("-algorithm", "RSA"),
    "p384": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
    "encrypted": ("-algorithm", "ed25519", "-aes256", "-pass", "pass:x"),
}


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


def written(base: Path, kind: str) -> tuple[Path, Path]:
    """Create a key pair as in docs/http-guests.md; return the files of both halves."""
    key, public = base / f"{kind}.key", base / f"{kind}.pub"
    openssl("genpkey", *KINDS[kind], "-out", key)
    openssl("pkey", "-in", key, "-passin", "pass:x", "-pubout", "-out", public)
    return key, public


def administrator(base: Path, kind: str, token: str, *, now: datetime) -> Administrator:
    """Return the administrator as whom a broker with this public key authenticates the token."""
    (base / "admins.toml").write_text(
        f'[[key]]\nname = "ops"\npublic_key = "{kind}.pub"\n'
        'roles = ["admin", "operator"]\ndefault_role = "operator"\n'
    )
    return read_admins(base / "admins.toml").authenticate(token, now=now)


@pytest.mark.parametrize("kind", ["ed25519", "p256"])
@pytest.mark.parametrize("role", [None, "admin", "operator"])
def test_a_broker_accepts_the_token_until_it_expires(
    tmp_path: Path, capfdbinary: Capture, kind: str, role: str | None
) -> None:
    key, public = written(tmp_path, kind)
    more = [] if role is None else ["--role", role]
    ended = run_here(["admin-token", "--key", str(key), *more], capfdbinary)
    assert (ended.status, ended.stderr) == (0, "")
    token = ended.stdout.decode().removesuffix("\n")
    now = app.utc_now()
    found = administrator(tmp_path, kind, token, now=now)
    assert (found.role, found.caller.name) == (Role(role or "operator"), "kbs admin ops")
    assert administrator(tmp_path, kind, token, now=now + timedelta(hours=1.99))
    with pytest.raises(TokenInvalid, match="expired"):
        administrator(tmp_path, kind, token, now=now + timedelta(hours=2))

    verified = jws.JWS()  # and so does anybody else, with the algorithm that kbs-client has
    verified.deserialize(
        token,
        jwk.JWK.from_pem(public.read_bytes()),
        alg="EdDSA" if kind == "ed25519" else "ES256",
    )
    said = json.loads(verified.payload)
    assert set(said) == {"iat", "exp"} | ({"role"} if role else set())


def test_the_key_limits_the_roles_of_its_tokens(tmp_path: Path, capfdbinary: Capture) -> None:
    key, _ = written(tmp_path, "ed25519")
    token = run_here(["admin-token", "--key", str(key), "--role", "register"], capfdbinary).stdout
    with pytest.raises(NotAuthorized):
        administrator(tmp_path, "ed25519", token.decode().strip(), now=app.utc_now())


def test_the_lifetime_is_set_in_hours(tmp_path: Path, capfdbinary: Capture) -> None:
    key, _ = written(tmp_path, "ed25519")
    ended = run_here(["admin-token", "--key", str(key), "--hours", "0.5"], capfdbinary)
    token, now = ended.stdout.decode().strip(), app.utc_now()
    assert administrator(tmp_path, "ed25519", token, now=now + timedelta(minutes=29))
    with pytest.raises(TokenInvalid, match="expired"):
        administrator(tmp_path, "ed25519", token, now=now + timedelta(minutes=30))


@pytest.mark.parametrize("hours", ["0", "-1", "nan", "inf", "1e9", "0.0001", "soon"])
def test_an_invalid_number_of_hours_is_refused(
    tmp_path: Path, capfdbinary: Capture, hours: str
) -> None:
    key, _ = written(tmp_path, "ed25519")
    ended = run_here(["admin-token", "--key", str(key), f"--hours={hours}"], capfdbinary)
    assert "is not a number of hours, at least a second and at most 87600 hours" in ended.complaint(
        2, "verdictd-py admin-token"
    )


@pytest.mark.parametrize("kind", ["rsa", "p384", "encrypted", "public", "garbage", "huge", "gone"])
def test_an_unusable_key_is_reported_in_one_line(
    tmp_path: Path, capfdbinary: Capture, kind: str
) -> None:
    if kind in KINDS:
        path, _ = written(tmp_path, kind)
    elif kind == "public":
        _, path = written(tmp_path, "ed25519")
    else:
        path = tmp_path / kind
        if kind != "gone":
            path.write_bytes(b"x" if kind == "garbage" else b"-" * 10**6)
    ended = run_here(["admin-token", "--key", str(path)], capfdbinary)
    line = ended.complaint(2, "verdictd-py admin-token")
    if kind == "gone":
        assert "cannot read" in line
    else:
        assert line.startswith(f"{path} is not an unencrypted PEM private key, Ed25519 or P-256;")
    assert "BEGIN" not in line


def test_the_installed_command_prints_a_token(tmp_path: Path) -> None:
    key, _ = written(tmp_path, "p256")
    ended = run(Run(["admin-token", "--key", str(key), "--role", "admin"]))
    assert (ended.status, ended.stderr) == (0, "")
    found = administrator(tmp_path, "p256", ended.stdout.decode().strip(), now=app.utc_now())
    assert found.role is Role.ADMIN
