"""What several brokers share: a data directory or PostgreSQL, and Valkey; and how each part fails.

The engines are those of `tools.engines`, each in a directory of its own.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol, Self

import psycopg
from psycopg import conninfo, sql

from tools.engines.postgres import Postgres
from tools.engines.processes import EngineError
from tools.engines.valkey import Valkey
from tools.torture.balancer import Place
from tools.torture.broker import CHECKOUT, BrokerFailed, Site, own_environment

ROLE: Final = "verdictd"
OWNER: Final = "verdictd_owner"
_BLOCK: Final = 65_536
_STARTS: Final = 5


class SharedStore(Protocol):
    """A store that several brokers use."""

    @property
    def bound(self) -> float:
        """Seconds for which an old policy may decide after its successor was acknowledged."""
        ...

    @property
    def places(self) -> Sequence[Place]:
        """Where each broker runs."""
        ...

    @property
    def trails(self) -> Sequence[Path]:
        """The data directories with audit trails."""
        ...

    @property
    def restarts(self) -> int:
        """How often its engine was restarted."""
        ...

    async def restart(self) -> None:
        """Let its engine crash and start again; nothing if it has none."""
        ...

    def cut_off(self, number: int) -> AbstractAsyncContextManager[None]:
        """Cut the broker of a number off until the context ends; nothing without an engine."""
        ...

    async def heads(self, trail: Path) -> Path | None:
        """Return a log of the audit heads that the store has of a broker; None without one."""
        ...


class DirectoryStore:
    """One data directory for all brokers."""

    bound = 0.0
    restarts = 0

    def __init__(self, site: Site, brokers: int, sessions: str) -> None:
        self.places = [Place(site, ("--kbs-sessions", sessions)) for _ in range(brokers)]
        self.trails = [site.data]

    async def restart(self) -> None:
        """A directory has no engine."""

    @asynccontextmanager
    async def cut_off(self, number: int) -> AsyncIterator[None]:
        """A directory is not cut off."""
        del number
        yield

    async def heads(self, trail: Path) -> None:
        """Return None: a directory has only the trail itself."""
        del trail


class PostgresStore:
    """A database, and a data directory for each broker, which connects through a relay.

    It is made as docs/postgresql.md describes: roles, schema, tables, and a copy of the site.
    """

    bound = 10.0  # docs/postgresql.md, "When changes take effect"

    def __init__(self, site: Site, engine: Postgres, superuser: str) -> None:
        self._site = site
        self._engine = engine
        self._parameters = {k: str(v) for k, v in conninfo.conninfo_to_dict(superuser).items()}
        self._password = site.directory / "database-password"
        self._kek = site.directory / "kek"
        self._relays: list[Relay] = []
        self.places: list[Place] = []
        self.trails: list[Path] = []
        self.restarts = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, site: Site, brokers: int, sessions: str) -> AsyncIterator[Self]:
        """Start the engine, move the site into it, and make the places of the brokers.

        Args:
            sessions: URL for `--kbs-sessions`; empty for the database itself.

        Raises:
            Missing: PostgreSQL is not installed.
            BrokerFailed: a command of the set-up has failed.
        """
        engine = Postgres(site.directory / "postgres")
        async with AsyncExitStack() as stack:
            stack.callback(engine.remove)
            variables = await asyncio.to_thread(engine.start)
            store = cls(site, engine, variables["ENGINES_POSTGRES"])
            await store._make()
            for number in range(brokers):
                relay = await stack.enter_async_context(Relay.to(store._port))
                store._relays.append(relay)
                store._add_place(number, store._url(ROLE, relay.port), sessions)
            yield store

    async def restart(self) -> None:
        """Stop the server as a crash would, and start it again."""
        await asyncio.to_thread(self._engine.stop, "immediate")
        for left in reversed(range(_STARTS)):
            try:
                await asyncio.to_thread(self._engine.start)
                break
            except EngineError:  # its port may be that of a client's connection for a moment
                if not left:
                    raise
                await asyncio.sleep(1)
        self.restarts += 1

    @asynccontextmanager
    async def cut_off(self, number: int) -> AsyncIterator[None]:
        """Let nothing pass between a broker and the database; its connections stay open."""
        relay = self._relays[number]
        relay.stall()
        try:
            yield
        finally:
            relay.resume()

    async def heads(self, trail: Path) -> Path | None:
        """Return a log of the heads that the database has of the broker of a trail.

        There may be none: they are stored some seconds after each start.
        """
        broker = await asyncio.to_thread((trail / "postgres" / "broker-id").read_text)
        lines = await self._store("heads", *self._access(ROLE), "--broker", broker.strip())
        if not lines:
            return None
        log = trail / "heads.log"
        await asyncio.to_thread(log.write_text, lines)
        return log

    @property
    def _port(self) -> int:
        return int(self._parameters["port"])

    def _url(self, user: str, port: int) -> str:
        authority = self._parameters["sslrootcert"]
        return (
            f"postgresql://{user}@127.0.0.1:{port}/verdictd"
            f"?sslmode=verify-full&sslrootcert={authority}"
        )

    def _access(self, user: str) -> tuple[str, ...]:
        url = self._url(user, self._port)
        return ("--store", url, "--store-password-file", str(self._password))

    async def _make(self) -> None:
        """Make roles, schema and tables, and copy the data directory of the site."""
        password = secrets.token_hex(16)
        self._password.touch(mode=0o600)
        self._password.write_text(password)
        script = await self._store("schema")
        await asyncio.to_thread(self._make_roles, script, password)
        await self._store("migrate", *self._access(OWNER))
        await self._store("new-key", str(self._kek))
        url = self._url(ROLE, self._port)
        files = ("--seal", f"file:{self._kek}", "--store-password-file", str(self._password))
        await self._store("copy", "--from", str(self._site.data), "--to", url, *files)

    def _make_roles(self, script: str, password: str) -> None:
        with psycopg.connect(**self._parameters, autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute("CREATE DATABASE verdictd")
        parameters = {**self._parameters, "dbname": "verdictd"}
        with psycopg.connect(**parameters, autocommit=True) as connection:  # type: ignore[arg-type]
            connection.execute(script.encode())
            for role in (OWNER, ROLE):
                connection.execute(
                    sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                        sql.Identifier(role), sql.Literal(password)
                    )
                )

    def _add_place(self, number: int, url: str, sessions: str) -> None:
        data = self._site.directory / f"broker-{number}"
        data.mkdir(mode=0o700)
        options = (
            *("--store", url, "--store-password-file", str(self._password)),
            *("--seal", f"file:{self._kek}", "--kbs-sessions", sessions or url),
        )
        self.places.append(Place(replace(self._site, data=data), options))
        self.trails.append(data)

    async def _store(self, *words: str) -> str:
        """Run `verdictd-py store` and return its output."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "verdictd_py.cli.main", "store", *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=CHECKOUT,
            env=own_environment(),
        )
        output, errors = await process.communicate()
        if process.returncode != 0:
            raise BrokerFailed(f"verdictd-py store {words[0]}: {errors.decode().strip()}")
        return output.decode()


