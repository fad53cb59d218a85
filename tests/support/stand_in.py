"""A KBS on loopback that gives whoever asks what it has, to try the command line against.

It judges nothing, so it proves nothing about the protocol; real brokers do that elsewhere.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from jwcrypto import jwe, jwk

from tests.support.fake_kbs import CHALLENGE, ERRORS, jwt

COOKIE = "kbs-session-id=abc"


@dataclass
class StandIn:
    """What it has, and what it was told.

    Attributes:
        secrets: by path.
        refusal: variant and detail, for every attest.
        bodies: of auth and attest.
        asked: method, path and bearer token of each request.
    """

    secrets: dict[str, bytes]
    refusal: tuple[str, str] | None = None
    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    key: dict[str, Any] = field(default_factory=dict)

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def posted(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.bodies.append(body)
        if path == "auth":
            return 200, CHALLENGE
        if self.refusal is not None:
            return 401, _error(*self.refusal)
        self.key = body.get("runtime-data", body)["tee-pubkey"]
        claims = {"customized_claims": {"runtime_data": {"tee-pubkey": self.key}}}
        return 200, {"token": jwt(claims)}

    def got(self, path: str, cookie: str, token: str) -> tuple[int, dict[str, Any]]:
        if COOKIE not in cookie and not token:
            return 401, _error("TokenNotFound", "attest first")
        secret = self.secrets.get(path.removeprefix("resource/"))
        if secret is None:
            return 404, _error("PluginInternalError", "nothing there")
        protected = json.dumps({"alg": self.key["alg"], "enc": "A256GCM"}, separators=(",", ":"))
        sealed = jwe.JWE(secret, protected=protected, recipient=jwk.JWK(**self.key))
        names = ("protected", "encrypted_key", "iv", "ciphertext", "tag")
        return 200, dict(zip(names, sealed.serialize(compact=True).split("."), strict=True))


def _error(variant: str, detail: str) -> dict[str, Any]:
    return {"type": ERRORS + variant, "detail": detail}


@contextmanager
def standing_in(**secrets: bytes) -> Iterator[StandIn]:
    """Serves these secrets: `default__key__1` is the path default/key/1."""
    kbs = StandIn({path.replace("__", "/"): secret for path, secret in secrets.items()})

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            length = int(self.headers["content-length"])
            body = json.loads(self.rfile.read(length))
            self._answer(*kbs.posted(self._path("POST"), body))

        def do_GET(self) -> None:
            path = self._path("GET")
            self._answer(*kbs.got(path, self.headers.get("cookie", ""), self._token))

        @property
        def _token(self) -> str:
            return self.headers.get("authorization", "").removeprefix("Bearer ")

        def _path(self, method: str) -> str:
            path = self.path.removeprefix("/kbs/v0/")
            kbs.asked.append((method, path, self._token))
            return path

        def _answer(self, status: int, body: dict[str, Any]) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            if "nonce" in body:
                self.send_header("set-cookie", f"{COOKIE}; Path=/kbs; HttpOnly")
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
            """Nothing on standard error, where commands are watched."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kbs.url = f"http://127.0.0.1:{server.server_port}"
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        try:
            yield kbs
        finally:
            server.shutdown()
            serving.join()


def quote_in(body: dict[str, Any]) -> bytes:
    """The TDX quote in a body of attest of 0.4.0."""
    return base64.b64decode(body["tee-evidence"]["primary_evidence"]["quote"])
