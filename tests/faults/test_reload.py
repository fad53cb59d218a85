"""SIGHUP: what is read again, what a bad file changes (nothing), and the one line about it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.support.broker import RunningBroker, running_broker
from tests.support.certificates import ROLES, Certificates
from tests.support.clock import until
from tests.support.command import running_daemon
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.config import Settings
from verdictd_py.daemon.readiness import Readiness
from verdictd_py.daemon.reload import LIVE, LiveSettings
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import admission
from verdictd_py.listeners.deadlines import Deadlines
from verdictd_py.protocols.rcar.admins import AdminKey, AdminKeys, Role
from verdictd_py.simulator import SimulatedPlatform
from verdictd_py.storage.digests import DigestLog


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path)


@pytest.fixture
def broker_settings(certificates: Certificates, request: pytest.FixtureRequest) -> dict[str, Any]:
    return certificates.settings


class Administrator:
    """Client of the management API on one open connection."""

    def __init__(self, broker: RunningBroker, credentials: grpc.ChannelCredentials) -> None:
        # Its own connections: gRPC otherwise shares one among equal channels.
        options = [("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.aio.secure_channel(broker.client_api, credentials, options)
        self.call = self.channel.unary_unary(
            "/verdictd.v1.KeyService/ListKeys", v1.ListKeysRequest.SerializeToString, None
        )

    async def status(self) -> grpc.StatusCode:
        try:
            await self.call(v1.ListKeysRequest(), timeout=120)
        except grpc.aio.AioRpcError as error:
            return error.code()
        return grpc.StatusCode.OK

    async def __aenter__(self) -> Administrator:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.channel.close(None)


async def test_a_removed_administrator_loses_all_rights_on_an_open_connection(
    broker: RunningBroker, certificates: Certificates
) -> None:
    roles = certificates.settings["client_api_roles"]
    credentials = certificates.credentials(certificates.ca.issue_cert("boss.example"))
    async with Administrator(broker, credentials) as boss:
        assert await boss.status() is grpc.StatusCode.OK
        roles.write_text(ROLES.replace('"boss.example" = "admin"\n', ""))
        await broker.daemon.reload()
        assert await boss.status() is grpc.StatusCode.PERMISSION_DENIED
        assert broker.events.named("daemon.reloaded") == [
            {"changed": ("role of boss.example: removed, was admin",)}
        ]
        roles.write_text(ROLES)
        await broker.daemon.reload()
        assert await boss.status() is grpc.StatusCode.OK


async def test_an_administrator_who_is_removed_during_a_call_changes_nothing(
    broker: RunningBroker, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The call is admitted, then the role is removed, then its message arrives."""
    admitted: list[object] = []
    message = admission._message

    async def noticed(context: object, arrivals: Deadlines) -> object:
        admitted.append(context)
        return await message(context, arrivals)

    monkeypatch.setattr(admission, "_message", noticed)
    credentials = certificates.credentials(certificates.ca.issue_cert("boss.example"))
    certificates.settings["client_api_roles"].write_text("[roles]\n")
    async with grpc.aio.secure_channel(broker.client_api, credentials) as channel:
        call = channel.stream_unary(
            "/verdictd.v1.KeyService/CreateKey", v1.CreateKeyRequest.SerializeToString, None
        )(None)
        await until(lambda: admitted)
        await broker.daemon.reload()
        await call.write(v1.CreateKeyRequest(name="a/b/c"))
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.PERMISSION_DENIED
    assert not (broker.data / "keys" / "a").exists()


@pytest.mark.parametrize("content", ["[roles", "[roles]\nops = 'king'\n", None], ids=str)
async def test_a_bad_file_of_roles_changes_nothing_and_is_reported(
    broker: RunningBroker, certificates: Certificates, content: str | None
) -> None:
    roles = certificates.settings["client_api_roles"]
    credentials = certificates.credentials(certificates.ca.issue_cert("boss.example"))
    if content is None:
        roles.unlink()
    else:
        roles.write_text(content)
    await broker.daemon.reload()
    async with Administrator(broker, credentials) as boss:
        assert await boss.status() is grpc.StatusCode.OK
    (warning,) = broker.events.named("warning.reload")
    assert warning["changed"] == ()
    assert str(roles) in str(warning["problems"])
    assert "the old content stays in force" in str(warning["problems"])
    assert not broker.events.named("daemon.reloaded")


