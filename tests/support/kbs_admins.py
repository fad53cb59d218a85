"""Keys of administrators, the file that configures them, and the tokens they sign."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
from jwcrypto import jwk, jws
from jwcrypto.common import JWSEHeaderParameter

from tests.support.broker import RunningBroker
from tests.support.kbs import running_kbs
from verdictd_py.storage.presence import DAEMONS_FILE

POLICY = b"package policy\nimport rego.v1\ndefault allow := false\nallow if input.resource.path\n"
OTHER_KEY = bytes(range(32))


KINDS: dict[str, dict[str, str]] = {
    "EdDSA": {"kty": "OKP", "crv": "Ed25519"},
    "ES256": {"kty": "EC", "crv": "P-256"},
}

CONFIGURED: dict[str, dict[str, Any]] = {
    "boss": {"kind": "ES256", "roles": ["admin", "operator"], "default_role": "admin"},
    "ops": {"kind": "EdDSA", "roles": ["operator"]},
    "team": {"kind": "EdDSA", "roles": ["admin", "operator"], "prefix": "team/key/"},
    "keyprovider": {"kind": "EdDSA", "default_role": "register", "prefix": "default/key/"},
}
"""What the tests' file says; `boss` may do everything, `keyprovider` is coco_keyprovider's."""


class AdminTokens:
    """Signs tokens of every key in `CONFIGURED`, and of one that is not.

    Attributes:
        file: for `--kbs-admins`.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.keys = {
            name: jwk.JWK.generate(**KINDS[said["kind"]]) for name, said in CONFIGURED.items()
        }
        self.keys["stranger"] = jwk.JWK.generate(**KINDS["EdDSA"])
        lines: list[str] = []
        for name, said in CONFIGURED.items():
            (directory / f"{name}.pem").write_bytes(self.keys[name].export_to_pem())
            members = {k: v for k, v in said.items() if k != "kind"}
            lines += ["[[key]]", f'name = "{name}"', f'public_key = "{name}.pem"']
            lines += [f"{member} = {json.dumps(value)}" for member, value in members.items()]
        self.file = directory / "admins.toml"
        self.file.write_text("\n".join(lines) + "\n")

    def token(self, name: str, role: str | None = None, **claims: Any) -> str:
        """A token of that key, good for two hours; a claim that is None is left out."""
        now = int(time.time())
        said: dict[str, Any] = {"iat": now, "exp": now + 7200, "nbf": now}
        if role is not None:
            said["role"] = role
        said |= claims
        return self.signed(name, {k: v for k, v in said.items() if v is not None})

    def signed(self, name: str, payload: object, **header: Any) -> str:
        """Any payload, signed by that key."""
        key = self.keys[name]
        algorithm = "EdDSA" if key["kty"] == "OKP" else "ES256"
        unknown = {"x": JWSEHeaderParameter("of nobody", True, True, None)}
        made = jws.JWS(json.dumps(payload), header_registry=unknown)
        made.allowed_algs = ["EdDSA", "ES256", "HS256"]
        made.add_signature(key, protected=json.dumps({"alg": algorithm, "typ": "JWT", **header}))
        return str(made.serialize(compact=True))


@asynccontextmanager
async def administered(
    directory: Path, tokens: AdminTokens, **settings: Any
) -> AsyncIterator[RunningBroker]:
    """A broker with these administrators, and without a bug of its own in the end."""
    async with running_kbs(directory, kbs_admins=tokens.file, **settings) as running:
        yield running
        assert not running.events.named("warning.bug")


def bearing(token: str | None) -> dict[str, str]:
    """Headers that show a token."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def b64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def reference(values: object, **more: Any) -> dict[str, Any]:
    payload = base64.b64encode(json.dumps(values).encode()).decode()
    return {"version": "0.1.0", "type": "sample", "payload": payload, **more}


def stored(broker: RunningBroker) -> dict[str, bytes]:
    """Return all files that administration could change."""
    own = {"audit", "history", "revisions", DAEMONS_FILE}
    return {
        str(path.relative_to(broker.data)): path.read_bytes()
        for path in broker.data.rglob("*")
        if path.is_file() and own.isdisjoint(path.parts)
    }


def variant(answer: httpx.Response) -> str:
    """Of an answer that is no success: its body is JSON of exactly two texts."""
    body = answer.json()
    assert set(body) == {"type", "detail"}
    assert answer.headers["Content-Type"] == "application/json"
    assert isinstance(body["detail"], str)
    head, _, tail = str(body["type"]).rpartition("/")
    assert head == "https://github.com/confidential-containers/kbs/errors"
    return tail
