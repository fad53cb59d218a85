"""Port `SessionStore` in a Valkey or Redis server that several brokers share.

A guest may attest at one broker and request its secrets at another. Each call is one Lua script,
which the server runs atomically: a challenge is taken once among all brokers. After a flush, a
restart or a failover of the server, sessions may be lost, and no challenge can be taken twice;
guests attest again, which takes them a second.

A call that is cancelled closes its connection, so that its answer never reaches another call;
in addition, each answer repeats the name that it is about.

Source: port `SessionStore`; valkey-py, `valkey.asyncio`.
"""

from __future__ import annotations

import asyncio
import math
import re
import ssl
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final, Self

from verdictd_py.engineurls import EngineUrl
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.ports.sessions import DEFAULT_LIMITS, MAX_AHEAD, SessionLimits
from verdictd_py.valkey import scripts
from verdictd_py.valkey.parsing import bounded_parser

CALL_SECONDS: Final = 2.0
"""Time limit of a call, with the wait for a connection."""

MAX_CONNECTIONS: Final = 16
"""Maximum number of connections of one process; a call takes less than a millisecond."""

_PREFIX: Final = "verdictd-py:{sessions}:"  # the braces put all keys into one slot of a cluster
_AFTER_EXPIRY_SECONDS: Final = 120
"""Time after the newest entry's expiry at which Valkey removes what no broker has removed."""

_REFUSALS: Final = {
    "AuthenticationError": "it refuses the user or the password (AUTH); check password_file",
    "NoPermissionError": "its user has not the rights of docs/scale.md (ACL)",
    "BusyLoadingError": "it is still loading its data",
    "ReadOnlyError": "it is a replica that is read only; name the primary",
    "OutOfMemoryError": "its memory is full (maxmemory)",
    "InvalidResponse": "its answer is too large, or not one of Valkey; check the URL",
}
"""Causes by the library's class of the error."""

_CODE: Final = re.compile(r"[A-Z]{2,20}(?= |$)")
"""Code with which a server's error begins, such as MISCONF."""

_ATTEMPTS: Final = 2
"""The second attempt is for a connection that broke: the server was restarted, for example."""


def _keys(kind: str) -> tuple[str, str, str]:
    return (f"{_PREFIX}{kind}:content", f"{_PREFIX}{kind}:expiry", f"{_PREFIX}{kind}:size")


_CHALLENGES: Final = _keys("challenge")
_TOKENS: Final = _keys("token")
_CLAIMS: Final = _keys("claims")