async def test_a_new_certificate_is_served_to_new_connections(
    broker: RunningBroker, certificates: Certificates
) -> None:
    """The new one has another issuer, and the old connection goes on."""
    boss = certificates.ca.issue_cert("boss.example")
    other = Certificates(trustme.CA(), {})
    renewed = other.ca.issue_cert("127.0.0.1")
    trusting = grpc.ssl_channel_credentials(
        other.ca.cert_pem.bytes(),
        boss.private_key_pem.bytes(),
        boss.cert_chain_pems[0].bytes(),
    )
    async with Administrator(broker, certificates.credentials(boss)) as old:
        assert await old.status() is grpc.StatusCode.OK
        certificates.settings["client_api_cert"].write_bytes(renewed.cert_chain_pems[0].bytes())
        certificates.settings["client_api_key"].write_bytes(renewed.private_key_pem.bytes())
        await broker.daemon.reload()
        async with Administrator(broker, trusting) as new:
            assert await new.status() is grpc.StatusCode.OK
        assert await old.status() is grpc.StatusCode.OK
    (reloaded,) = broker.events.named("daemon.reloaded")
    assert "certificate of the client API: now SHA-256 " in str(reloaded["changed"])


async def test_a_replaced_ca_ends_the_rights_of_its_open_connections(
    broker: RunningBroker, certificates: Certificates
) -> None:
    other = trustme.CA()
    async with (
        Administrator(
            broker, certificates.credentials(certificates.ca.issue_cert("boss.example"))
        ) as old,
        Administrator(broker, certificates.credentials(other.issue_cert("boss.example"))) as new,
    ):
        assert await old.status() is grpc.StatusCode.OK
        certificates.settings["client_api_ca"].write_bytes(other.cert_pem.bytes())
        await broker.daemon.reload()
        assert await old.status() is grpc.StatusCode.PERMISSION_DENIED
        assert await new.status() is grpc.StatusCode.OK
        both = certificates.ca.cert_pem.bytes() + other.cert_pem.bytes()
        certificates.settings["client_api_ca"].write_bytes(both)
        await broker.daemon.reload()
        assert await old.status() is await new.status() is grpc.StatusCode.OK


