"""A broker whose guests are served by worker processes."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.broker import KEY, KID, RunningBroker, running_broker
from tests.support.clock import elapse
from tests.support.command import Run as Command
from tests.support.command import environment, port_of, run, running_daemon, wait_for_end
from tests.support.kbs import PATH, SECRET, running_kbs
from tests.support.kbs_admins import POLICY, AdminTokens
from tests.support.pccs import running_pccs
from tests.support.rcar_guests import attest, connected, tdx_guest
from tests.support.verdict import verdict
from verdictd_py.daemon.workers.pool import Workers
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.simulator import PlatformOptions, SimulatedPlatform, collateral_json

pytestmark = pytest.mark.broker(workers=2)

DENY = "package policy\n\ndefault allow = false\n"
"""Policy that refuses every guest."""


def records(data: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the records of the audit trail by the end of the file's name: `worker1`, or ''."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((data / "audit").glob("*.jsonl")):
        writer = path.stem.split("-")[2:]
        lines = path.read_text().splitlines()
        found.setdefault("".join(writer), []).extend(map(json.loads, lines))
    return found


def count(data: Path, event: str) -> Counter[str]:
    """Return the number of records of an event by writer."""
    return Counter(
        {
            writer: sum(record["event"] == event for record in written)
            for writer, written in records(data).items()
        }
    )


def pids(broker: RunningBroker) -> dict[int, int]:
    """Return the process of each worker, the last one of each number."""
    started = broker.events.named("worker.started")
    return {int(str(event["worker"])): int(str(event["pid"])) for event in started}


async def happening(condition: Callable[[], object]) -> None:
    """Wait until other processes have made a condition true; they need the cores meanwhile."""
    while not condition():  # noqa: ASYNC110  # there is no event
        await asyncio.sleep(0.05)


async def kek(guest: GuestConnection) -> bytes:
    return (await guest.keks([KID]))[KID].reveal()


@asynccontextmanager
async def guests_of_every_worker(broker: RunningBroker) -> AsyncIterator[list[GuestConnection]]:
    """Connect guests until each worker serves one; yield all of them."""
    async with AsyncExitStack() as stack:
        guests: list[GuestConnection] = []
        while len(+count(broker.data, "guest.accepted")) < 2:
            guests.append(await stack.enter_async_context(broker.guest()))
        yield guests


async def test_guests_are_served_by_all_workers(broker: RunningBroker) -> None:
    async def one() -> None:
        async with broker.guest() as guest:
            assert await kek(guest) == KEY

    guests, served = 0, Counter[str]()
    while len(served) < 2:
        await asyncio.gather(*(one() for _ in range(10)))
        guests += 10
        served = +count(broker.data, "secret.released")
    assert served.total() == guests


async def test_every_audit_file_verifies_and_names_its_writer(broker: RunningBroker) -> None:
    async with guests_of_every_worker(broker) as guests:
        assert await kek(guests[0]) == KEY
    await broker.daemon.stop()
    files = sorted((broker.data / "audit").glob("*.jsonl"))
    assert len(files) == 3
    verified = await asyncio.to_thread(run, Command(["audit", "verify", *map(str, files)]))
    assert verified.status == 0
    together = Command(["audit", "verify", str(broker.data / "audit")])
    assert (await asyncio.to_thread(run, together)).status == 0
    stopped = {str(event["file"]): event for event in broker.events.named("worker.stopped")}
    started = {str(event["file"]) for event in broker.events.named("worker.started")}
    for line in verified.stdout.decode().splitlines():
        path, _, text = line.partition(": ")
        name = f"audit/{Path(path).name}"
        if name in started:
            event = stopped.pop(name)
            assert text == f"{event['records']} records, digest {event['digest']}"
        else:
            names = {record["fields"].get("file") for record in records(broker.data)[""]}
            assert started <= names
    assert not stopped
    assert [name.rsplit("-", 1)[1] for name in sorted(started, key=lambda n: n[-7:])] == [
        "worker1.jsonl",
        "worker2.jsonl",
    ]


async def test_a_change_of_an_operator_decides_at_once_in_every_worker(
    broker: RunningBroker,
) -> None:
    async with guests_of_every_worker(broker) as guests:
        policy = broker.data.parent / "policy.rego"
        policy.write_text(DENY)
        ended = await verdict(broker, "policy", "set", "tdxPolicy.rego", str(policy))
        assert ended.status == 0, ended
        for guest in guests:
            with pytest.raises(BrokerRefused):
                await kek(guest)
    for _ in range(6):
        with pytest.raises(BrokerRefused):
            async with broker.guest() as guest:
                await kek(guest)
    assert count(broker.data, "secret.released").total() == 0


async def test_what_operators_announce_has_guests_of_every_worker_appraised_again(
    broker: RunningBroker,
) -> None:
    other = SimulatedPlatform.create(now=broker.now, options=PlatformOptions(fmspc="00606a000000"))
    async with guests_of_every_worker(broker) as guests:
        collateral = broker.data.parent / "collateral.json"
        collateral.write_text(collateral_json(other.collateral(broker.now)))
        broker.daemon._parts.reconsider()
        for guest in guests:
            with pytest.raises(BrokerRefused, match="not judged"):
                await kek(guest)


async def test_what_a_worker_announces_reaches_the_others(
    tmp_path: Path,
    platform: SimulatedPlatform,
    tokens: AdminTokens,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An administrator over HTTP changes a policy in one of them."""
    async with running_kbs(tmp_path, platform, workers=2, kbs_admins=tokens.file) as broker:
        origins: list[int] = []
        parts = broker.daemon._parts
        notify = Workers.notify_each

        def noting(self: Workers, name: str, body: Any = None, *, but: int | None = None) -> None:
            if name == "changed" and but is not None:
                origins.append(but)
            notify(self, name, body, but=but)

        monkeypatch.setattr(Workers, "notify_each", noting)
        examined: list[bool] = []
        monkeypatch.setattr(parts.readiness, "request", lambda: examined.append(True))
        url = f"{broker.daemon.listener('kbs_http').endpoint}/kbs/v0/resource-policy"
        headers = {"Authorization": f"Bearer {tokens.token('boss', 'admin')}"}
        policy = base64.urlsafe_b64encode(POLICY).decode().rstrip("=")
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.post(url, json={"policy": policy}, headers=headers)
            assert answer.status_code == 200
        await happening(lambda: origins and examined)
        (changer,) = set(origins)
        assert changer in (1, 2)


