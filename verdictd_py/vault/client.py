"""Requests to Vault with a token that is renewed before it expires.

The client logs in at its first request. A task renews the token at two thirds of its life, and logs
in again if it cannot be renewed. A request that is denied logs in again once, because a token can
be revoked at any time. Redirects are not followed: the token goes to the configured host only.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final, TypeGuard

import httpx

from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError, StorageError, StoreUnavailable
from verdictd_py.vault.location import Location

MAX_ANSWER_BYTES: Final = 4 * 1024 * 1024
"""Vault's own limit of a KV entry is 1 MiB by default; base64 and JSON need a third more."""

RENEW_AT: Final = 2 / 3
"""Fraction of its life after which a token is renewed."""
RETRY_S: Final = 10.0
"""Pause after a renewal that failed, and the shortest time between two logins after denials."""
MAX_PAUSE_S: Final = 86_400.0
_MAX_LIFE_S: Final = 100 * 365 * 86_400

KEPT_S: Final = 30.0
"""Time for which a connection without requests is kept: a release is rarely less than 5 s after the
one before, which is httpx's default, and a new connection takes longer than the request."""

OK, NO_CONTENT, BAD_REQUEST, FORBIDDEN, NOT_FOUND = 200, 204, 400, 403, 404
_STATES: Final = {
    429: "it is a standby that does not forward requests, or limits their rate",
    472: "it is a standby of disaster recovery",
    473: "it is a performance standby",
    501: "it is not initialised",
    503: "it is sealed, or in maintenance: unseal it",
}
"""States of a server by HTTP status (documentation of Vault's HTTP API, "HTTP status codes")."""


class VaultUnavailable(StoreUnavailable):
    """Vault does not answer, answers nonsense, or denies access. The message has the cause."""

    code = "vault-unavailable"


@dataclass(frozen=True, slots=True)
class Answer:
    """Answer to a request: its status, and its JSON object without what never matters."""

    status: int
    body: Mapping[str, Any] = field(repr=False)

    @property
    def data(self) -> Mapping[str, Any]:
        """The member `data`.

        Raises:
            VaultUnavailable: it is missing or no object.
        """
        data = self.body.get("data")
        if not isinstance(data, dict):
            raise VaultUnavailable("Vault's answer has no data; is the URL that of a mount?")
        return data


@dataclass(frozen=True, slots=True)
class _Token:
    """A token, and how long it lives from when it was issued; None for no end."""

    value: SecretBytes
    seconds: float | None
    renewable: bool


