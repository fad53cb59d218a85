"""A KBS that answers what it is told to. It proves nothing about the protocol."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from jwcrypto import jwe, jwk

from verdictd_py.guest.rcar.errors import to_base64url
from verdictd_py.guest.rcar.keys import TeeKey

ERRORS = "https://github.com/confidential-containers/kbs/errors/"
SECRET = b"the key of a layer \x00\xff"
CHALLENGE = {"nonce": "bm9uY2U=", "extra-params": ""}

Answer = httpx.Response | Callable[[httpx.Request], httpx.Response]


def sealed(key: TeeKey, secret: bytes = SECRET, protected: str = "") -> dict[str, Any]:
    """An answer by another implementation: the members of the flattened form."""
    text = protected or f'{{"alg":"{key.algorithm}","enc":"A256GCM"}}'
    token = jwe.JWE(secret, protected=text, recipient=jwk.JWK(**key.jwk))
    names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
    return dict(zip(names, token.serialize(compact=True).split("."), strict=True))


def sealed_as_before_0_2_0(key: TeeKey, key_bytes: int = 32, **changes: str) -> dict[str, Any]:
    """By hand: wire-rcar.md, "Versions", 0.1.1."""
    content_key, iv = os.urandom(key_bytes), os.urandom(12)
    public = load_pem_private_key(key.to_pem().reveal(), None).public_key()
    encrypted = public.encrypt(content_key, padding.PKCS1v15())  # type: ignore[union-attr]
    return {
        "protected": '{"alg":"RSA1_5","enc":"A256GCM"}',
        "encrypted_key": to_base64url(encrypted),
        "iv": to_base64url(iv),
        "ciphertext": to_base64url(AESGCM(content_key).encrypt(iv, SECRET, None)),
        "tag": "",
        **changes,
    }


def jwt(claims: dict[str, Any]) -> str:
    """A token whose signature is no signature."""
    parts = ({"alg": "ES256"}, claims)
    return ".".join([*(to_base64url(json.dumps(part).encode()) for part in parts), "c2ln"])


def error(status: int, variant: str, detail: str = "no") -> httpx.Response:
    return httpx.Response(status, json={"type": ERRORS + variant, "detail": detail})


@dataclass
class FakeKbs:
    """Answers by path; the last answer of a path is given again and again."""

    answers: dict[str, list[Answer]] = field(default_factory=dict)
    asked: list[httpx.Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.answers.setdefault("auth", [httpx.Response(200, json=CHALLENGE)])
        self.answers.setdefault("attest", [httpx.Response(200, json={"token": jwt({})})])

    @property
    def transport(self) -> httpx.MockTransport:
        return httpx.MockTransport(self._answer)

    @property
    def paths(self) -> list[str]:
        return [request.url.path.removeprefix("/kbs/v0/") for request in self.asked]

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answers = self.answers[request.url.path.removeprefix("/kbs/v0/")]
        chosen = answers.pop(0) if len(answers) > 1 else answers[0]
        if callable(chosen):
            return chosen(request)
        return httpx.Response(  # not yet read, as one from the network
            chosen.status_code, headers=chosen.headers, stream=httpx.ByteStream(chosen.content)
        )
