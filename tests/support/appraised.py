"""Many guests, each with fresh evidence and a secret, of a broker in a process of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.broker import KEY, KID
from tests.support.channel import answer, encoded
from tests.support.channel import send_records as send
from tests.support.command import RunningDaemon, port_of, running_daemon
from tests.support.kbs import PATH
from tests.support.rcar_guests import connected, tdx_guest
from verdictd_py import daemon as app
from verdictd_py.guest.attesters import SimulatedAttester, guest_context
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import SimulatedPlatform, collateral_json

AT_ONCE = 4


@dataclass
class BrokerProcess:
    """A broker, and the ports of both protocols."""

    daemon: RunningDaemon
    platform: SimulatedPlatform
    listen: int
    http: int

    @property
    def resident_bytes(self) -> int:
        """Memory of the process, without pages of files."""
        status = Path(f"/proc/{self.daemon.process.pid}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("RssAnon:"))
        return int(line.split()[1]) * 1024

    async def rats_tls(self) -> None:
        """Appraise a guest, and release a key to it."""
        attester = SimulatedAttester(self.platform)
        context = guest_context(attester, Form.CURRENT, now=app.utc_now())
        async with GuestConnection.open(
            "127.0.0.1", self.listen, context, timeout_seconds=120
        ) as guest:
            await send(guest, encoded({"command": "Get KEK", "kids": [KID]}))
            assert (await answer(guest))["status"] == "OK"

    async def rcar(self) -> None:
        """Appraise a guest over HTTP, and release a resource to it."""
        url = f"http://127.0.0.1:{self.http}"
        async with connected(url, tdx_guest(self.platform)) as session:
            await session.resource(PATH)

    async def guests(self, protocol: str, number: int) -> None:
        """Serve so many guests of `rats_tls` or `rcar`, some at a time."""
        serve = getattr(self, protocol)
        left = iter(range(number))

        async def some() -> None:
            for _ in left:
                await serve()

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))


@contextmanager
def broker_process(directory: Path) -> Iterator[BrokerProcess]:
    """Start a broker that trusts a simulated platform; its log is discarded."""
    now = app.utc_now()
    platform = SimulatedPlatform.create(now=now)
    root, collateral = directory / "root.pem", directory / "collateral.json"
    root.write_text(platform.root_ca_pem)
    collateral.write_text(collateral_json(platform.collateral(now)))
    resource = directory / "data" / "resources" / "default" / "key" / "1"
    resource.parent.mkdir(mode=0o700, parents=True)
    resource.write_bytes(b"secret")
    (directory / "data" / "keys").mkdir(mode=0o700)
    (directory / "data" / "keys" / KID).write_bytes(KEY)
    files = ("--data-dir", str(directory / "data"), "--collateral", str(collateral))
    addresses = ("--listen", "127.0.0.1:0", "--kbs-http", "127.0.0.1:0")
    api = ("--client-api", f"unix:{directory}/api", "--collateral-url", "")
    # In a file: in memory, each session of the last five minutes takes 5.5 KB.
    key = ec.generate_private_key(ec.SECP256R1())
    (directory / "token.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    sessions = ("--kbs-sessions", f"{directory}/sessions", "--kbs-token-key")
    more = (*sessions, f"{directory}/token.key", "--unsafe-tdx-root-ca", str(root))
    # One heap for all threads: a heap for each takes thousands of guests until it stops growing.
    with running_daemon(*files, *addresses, *api, *more, MALLOC_ARENA_MAX="1") as daemon:
        started = daemon.wait_for("daemon.started")
        ports = (port_of(started[name]) for name in ("listen", "kbs_http"))
        yield BrokerProcess(daemon, platform, *ports)