class VaultClient:
    """Client of one server, with one login.

    Args:
        transport: transport instead of a connection, for tests.
    """

    def __init__(
        self, location: Location, *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._location = location
        self._context = _context(location)
        self._transport = transport
        self._http: httpx.AsyncClient | None = None
        self._token: _Token | None = None
        self._logging_in = asyncio.Lock()
        self._failed: tuple[float, StorageError] | None = None
        self._next_login = 0.0
        self._renewal: asyncio.Task[None] | None = None

    async def request(
        self, method: str, path: str, body: Mapping[str, JsonValue] | None = None
    ) -> Answer:
        """Send a request, and return an answer with status 200, 204, 400 or 404.

        Args:
            path: path below `/v1/`, of checked segments.

        Raises:
            VaultUnavailable: Vault cannot be reached, is sealed, denies access, or answers
                nonsense. The message has the cause and neither a token nor a value.
        """
        token = await self._current()
        answer = await self._send(method, path, body, token.value)
        if answer.status == FORBIDDEN:
            again = await self._after_denial(token)
            if again is not None:
                answer = await self._send(method, path, body, again.value)
        if answer.status == FORBIDDEN:
            raise VaultUnavailable(
                f"Vault denies access to {path}: the token has expired, or its policies lack "
                "the path"
            )
        return answer

    async def close(self) -> None:
        """Close the connections. The token is forgotten, and expires by itself."""
        if self._renewal is not None:
            self._renewal.cancel()
            with suppress(asyncio.CancelledError):
                await self._renewal
            self._renewal = None
        self._token = None
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _current(self) -> _Token:
        token = self._token
        if token is not None:
            return token
        now = asyncio.get_running_loop().time
        begun = now()
        async with self._logging_in:
            if self._token is None:
                # Requests that wait together share a failure: each would wait for its own login.
                if self._failed is not None and self._failed[0] >= begun:
                    raise VaultUnavailable(str(self._failed[1]))
                try:
                    self._adopt(await self._login())
                except StorageError as error:
                    self._failed = now(), error
                    raise
            assert self._token is not None  # noqa: S101  # for the type checker
            return self._token

    async def _after_denial(self, denied: _Token) -> _Token | None:
        """Return another token than the denied one; None if there is none at this time."""
        async with self._logging_in:
            if self._token is not denied:
                return self._token
            now = asyncio.get_running_loop().time()
            if now < self._next_login:
                return None
            self._next_login = now + RETRY_S
            self._adopt(await self._login())
            return self._token

    def _adopt(self, token: _Token) -> None:
        """Use a token from now on, and start the task that renews it."""
        self._token = token
        if self._renewal is None or self._renewal.done():
            self._renewal = asyncio.create_task(self._renew(), name="renew the token for Vault")

    async def _login(self) -> _Token:
        begun = await asyncio.to_thread(self._location.login.begin)
        if isinstance(begun, SecretBytes):
            return await self._described(begun)
        path, body = begun
        answer = await self._send("POST", path, body, None)
        if answer.status != OK:
            raise VaultUnavailable(
                f"Vault refuses the login at {path}: role, secret id or JWT is not valid (status "
                f"{answer.status})"
            )
        return _issued(answer)

    async def _described(self, value: SecretBytes) -> _Token:
        """Return a token of a file with its remaining life."""
        answer = await self._send("GET", "auth/token/lookup-self", None, value)
        if answer.status == FORBIDDEN:
            raise VaultUnavailable("Vault denies access: the token in the file is not valid")
        # Without the right to look itself up, a token is used as it is.
        data = answer.body.get("data") if answer.status == OK else None
        if not isinstance(data, dict):
            return _Token(value, None, renewable=False)
        return _Token(value, _seconds(data.get("ttl")), data.get("renewable") is True)

    async def _renew(self) -> None:
        """Renew the token before it expires, or log in again, until the client is closed."""
        while (token := self._token) is not None:
            if token.seconds is None:
                return
            await asyncio.sleep(min(max(token.seconds * RENEW_AT, 1.0), MAX_PAUSE_S))
            await self._replace(token)

    async def _replace(self, old: _Token) -> None:
        while self._token is old:
            try:
                async with self._logging_in:
                    if self._token is old:
                        self._token = await self._renewed(old)
            except StorageError:  # requests report the cause; the token may still be valid
                await asyncio.sleep(RETRY_S)

    async def _renewed(self, old: _Token) -> _Token:
        if old.renewable:
            answer = await self._send("POST", "auth/token/renew-self", {}, old.value)
            # Near the end of its longest life, a token is renewed for a shorter time.
            if answer.status == OK:
                issued = _issued(answer, old.value)
                if issued.seconds is None or issued.seconds * 2 > (old.seconds or 0):
                    return issued
        return await self._login()

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        token: SecretBytes | None,
    ) -> Answer:
        headers = {"Accept-Encoding": "identity", "X-Vault-Request": "true"}
        if token is not None:
            headers["X-Vault-Token"] = token.reveal().decode()
        if self._location.namespace:
            headers["X-Vault-Namespace"] = self._location.namespace
        url = f"{self._location.origin}/v1/{path}"
        try:
            async with (
                asyncio.timeout(self._location.timeout),
                self._open().stream(method, url, headers=headers, json=body) as answer,
            ):
                return _answer(answer.status_code, await _content(answer))
        except TimeoutError:
            raise VaultUnavailable(
                f"Vault does not answer within {self._location.timeout:.0f} s"
            ) from None
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            # The texts of these exceptions are not used: they may have parts of an answer.
            raise VaultUnavailable(f"Vault does not answer: {_cause(error)}") from None

    def _open(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(
                verify=self._context,
                transport=self._transport,
                trust_env=False,
                follow_redirects=False,
                timeout=self._location.timeout,
                limits=httpx.Limits(
                    max_connections=100, max_keepalive_connections=20, keepalive_expiry=KEPT_S
                ),
            )
        return self._http


def _context(location: Location) -> ssl.SSLContext:
    """Return the TLS context; certificates are always verified.

    Raises:
        ConfigError: the CA cannot be read.
    """
    try:
        context = ssl.create_default_context(cafile=location.ca)
    except OSError as error:  # includes ssl.SSLError
        raise ConfigError(
            f"cannot read the certificates of {location.ca}: "
            f"{error.strerror or 'it has none in PEM'}; correct ca="
        ) from error
    # Python 3.13 requires a CA's key usage, which plain `openssl req -x509` does not write.
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    return context


async def _content(answer: httpx.Response) -> bytes:
    if answer.headers.get("content-encoding", "identity") != "identity":
        raise VaultUnavailable("Vault's answer is compressed, although it must not be")
    content = bytearray()
    async for chunk in answer.aiter_raw():
        content += chunk
        if len(content) > MAX_ANSWER_BYTES:
            raise VaultUnavailable(f"Vault's answer has more than {MAX_ANSWER_BYTES} bytes")
    return bytes(content)


def _answer(status: int, content: bytes) -> Answer:
    if status in (OK, BAD_REQUEST, FORBIDDEN, NOT_FOUND):
        return Answer(status, _object(content))
    if status == NO_CONTENT:
        return Answer(status, {})
    if 300 <= status < 400:
        raise VaultUnavailable(
            "Vault redirects to another server: name the active one, or let standbys forward"
        )
    state = _STATES.get(status, "see its log")
    raise VaultUnavailable(f"Vault answers with status {status}: {state}")


def _object(content: bytes) -> Mapping[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise VaultUnavailable("the answer is not of Vault: it is not a JSON object; check the URL")
    return parsed


def _issued(answer: Answer, value: SecretBytes | None = None) -> _Token:
    """Return the token of a login or of a renewal.

    Raises:
        VaultUnavailable: the answer has none.
    """
    auth = answer.body.get("auth")
    token = auth.get("client_token") if isinstance(auth, dict) else None
    if not isinstance(auth, dict) or not isinstance(token, str) or not _is_header(token):
        raise VaultUnavailable("Vault's answer to the login has no token")
    return _Token(
        value or SecretBytes(token.encode()),
        _seconds(auth.get("lease_duration")),
        auth.get("renewable") is True,
    )


def _is_header(text: str) -> bool:
    return 0 < len(text) <= 16_384 and text.isascii() and text.isprintable()


def is_number(value: object) -> TypeGuard[int]:
    """Return whether a member of an answer is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def _seconds(value: object) -> float | None:
    """Return a life in seconds; None for no end, which Vault writes as 0."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > 0:
        return float(min(value, _MAX_LIFE_S))  # an integer may be too large for a float
    return None


def _cause(error: Exception) -> str:
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({link.verify_message}); check ca="
        if isinstance(link, ssl.SSLError):
            return f"TLS failed ({link.reason or type(link).__name__})"
        if isinstance(link, socket.gaierror):
            return "unknown host name"
        if isinstance(link, OSError) and link.errno:
            return os.strerror(link.errno).lower()
        link = link.__cause__ or link.__context__
    return type(error).__name__