async def test_a_worker_that_is_killed_loses_only_its_own_connections(
    broker: RunningBroker,
) -> None:
    async with guests_of_every_worker(broker) as guests:
        os.kill(pids(broker)[1], signal.SIGKILL)
        await happening(lambda: broker.events.named("warning.worker"))
        results = await asyncio.gather(*map(kek, guests), return_exceptions=True)
        assert KEY in results
        assert [result for result in results if result != KEY]
        async with broker.guest() as another:
            assert await kek(another) == KEY
        await happening(lambda: len(broker.events.named("worker.started")) == 3)
    event = broker.events.named("warning.worker")[0]
    assert (event["worker"], event["reason"]) == (1, "it was ended by SIGKILL")
    status = json.loads((await verdict(broker, "status", "--json")).stdout)
    assert (status["workers"], status["workers_serving"]) == (2, 2)


async def test_a_worker_that_hangs_is_replaced(broker: RunningBroker) -> None:
    stopped = pids(broker)[2]
    os.kill(stopped, signal.SIGSTOP)

    def replaced() -> list[str]:
        events = broker.events.named("warning.worker")
        return [str(event["reason"]) for event in events if event["worker"] == 2]

    while not replaced():  # the clock moves so slowly that the other worker can answer
        await asyncio.sleep(0.02)
        await elapse(0.25)
    assert replaced()[0] == "its event loop did not answer for 30 s; it was killed"
    await happening(lambda: pids(broker)[2] != stopped)
    with pytest.raises(ProcessLookupError):
        os.kill(stopped, 0)