async def test_a_restored_ca_does_not_restore_the_rights_of_another_one(
    broker: RunningBroker, certificates: Certificates
) -> None:
    """The connection was made while a wrong CA was in force, and was idle until that was fixed."""
    first, other = certificates.ca.cert_pem.bytes(), trustme.CA()
    file = certificates.settings["client_api_ca"]
    file.write_bytes(other.cert_pem.bytes())
    await broker.daemon.reload()
    wrong = certificates.credentials(other.issue_cert("boss.example"))
    async with Administrator(broker, wrong) as intruder:
        await intruder.channel.channel_ready()
        file.write_bytes(first)
        await broker.daemon.reload()
        assert await intruder.status() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_failing_check_of_documents_does_not_keep_an_administrator_in_office(
    broker: RunningBroker, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(readiness: Readiness) -> None:
        raise OSError

    monkeypatch.setattr(Readiness, "refresh", fail)
    certificates.settings["client_api_roles"].write_text('[roles]\nfarm = "wrap"\n')
    with pytest.raises(OSError):  # noqa: PT011  # whichever
        await broker.daemon.reload()
    credentials = certificates.credentials(certificates.ca.issue_cert("boss.example"))
    async with Administrator(broker, credentials) as boss:
        assert await boss.status() is grpc.StatusCode.PERMISSION_DENIED
    assert broker.events.named("daemon.reloaded")


async def test_a_bad_certificate_does_not_keep_an_administrator_in_office(
    broker: RunningBroker, certificates: Certificates
) -> None:
    certificates.settings["client_api_cert"].write_text("garbage")
    certificates.settings["client_api_roles"].write_text('[roles]\nfarm = "wrap"\n')
    await broker.daemon.reload()
    (warning,) = broker.events.named("warning.reload")
    assert warning["changed"] == (
        "role of boss.example: removed, was admin",
        "role of ops: removed, was operator",
    )
    assert len(warning["problems"]) == 1  # type: ignore[arg-type]  # a list
    credentials = certificates.credentials(certificates.ca.issue_cert("boss.example"))
    async with Administrator(broker, credentials) as boss:
        assert await boss.status() is grpc.StatusCode.PERMISSION_DENIED


def writable(broker: RunningBroker, certificates: Certificates) -> None:
    """Let other users write a file of the settings, not that of the roles."""
    certificates.settings["client_api_cert"].chmod(0o666)


def unrecorded(broker: RunningBroker, certificates: Certificates) -> None:
    """Let the audit trail be missing, so that the change of the file cannot be recorded."""
    (broker.data / "audit").rename(broker.data / "gone")


REFUSALS = pytest.mark.parametrize("refuse", [writable, unrecorded])
Refuse = Callable[[RunningBroker, Certificates], None]


@REFUSALS
async def test_rights_that_were_removed_end_even_if_the_reload_is_refused(
    broker: RunningBroker, certificates: Certificates, refuse: Refuse
) -> None:
    """Rights that were added wait. One line reports both."""
    credentials = certificates.credentials(certificates.ca.issue_cert("boss.example"))
    others = certificates.credentials(certificates.ca.issue_cert("ops"))
    new = certificates.credentials(certificates.ca.issue_cert("new"))
    refuse(broker, certificates)
    certificates.settings["client_api_roles"].write_text(
        '[roles]\nfarm = "operator"\nops = "wrap"\nnew = "admin"\n'
    )
    await broker.daemon.reload()
    for caller in (credentials, others, new):
        async with Administrator(broker, caller) as boss:
            assert await boss.status() is grpc.StatusCode.PERMISSION_DENIED
    (warning,) = broker.events.named("warning.reload")
    assert warning["changed"] == (
        "role of boss.example: removed, was admin",
        "role of ops: operator, now wrap",
    )
    assert "rights that were removed have ended" in str(warning["problems"])
    assert len(warning["problems"]) == 1  # type: ignore[arg-type]  # a list
    certificates.settings["client_api_cert"].chmod(0o600)
    if refuse is unrecorded:
        (broker.data / "gone").rename(broker.data / "audit")
    await broker.daemon.reload()
    assert broker.events.named("daemon.reloaded") == [
        {"changed": ("role of farm: wrap, now operator", "role of new: added, admin")}
    ]
    async with Administrator(broker, new) as boss:
        assert await boss.status() is grpc.StatusCode.OK


@REFUSALS
async def test_a_ca_that_was_removed_ends_the_rights_of_its_clients_even_then(
    broker: RunningBroker, certificates: Certificates, refuse: Refuse
) -> None:
    file, other = certificates.settings["client_api_ca"], trustme.CA()
    both = certificates.ca.cert_pem.bytes() + other.cert_pem.bytes()
    file.write_bytes(both)
    await broker.daemon.reload()
    refuse(broker, certificates)
    async with (
        Administrator(
            broker, certificates.credentials(certificates.ca.issue_cert("boss.example"))
        ) as first,
        Administrator(broker, certificates.credentials(other.issue_cert("boss.example"))) as second,
    ):
        file.write_bytes(other.cert_pem.bytes())
        await broker.daemon.reload()
        assert await first.status() is grpc.StatusCode.PERMISSION_DENIED
        assert await second.status() is grpc.StatusCode.OK
        third = trustme.CA().cert_pem.bytes()
        file.write_bytes(third)
        await broker.daemon.reload()
        file.write_bytes(both + third)
        await broker.daemon.reload()
        assert await second.status() is grpc.StatusCode.PERMISSION_DENIED
    assert [warning["changed"] for warning in broker.events.named("warning.reload")] == [
        ("CA of client certificates: replaced",),
        ("CA of client certificates: replaced",),
        (),
    ]


async def test_rights_end_while_the_disk_of_the_audit_trail_does_not_answer(
    broker: RunningBroker, certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording = asyncio.Event()

    async def hang(digests: object, read: object) -> None:
        recording.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(DigestLog, "observe", hang)
    certificates.settings["client_api_roles"].write_text("[roles]\n")
    reload = asyncio.create_task(broker.daemon.reload())
    credentials = certificates.credentials(certificates.ca.issue_cert("boss.example"))
    await recording.wait()
    async with Administrator(broker, credentials) as boss:
        assert await boss.status() is grpc.StatusCode.PERMISSION_DENIED
    reload.cancel()


KEY = ed25519.Ed25519PrivateKey.generate().public_key()
ADMIN = AdminKey("a", KEY, frozenset({Role.ADMIN, Role.OPERATOR}), Role.OPERATOR, "x/")


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (ADMIN, ADMIN),
        (replace(ADMIN, name="b"), None),
        (replace(ADMIN, key=ed25519.Ed25519PrivateKey.generate().public_key()), None),
        (replace(ADMIN, roles=frozenset()), replace(ADMIN, roles=frozenset())),
        (replace(ADMIN, roles=frozenset(), default_role=None), None),
        (replace(ADMIN, roles=frozenset(Role)), ADMIN),
        (replace(ADMIN, default_role=Role.ADMIN), ADMIN),
        (replace(ADMIN, default_role=Role.REGISTER), replace(ADMIN, default_role=Role.REGISTER)),
        (replace(ADMIN, default_role=None), replace(ADMIN, default_role=None)),
        (replace(ADMIN, prefix=""), ADMIN),
        (replace(ADMIN, prefix="x/y/"), replace(ADMIN, prefix="x/y/")),
        (replace(ADMIN, prefix="z/"), None),
    ],
)
def test_an_administrator_over_http_keeps_the_rights_of_both_files(
    new: AdminKey, expected: AdminKey | None
) -> None:
    lessened = AdminKeys((ADMIN,)).lessened(AdminKeys((new,)))
    assert lessened.keys == (() if expected is None else (expected,))