class ValkeySessionStore:
    """Port `SessionStore` in a Valkey server.

    Args:
        client: client whose pool never has more than `MAX_CONNECTIONS` connections.
        url: the server, for messages.
        call_seconds: time limit of a call.

    Attributes:
        counts: numbers of challenges and of tokens, as `fault` has found them.
    """

    def __init__(
        self,
        client: Any,  # noqa: ANN401  # `valkey.asyncio.Valkey`, which is imported on demand
        url: EngineUrl,
        limits: SessionLimits = DEFAULT_LIMITS,
        *,
        call_seconds: float = CALL_SECONDS,
    ) -> None:
        self._client = client
        self._url = url
        self._limits = limits
        self._call_seconds = call_seconds
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)
        self._closed = False
        self.counts = (0, 0)
        self._put_session = client.register_script(scripts.PUT_SESSION)
        self._put_claims = client.register_script(scripts.PUT_CLAIMS)
        self._take = client.register_script(scripts.TAKE)
        self._get_entry = client.register_script(scripts.GET)
        self._check = client.register_script(scripts.CHECK)

    @classmethod
    def open(
        cls,
        url: EngineUrl,
        limits: SessionLimits = DEFAULT_LIMITS,
        *,
        call_seconds: float = CALL_SECONDS,
    ) -> Self:
        """Return a store; it connects when it is first used.

        Raises:
            ConfigError: the package `valkey` is missing, or a file of the URL cannot be used.
        """
        try:
            client = _client(url, call_seconds)
        except ModuleNotFoundError as error:
            raise ConfigError(
                "sessions in Valkey need the Python package valkey: "
                "pip install 'verdictd-py[valkey]'"
            ) from error
        except (OSError, ssl.SSLError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ConfigError(
                f"cannot use the TLS files of {url}: {reason}; check ca, cert and key of "
                "--kbs-sessions"
            ) from error
        return cls(client, url, limits, call_seconds=call_seconds)

    async def add_challenge(
        self, name: str, challenge: str, *, now: datetime, expires: datetime
    ) -> None:
        await self._add_session("challenge", name, challenge, now, expires)

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        answer = await self._run(self._take, _CHALLENGES, (name, _seconds(now)))
        return self._content(name, answer)

    async def add_token(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        await self._add_session("token", name, token, now, expires)

    async def token(self, name: str, *, now: datetime) -> str | None:
        return await self._get(_TOKENS, name, now)

    async def add_claims(
        self, digest: str, claims: str, *, now: datetime, expires: datetime
    ) -> None:
        values = (digest, claims, *_times(now, expires), self._limits.claims_bytes)
        self._require_stored(digest, await self._run(self._put_claims, _CLAIMS, values))

    async def claims(self, digest: str, *, now: datetime) -> str | None:
        return await self._get(_CLAIMS, digest, now)

    async def fault(self) -> str:
        """Return why the sessions cannot be used now; empty if they can."""
        try:
            match await self._run(self._check, (_CHALLENGES[1], _TOKENS[1]), ()):
                case [int(challenges), int(tokens)]:
                    self.counts = challenges, tokens
                case _:
                    raise self._nonsense()
        except StorageError as error:
            return f"{error}; guests are served again when it answers"
        return ""

    async def close(self) -> None:
        """Close all connections; later calls fail."""
        self._closed = True
        await self._client.connection_pool.disconnect()

    async def _add_session(
        self, kind: str, name: str, content: str, now: datetime, expires: datetime
    ) -> None:
        limits = self._limits
        most = (limits.challenges, limits.sessions, limits.token_bytes)
        values = (kind, name, content, *_times(now, expires), *most)
        answer = await self._run(self._put_session, (*_CHALLENGES, *_TOKENS), values)
        self._require_stored(name, answer)

    async def _get(self, keys: Sequence[str], name: str, now: datetime) -> str | None:
        return self._content(name, await self._run(self._get_entry, keys, (name, _seconds(now))))

    def _content(self, name: str, answer: Any) -> str | None:  # noqa: ANN401  # of the server
        """Return the content in an answer.

        Raises:
            StorageError: the answer is about another name, or has another form.
        """
        match answer:
            case [bytes(about), bytes(content)] if about == _encoded(name):
                return content.decode("utf-8", "replace")
            case [bytes(about), None] if about == _encoded(name):
                return None
        raise self._nonsense()

    def _require_stored(self, name: str, answer: object) -> None:
        """Require that an answer says that an entry of this name was stored.

        Raises:
            StorageError: it does not.
        """
        if answer != _encoded(name):
            raise self._nonsense()

    def _nonsense(self) -> StorageError:
        return StorageError(f"the sessions cannot be used: {self._url} sent another answer")

    async def _run(
        self,
        script: Any,  # noqa: ANN401  # a registered script
        keys: Sequence[str],
        values: Sequence[str | int],
    ) -> Any:  # noqa: ANN401  # what the script returns
        """Run a script within the time limit; once more if the connection was broken.

        Raises:
            StorageError: the server does not answer, or refuses; the message has the cause.
        """
        if self._closed:
            raise StorageError("the sessions cannot be used: their store is closed")
        from valkey.exceptions import (  # noqa: PLC0415  # optional package
            ConnectionError as Disconnected,
        )
        from valkey.exceptions import ValkeyError  # noqa: PLC0415

        encoded = [_encoded(value) if isinstance(value, str) else value for value in values]
        try:
            async with asyncio.timeout(self._call_seconds), self._free:
                for attempt in range(1, _ATTEMPTS + 1):
                    try:
                        return await script(keys=keys, args=encoded)
                    except Disconnected as error:
                        if attempt == _ATTEMPTS or not _is_broken(error):
                            raise
        except TimeoutError as error:
            reason = f"no answer within {self._call_seconds:g} s"
            raise StorageError(f"the sessions cannot be used: {self._url}: {reason}") from error
        except (ValkeyError, OSError) as error:
            raise StorageError(
                f"the sessions cannot be used: {self._url}: {_reason(error)}"
            ) from error
        raise AssertionError("unreachable")


def _client(url: EngineUrl, call_seconds: float) -> Any:  # noqa: ANN401  # see ValkeySessionStore
    """Return a client with a pool.

    Raises:
        ModuleNotFoundError: the optional package is missing.
        OSError, ssl.SSLError: a TLS file cannot be used.
    """
    from valkey import asyncio as library  # noqa: PLC0415  # optional package
    from valkey.asyncio.retry import Retry  # noqa: PLC0415
    from valkey.backoff import NoBackoff  # noqa: PLC0415

    options: dict[str, Any] = {
        "parser_class": bounded_parser(),
        "socket_timeout": call_seconds,
        "socket_connect_timeout": call_seconds,
        "retry": Retry(NoBackoff(), 0),  # `_run` tries again
    }
    if url.address.unix:
        options["path"] = url.address.unix
        connection = library.UnixDomainSocketConnection
        return library.Valkey(connection_pool=_pool(url, connection, options))
    options |= {"host": url.address.host, "port": url.address.port, "db": int(url.database or 0)}
    if not url.tls:
        return library.Valkey(connection_pool=_pool(url, library.Connection, options))
    context = _tls_context(url)

    class SecuredConnection(library.SSLConnection):
        """Uses this context; the library's own would trust the system's CAs next to `ca`."""

        def __init__(self, **arguments: Any) -> None:  # noqa: ANN401  # the library's
            super().__init__(**arguments)
            self.ssl_context.context = context

    return library.Valkey(connection_pool=_pool(url, SecuredConnection, options))


def _pool(
    url: EngineUrl,
    connection: Any,  # noqa: ANN401  # a class of the library
    options: dict[str, Any],
) -> Any:  # noqa: ANN401  # the library's
    from valkey import asyncio as library  # noqa: PLC0415  # optional package
    from valkey.credentials import UsernamePasswordCredentialProvider  # noqa: PLC0415

    class Authenticated(connection):  # type: ignore[misc]  # a class of the library
        """Reads the password for each connection, so that it can be changed at any time.

        It does so before the library connects: the pool would use a connection whose
        `on_connect` failed by another error than the library's without authentication.
        """

        async def connect(self) -> None:
            if not self.is_connected:
                password = await asyncio.to_thread(url.password)
                self.credential_provider = UsernamePasswordCredentialProvider(url.user, password)
            await super().connect()

    return library.ConnectionPool(
        connection_class=Authenticated if url.password_file else connection,
        max_connections=MAX_CONNECTIONS,
        **options,
    )


def _tls_context(url: EngineUrl) -> ssl.SSLContext:
    """Return the TLS settings: the server's name is verified, by the CAs in `ca` only if given.

    Raises:
        OSError, ssl.SSLError: a file cannot be used.
    """
    context = ssl.create_default_context(cafile=url.ca or None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if url.cert:
        context.load_cert_chain(url.cert, url.key)
    return context


def _times(now: datetime, expires: datetime) -> tuple[str, str, str, int]:
    """Return now, expiry, the latest expiry of other entries, and the lifetime of the keys."""
    lifetime = math.ceil((expires - now).total_seconds()) + _AFTER_EXPIRY_SECONDS
    return _seconds(now), _seconds(expires), _seconds(expires + MAX_AHEAD), max(lifetime, 1)


def _seconds(when: datetime) -> str:
    return repr(when.timestamp())


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


def _is_broken(error: Exception) -> bool:
    """Return whether the connection broke, rather than being refused or not authenticated."""
    from valkey.exceptions import (  # noqa: PLC0415  # optional package
        AuthenticationError,
        BusyLoadingError,
        MaxConnectionsError,
    )

    return not isinstance(error, AuthenticationError | BusyLoadingError | MaxConnectionsError)


def _reason(error: Exception) -> str:
    """Return the cause. Texts of the server are not used: they may repeat what was sent to it.

    A server whose AUTH was renamed, for example, repeats the password in its error.
    """
    from valkey import exceptions  # noqa: PLC0415  # optional package

    for kind, reason in _REFUSALS.items():
        if isinstance(error, getattr(exceptions, kind)):
            return reason
    if isinstance(error, exceptions.ResponseError):
        code = _CODE.match(str(error))
        return f"it refuses the command{f' ({code.group()})' if code else ''}; see its log"
    return str(error).partition("\n")[0][:200] or type(error).__name__