async def test_a_drain_serves_the_guests_of_every_worker(broker: RunningBroker) -> None:
    async with guests_of_every_worker(broker) as guests:
        stopping = asyncio.create_task(broker.daemon.stop())
        await happening(lambda: broker.events.named("daemon.stopping"))
        assert await asyncio.gather(*map(kek, guests)) == [KEY] * len(guests)
    await stopping
    assert len(broker.events.named("worker.stopped")) == 2
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(broker.address, 60)


@pytest.mark.parametrize("problem", [False, True])
async def test_a_reload_is_one_report_about_all_processes(
    tmp_path: Path, platform: SimulatedPlatform, problem: bool
) -> None:
    admins = tmp_path / "admins.toml"
    key = tmp_path / "ops.pub"
    public = Ed25519PrivateKey.generate().public_key()
    key.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    text = '[[key]]\nname = "{}"\npublic_key = "ops.pub"\ndefault_role = "operator"\n'
    admins.write_text(text.format("ops"))
    more: dict[str, Any] = {"kbs_admins": admins, "workers": 2}

    def changed(chosen: dict[str, Any]) -> dict[str, Any]:
        return {**chosen, "max_evidence_age": 0.001}

    async with running_kbs(tmp_path, platform, reread=changed, **more) as broker:
        admins.write_text("" if problem else text.format("new"))
        await broker.daemon.reload()
        if problem:
            (event,) = broker.events.named("warning.reload")
            assert "must have tables [[key]]" in str(event["problems"])
            assert len(event["problems"]) == 1  # type: ignore[arg-type]  # a tuple
        else:
            (event,) = broker.events.named("daemon.reloaded")
            assert "HTTP administrator new: added" in str(event["changed"])
        assert "max_evidence_age: None, now 0.001" in str(event["changed"])
        for _ in range(6):  # each worker has the new limit
            with pytest.raises(BrokerRefused):
                async with broker.guest() as guest:
                    await kek(guest)