class Relay:
    """Passes connections on to a port of this host, unless it is stalled.

    A stalled relay accepts connections and passes nothing on, as a network that loses all packets.

    Attributes:
        port: where it listens, at 127.0.0.1.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._open = asyncio.Event()
        self._open.set()
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    @classmethod
    @asynccontextmanager
    async def to(cls, target: int) -> AsyncIterator[Self]:
        """Run a relay to a port until the context ends."""
        relay = cls(target)
        server = await asyncio.start_server(relay._connected, "127.0.0.1", 0)
        relay.port = server.sockets[0].getsockname()[1]
        try:
            yield relay
        finally:
            server.close()
            for task in relay._connections:
                task.cancel()
            await asyncio.gather(*relay._connections, return_exceptions=True)

    def stall(self) -> None:
        """Pass nothing on from now on."""
        self._open.clear()

    def resume(self) -> None:
        """Pass on what has arrived meanwhile, and what will."""
        self._open.set()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # asyncio runs it as a task
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        try:
            await self._open.wait()
            with suppress(OSError):
                theirs = await asyncio.open_connection("127.0.0.1", self._target)
                try:
                    await self._pass_on((reader, writer), theirs)
                finally:
                    theirs[1].close()
        finally:
            writer.close()

    async def _pass_on(
        self,
        ours: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        theirs: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Pass bytes on in both directions until one side ends."""
        directions = [
            asyncio.ensure_future(self._pump(ours[0], theirs[1])),
            asyncio.ensure_future(self._pump(theirs[0], ours[1])),
        ]
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while block := await reader.read(_BLOCK):
                await self._open.wait()
                writer.write(block)
                await writer.drain()


class Sessions:
    """A Valkey with the sessions of all brokers.

    Attributes:
        url: for `--kbs-sessions`.
    """

    def __init__(self, engine: Valkey, directory: Path, url: str) -> None:
        self._engine = engine
        parameters = url.removeprefix("valkey://:")
        self._password, _, address = parameters.partition("@")
        self._port = int(address.partition("/")[0].rpartition(":")[2])
        self.url = f"valkey://{address}?password_file={directory / 'password'}"
        self.flushes = self.kills = 0

    @classmethod
    @asynccontextmanager
    async def running(cls, directory: Path) -> AsyncIterator[Self]:
        """Run a server until the context ends.

        Raises:
            Missing: neither Valkey nor redis is installed.
        """
        engine = Valkey(directory)
        try:
            variables = await asyncio.to_thread(engine.start)
            yield cls(engine, directory, variables["ENGINES_VALKEY"])
        finally:
            engine.remove()

    async def flush(self) -> None:
        """Remove all sessions.

        Raises:
            BrokerFailed: Valkey does not answer.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            writer.write(f"AUTH {self._password}\r\nFLUSHALL\r\n".encode())
            answers = [await reader.readline() for _ in range(2)]
        finally:
            writer.close()
        if answers != [b"+OK\r\n"] * 2:
            raise BrokerFailed(f"Valkey is not flushed: {answers}")
        self.flushes += 1

    async def restart(self) -> None:
        """Kill it, and start it again."""
        await asyncio.to_thread(self._engine.stop, signal.SIGKILL)
        self.kills += 1
        await asyncio.to_thread(self._engine.start)