class TestSettings:
    def live(self, *files: dict[str, Any]) -> tuple[LiveSettings, list[Settings]]:
        texts = list(files)
        applied: list[Settings] = []

        def read() -> Settings:
            found = Settings(**texts.pop(0))
            if found.listen == "127.0.0.1:9":
                raise ConfigError("bad")
            return found

        return LiveSettings(Settings(), read, applied.append), applied

    def test_limits_take_effect_and_other_settings_wait_for_a_restart(self) -> None:
        live, applied = self.live(
            {"idle_timeout": 5, "listen": "127.0.0.1:7"}, {"listen": "127.0.0.1:9"}, {}
        )
        assert live.reload() == (
            "listen: in force after a restart",
            "idle_timeout: 300.0, now 5.0",
        )
        assert [(each.idle_timeout, each.listen) for each in applied] == [(5, "127.0.0.1:1234")]
        with pytest.raises(ConfigError):
            live.reload()
        assert live.reload() == ("idle_timeout: 5.0, now 300.0",)

    def test_limits_that_cannot_be_applied_are_not_in_force(self) -> None:
        def refuse(settings: Settings) -> None:
            raise ConfigError("too few descriptors")

        live = LiveSettings(Settings(), lambda: Settings(max_connections=7), refuse)
        for _ in range(2):
            with pytest.raises(ConfigError):
                live.reload()

    def test_the_limits_are_known(self) -> None:
        timeouts = {name for name in Settings.model_fields if name.endswith("_timeout")}
        maxima = {name for name in Settings.model_fields if name.startswith("max_")}
        assert set(LIVE) == timeouts | maxima


async def test_new_limits_are_those_of_the_listeners(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    values: dict[str, Any] = {}

    async with running_broker(
        tmp_path, platform, kbs_http="127.0.0.1:0", reread=lambda settings: {**settings, **values}
    ) as broker:
        values.update(
            handshake_timeout=61,
            appraisal_timeout=62,
            request_timeout=63,
            idle_timeout=64,
            drain_timeout=65,
            max_connections=66,
            max_evidence_age=67,
            max_new_keys_per_minute=68,
        )
        await broker.daemon.reload()
        limits = broker.attested._limits
        assert limits is broker.kbs._limits is broker.daemon._parts.limits
        times = (limits.handshake, limits.appraisal, limits.request, limits.idle, limits.drain)
        assert times == (61, 62, 63, 64, 65)
        assert limits.connections == 66
        assert limits.evidence_age is not None
        assert limits.evidence_age.seconds == 67
        assert broker.attested._guests.appraiser.seconds == 62
        (reloaded,) = broker.events.named("daemon.reloaded")
        assert len(reloaded["changed"]) == 8  # type: ignore[arg-type]  # a list


def test_a_hangup_reads_the_file_of_settings_again(tmp_path: Path) -> None:
    """One line for each SIGHUP: what changed, or why nothing did."""
    config = tmp_path / "config.toml"
    config.write_text("idle_timeout = 100\n")
    arguments = ("--config", str(config), "--data-dir", str(tmp_path / "data"))
    more = ("--listen", "127.0.0.1:0", "--client-api", f"unix:{tmp_path}/api")
    with running_daemon(*arguments, *more, "--collateral-url", "") as daemon:
        daemon.wait_for("daemon.started")
        steps: list[tuple[str, str, Callable[[dict[str, Any]], object], object]] = [
            ("idle_timeout = 50\n", "daemon.reloaded", lambda found: found["changed"],
             ["idle_timeout: 100.0, now 50.0"]),
            ("idle_timeout = 50\n", "daemon.reloaded", lambda found: found["changed"], []),
            ("idle_timeout = 0\n", "warning.reload",
             lambda found: "idle_timeout in" in found["problems"][0], True),
            ("idle", "warning.reload",
             lambda found: "is not valid TOML" in found["problems"][0], True),
        ]  # fmt: skip
        for content, event, value, expected in steps:
            config.write_text(content)
            daemon.send(signal.SIGHUP)
            assert value(daemon.wait_for(event)) == expected
        assert daemon.end(signal.SIGTERM)[0] == 0