async def test_removed_rights_end_in_every_worker_although_the_reload_is_refused(
    tmp_path: Path,
    platform: SimulatedPlatform,
    tokens: AdminTokens,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They end at once, whatever the rest of the reload waits for."""
    async with running_kbs(tmp_path, platform, workers=2, kbs_admins=tokens.file) as broker:
        url = f"{broker.daemon.listener('kbs_http').endpoint}/kbs/v0/resource-policy"
        headers = {"Authorization": f"Bearer {tokens.token('boss', 'admin')}"}

        async def status() -> int:
            async with httpx.AsyncClient(timeout=60) as client:
                return (await client.get(url, headers=headers)).status_code

        assert {await status() for _ in range(8)} == {200}
        text = tokens.file.read_text()
        tokens.file.write_text("[[key]]" + text.split("[[key]]", 2)[2])  # the first one is boss
        (tmp_path / "root.pem").chmod(0o666)
        deciding, proceed = broker.daemon._parts.deciding, asyncio.Event()
        prepare = deciding.prepare

        async def slow() -> None:
            await proceed.wait()
            await prepare()

        monkeypatch.setattr(deciding, "prepare", slow)
        reloading = asyncio.create_task(broker.daemon.reload())
        while {await status() for _ in range(8)} != {401}:
            pass
        assert not reloading.done()
        proceed.set()
        await reloading
        (event,) = broker.events.named("warning.reload")
        assert "can be changed by other users" in str(event["problems"])
        assert "HTTP administrator boss: removed" in str(event["changed"])


async def test_one_token_is_valid_for_every_worker(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    async with running_kbs(tmp_path, platform, workers=2) as broker:
        url = broker.daemon.listener("kbs_http").endpoint
        guest = tdx_guest(platform)
        async with connected(url, guest) as session:
            token = await attest(session)
        requests, released = 0, Counter[str]()
        while len(released) < 2:
            async with connected(url, guest, token=token) as session:
                assert (await session.resource(PATH)).reveal() == SECRET
            requests += 1
            released = +count(broker.data, "secret.released")
        assert released.total() == requests


async def test_every_worker_presents_the_same_certificate_and_the_state_of_the_whole(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    async with running_kbs(tmp_path, platform, workers=2, kbs_http="0.0.0.0:0") as broker:
        endpoint = broker.daemon.listener("kbs_http")
        assert endpoint.endpoint.startswith("https://0.0.0.0:")
        url = f"https://127.0.0.1:{endpoint.address.port}"

        async def state() -> tuple[int, dict[str, str], bytes]:
            async with httpx.AsyncClient(verify=False, timeout=60) as client:  # noqa: S501
                answer = await client.get(f"{url}/readyz")
                stream = answer.extensions["network_stream"]
                der = stream.get_extra_info("ssl_object").getpeercert(binary_form=True)
                return answer.status_code, answer.json(), der

        answers = [await state() for _ in range(12)]
        assert {status for status, _, _ in answers} == {200}
        assert len({der for _, _, der in answers}) == 1
        parts = answers[0][1]
        assert {"workers", "operators", "sessions", "policies", "serving"} <= parts.keys()
        assert set(parts.values()) == {"ok"}

        (broker.data / "opa" / "tdxPolicy.rego").write_text("package policy\nallow {{{")
        await broker.daemon._parts.readiness.refresh()
        await broker.daemon._parts.health.examine()
        answers = []
        while [status for status, _, _ in answers[-6:]] != [503] * 6:
            answers.append(await state())
        assert answers[-1][1]["policies"] == "failed"


async def test_collateral_is_fetched_once_for_all_workers(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    async with (
        running_pccs(platform) as pccs,
        running_broker(
            tmp_path, platform, workers=2, collateral=None, collateral_url=(pccs.url,)
        ) as broker,
    ):

        async def one() -> None:
            async with broker.guest() as guest:
                assert await kek(guest) == KEY

        while len(+count(broker.data, "secret.released")) < 2:
            await asyncio.gather(*(one() for _ in range(20)))
        assert pccs.asked
        assert set(pccs.asked.values()) == {1}


async def test_a_service_without_an_answer_is_queried_once_for_all_workers(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    async with (
        running_pccs(platform) as pccs,
        running_broker(
            tmp_path, platform, workers=2, collateral=None, collateral_url=(pccs.url,)
        ) as broker,
    ):
        pccs.change = lambda path, answer: type(answer)(500, {}, b"")
        for _ in range(8):
            async with broker.guest() as guest:
                with pytest.raises(BrokerRefused, match="not judged"):
                    await kek(guest)
        assert max(pccs.asked.values()) == 1


ARGUMENTS = ("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0", "--collateral-url", "")


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    words = (*ARGUMENTS, "--data-dir", str(tmp_path / "data"), "--workers", "2")
    with running_daemon(*words) as daemon:
        started = daemon.wait_for("daemon.started")
        assert started["workers"] == 2
        workers = [event["pid"] for event in daemon.seen if event["event"] == "worker.started"]
        assert len(workers) == 2
        for pid in workers:
            words_of_worker = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            assert words_of_worker[1:4] == [b"-P", b"-m", b"verdictd_py.cli.worker"]
            assert str(tmp_path).encode() not in b" ".join(words_of_worker)
        daemon.process.kill()
        for pid in workers:
            wait_for_end(pid)


def test_a_worker_ignores_the_signals_of_the_service(tmp_path: Path) -> None:
    """Terminals and service managers send them to every process of the service."""
    words = (*ARGUMENTS, "--data-dir", str(tmp_path / "data"), "--workers", "2")
    with running_daemon(*words) as daemon:
        started = daemon.wait_for("daemon.started")
        workers = [event["pid"] for event in daemon.seen if event["event"] == "worker.started"]
        for pid in workers:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(pid, number)
        daemon.send(signal.SIGUSR1)
        dumped = [daemon.wait_for("daemon.tasks") for _ in range(3)]
        assert {event.get("worker") for event in dumped} == {None, 1, 2}
        with socket.create_connection(("127.0.0.1", port_of(started["listen"])), timeout=60):
            pass
        daemon.send(signal.SIGHUP)
        daemon.wait_for("daemon.reloaded")
        assert daemon.end(signal.SIGTERM) == (0, "")
        names = [event["event"] for event in daemon.seen]
        assert names.count("worker.stopped") == 2
        assert names.count("audit.closed") == 3
        assert names.count("daemon.stopped") == 1
        assert "warning.worker" not in names
        assert "warning.bug" not in names


def test_a_setting_that_only_workers_use_prevents_the_start_with_one_line(tmp_path: Path) -> None:
    words = (*ARGUMENTS, "--data-dir", str(tmp_path / "data"), "--workers", "2")
    ended = run(
        Command([*words, "--kbs-http", "127.0.0.1:0", "--kbs-admins", str(tmp_path / "no")])
    )
    assert ended.status == 2
    last = ended.stderr.splitlines()[-1]
    assert last.startswith(f"verdictd-py: cannot read {tmp_path}/no: No such file")


HELD = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.dup2(int(sys.argv[2]), 4)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="listen:kbs_http")
sys.argv = ["verdictd-py", *sys.argv[3:]]
from verdictd_py.cli.main import main
sys.exit(main())
"""
"""Start the daemon with two sockets, as the service manager does."""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_no_connection_is_refused_while_the_broker_is_replaced(
    tmp_path: Path, platform: SimulatedPlatform, workers: str
) -> None:
    """The service manager holds the sockets; guests connect all the time, and all are served."""
    async with running_kbs(tmp_path, platform) as broker:  # writes root, collateral, a resource
        pass
    held = [socket.create_server(("127.0.0.1", 0), backlog=1024) for _ in range(2)]
    attested_at, http_at = (one.getsockname() for one in held)
    descriptors = [one.fileno() for one in held]
    words = (
        *("--data-dir", str(broker.data), "--client-api", "127.0.0.1:0", "--workers", workers),
        *("--unsafe-tdx-root-ca", str(tmp_path / "root.pem"), "--collateral-url", ""),
        *("--collateral", str(tmp_path / "collateral.json"), "--kbs-http", "127.0.0.1:1"),
    )

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", HELD, *map(str, descriptors), *words],
            pass_fds=descriptors,
            env=environment(),
        )

    served: Counter[str] = Counter()
    finished = asyncio.Event()

    async def attested_guest() -> None:
        host, port = attested_at
        context = broker.context(broker.attester())
        while not finished.is_set():
            async with GuestConnection.open(host, port, context, timeout_seconds=120) as guest:
                assert await kek(guest) == KEY
            served["listen"] += 1

    async def http_client() -> None:
        url = f"http://127.0.0.1:{http_at[1]}/kbs/v0/jwks"
        while not finished.is_set():
            async with httpx.AsyncClient(timeout=120) as client:
                assert (await client.get(url)).status_code == 200
            served["kbs_http"] += 1

    def more(than: Counter[str]) -> bool:
        return all(served[name] >= than[name] + 20 for name in ("listen", "kbs_http"))

    with held[0], held[1], ended(start()) as first:
        clients = [asyncio.create_task(client()) for client in [attested_guest, http_client] * 2]
        await until_served(clients, lambda: more(Counter()))
        first.terminate()
        assert await asyncio.to_thread(first.wait) == 0
        before = served.copy()
        with ended(start()) as second:
            await until_served(clients, lambda: more(before))
            finished.set()
            await asyncio.gather(*clients)
            second.terminate()
            assert await asyncio.to_thread(second.wait) == 0


@contextmanager
def ended(process: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """End a process after the block."""
    with process:
        try:
            yield process
        finally:
            process.kill()


async def until_served(clients: list[asyncio.Task[None]], condition: Callable[[], bool]) -> None:
    """Wait for a condition; fail as soon as a client has failed."""
    while not condition():
        done, _ = await asyncio.wait(clients, timeout=0.05)  # window: only a pause
        for client in done:
            client.result()
