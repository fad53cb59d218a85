"""Names, policies and logins in a real OpenBao, and servers that answer as a broken one."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import ssl
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.support.clock import elapse
from tests.support.engines import OpenBaoAddress
from tests.support.secretfiles import write_secret


class Engine:
    """The API of an OpenBao with the root token, as an operator's tools use it."""

    def __init__(self, address: OpenBaoAddress, directory: Path) -> None:
        self.address = address
        self._directory = directory
        self._context = ssl.create_default_context(cafile=str(address.authority))

    def call(
        self, method: str, path: str, body: Mapping[str, object] | None = None
    ) -> dict[str, Any]:
        """Call the API; return the answer, `{}` if it is empty."""
        request = urllib.request.Request(  # noqa: S310  # https, from `./dev engines`
            f"{self.address.url}/v1/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"X-Vault-Token": self.address.token_file.read_text()},
        )
        with urllib.request.urlopen(request, context=self._context) as answer:  # noqa: S310
            text = answer.read()
        answered: dict[str, Any] = json.loads(text) if text else {}
        return answered

    def transit_key(self, **settings: object) -> str:
        """Create a key of Transit; return its name."""
        name = f"kek-{secrets.token_hex(6)}"
        self.call("POST", f"transit/keys/{name}", {"type": "aes256-gcm96", **settings})
        return name

    def rotate(self, name: str) -> None:
        """Add a version to a key."""
        self.call("POST", f"transit/keys/{name}/rotate", {})

    def retire(self, name: str) -> None:
        """Refuse every version of a key but the newest."""
        latest = self.call("GET", f"transit/keys/{name}")["data"]["latest_version"]
        self.call("POST", f"transit/keys/{name}/config", {"min_decryption_version": latest})

    def policy(self, *rules: str) -> str:
        """Create a policy of lines `PATH CAPABILITY,...`; return its name."""
        name = f"policy-{secrets.token_hex(6)}"
        lines = []
        for path, _, capabilities in (rule.partition(" ") for rule in rules):
            quoted = ", ".join(f'"{each}"' for each in capabilities.split(","))
            lines.append(f'path "{path}" {{ capabilities = [{quoted}] }}')
        self.call("POST", f"sys/policies/acl/{name}", {"policy": "\n".join(lines)})
        return name

    def token(self, policy: str, **settings: object) -> str:
        """Create a token; return it."""
        body = {"policies": [policy], "no_parent": True, **settings}
        return str(self.call("POST", "auth/token/create", body)["auth"]["client_token"])

    def file(self, name: str, text: str) -> Path:
        """Write a file of this test."""
        return write_secret(self._directory / name, text)

    def app_role(self, policy: str, **settings: object) -> tuple[str, Path]:
        """Create an AppRole; return its role id, and a file with a secret id."""
        name = f"role-{secrets.token_hex(6)}"
        path = f"auth/approle/role/{name}"
        self.call("POST", path, {"token_policies": [policy], **settings})
        role = self.call("GET", f"{path}/role-id")["data"]["role_id"]
        secret = self.call("POST", f"{path}/secret-id", {})["data"]["secret_id"]
        return role, self.file("secret-id", secret + "\n")

    def location(self, path: str, login: str = "") -> str:
        """Return a location for `--seal`; the login is that of the root token by default."""
        login = login or f"token-file={self.address.token_file}"
        return f"vault:{self.address.url}/{path}?ca={self.address.authority}&{login}"


def encoded(content: bytes) -> str:
    """Return base64 text."""
    return base64.b64encode(content).decode()


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(handle: Handler, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Serve connections at a port of loopback, and close all of them at the end."""
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            await handle(reader, writer)
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
            running.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        await elapse(0)  # the client's transports close in the next cycles


@asynccontextmanager
async def answering(*answers: bytes | None) -> AsyncIterator[str]:
    """Serve these raw answers, one a connection, the last one for ever; None: never answer.

    Yields the origin of the server.
    """
    left = list(answers)

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        answer = left[0] if len(left) == 1 else left.pop(0)
        if answer is None:
            await reader.read()
        else:
            writer.write(answer)
            await writer.drain()

    async with serving(handle) as port:
        yield f"http://127.0.0.1:{port}"


def answer(body: bytes | object, *, status: str = "200 OK", headers: str = "") -> bytes:
    """Return a raw answer of HTTP."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(content)}\r\nConnection: close\r\n{headers}"
    return head.encode() + b"\r\n" + content
