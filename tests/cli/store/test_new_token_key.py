"""`verdictd-py store new-token-key`: brokers that run accept it, and what it records."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.events import RecordedEvents
from tests.support.sealed import sealed_objects
from tests.support.tees import PROVING
from verdictd_py import daemon as app
from verdictd_py.cli.main import main
from verdictd_py.daemon.tokenkeys import SharedTokenKeys
from verdictd_py.errors import SessionInvalid
from verdictd_py.protocols.rcar.challenges import LIFETIME
from verdictd_py.protocols.rcar.messages import Challenge
from verdictd_py.protocols.rcar.tokenring import MAX_KEYS, PUBLISH, RingKey, TokenRing
from verdictd_py.protocols.rcar.versions import Version
from verdictd_py.storage.layout import prepare
from verdictd_py.storage.tokenkeys import DirectoryTokenKeys

CHALLENGE = Challenge(Version.V0_4_0, "tdx", "nonce")


class Broker:
    """What a broker that runs has of the shared keys."""

    def __init__(self, data: Path, kek: Path | None = None) -> None:
        directory, _ = prepare(data, PROVING, sealed=kek is not None)
        objects = None if kek is None else sealed_objects(directory, kek)
        self.ring = TokenRing()
        self.keys = SharedTokenKeys(
            DirectoryTokenKeys(directory, objects),
            self.ring,
            lifetime=timedelta(days=30),
            clock=app.utc_now,
            events=RecordedEvents(),
        )

    def ids(self) -> list[str]:
        return [key["kid"] for key in self.ring.jwks()["keys"]]

    def seal(self, now: datetime) -> str:
        return self.ring.seal(CHALLENGE, session="s", now=now, expires=now + LIFETIME)

    def accepts(self, sealed: str, now: datetime) -> bool:
        try:
            return self.ring.open(sealed, session="s", now=now) == CHALLENGE
        except SessionInvalid:
            return False


def records(data: Path) -> list[dict[str, Any]]:
    """Return the records of new keys in the audit trail."""
    lines = [
        line for file in (data / "audit").glob("*.jsonl") for line in file.read_text().splitlines()
    ]
    return [
        record["fields"]
        for record in map(json.loads, lines)
        if record["event"] == "kbs.token-key-added"
    ]


@pytest.fixture(params=["plain", "sealed"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Broker, Path, list[str]]:
    """A broker that runs, its directory, and the options that name it."""
    data, kek = tmp_path / "data", tmp_path / "kek"
    options = ["--data-dir", str(data)]
    if request.param == "plain":
        return Broker(data), data, options
    return Broker(data, kek), data, [*options, "--seal", f"file:{kek}"]


def command(*options: str) -> int:
    return main(["store", "new-token-key", *options])


async def run(*options: str) -> int:
    """Run the command in another thread: it has an event loop of its own."""
    return await asyncio.to_thread(command, *options)


async def test_a_new_key_is_used_soon_and_no_guest_notices(
    site: tuple[Broker, Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    broker, data, options = site
    await broker.keys.refresh()
    (first,) = broker.ids()
    now = app.utc_now()
    before = broker.seal(now)
    assert await run(*options) == 0
    text = capsys.readouterr().out
    await broker.keys.refresh()
    assert broker.ids()[0] == first
    (new,) = broker.ids()[1:]
    assert new in text
    assert broker.accepts(before, now)
    later = now + PUBLISH + timedelta(seconds=5)
    assert broker.accepts(broker.seal(later), later)
    almost = now + LIFETIME - timedelta(seconds=1)
    assert broker.accepts(before, almost)
    broker.ring.replace(broker_keys(broker)[1:])  # without the first one
    assert broker.accepts(broker.seal(later), later)
    assert not broker.accepts(before, now)
    (record,) = records(data)
    assert record["key"] == new
    assert record["caller"].endswith("verdictd-py store")
    assert "revoked" not in record or record["revoked"] is None


def broker_keys(broker: Broker) -> list[RingKey]:
    """Return the keys in the ring of a broker."""
    return [RingKey(own.tokens.key, own.signs_from) for own in broker.ring._keys]


async def test_revoked_keys_are_refused_at_once(site: tuple[Broker, Path, list[str]]) -> None:
    broker, data, options = site
    await broker.keys.refresh()
    (first,) = broker.ids()
    now = app.utc_now()
    before = broker.seal(now)
    assert await run(*options, "--revoke") == 0
    await broker.keys.refresh()
    assert len(broker.ids()) == 1
    assert first not in broker.ids()
    assert not broker.accepts(before, now)
    assert broker.accepts(broker.seal(app.utc_now()), app.utc_now())
    (record,) = records(data)
    assert record["revoked"] == 1


async def test_a_key_that_cannot_be_recorded_is_not_stored(
    site: tuple[Broker, Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    broker, data, options = site
    await broker.keys.refresh()
    ids = broker.ids()
    (data / "audit").rmdir()
    (data / "audit").write_bytes(b"")
    with pytest.raises(SystemExit) as ended:
        await run(*options, "--revoke")
    assert ended.value.code == 2
    assert "audit" in capsys.readouterr().err
    await broker.keys.refresh()
    assert broker.ids() == ids


async def test_brokers_can_always_read_the_keys(
    site: tuple[Broker, Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    """There is a limit of keys that they read: more are not stored."""
    broker, _, options = site
    await broker.keys.refresh()
    for _ in range(MAX_KEYS - 1):
        assert await run(*options) == 0
    assert await run(*options) == 1
    assert "16 token keys are still accepted; wait 7 minutes" in capsys.readouterr().err
    await broker.keys.refresh()
    assert await broker.keys.fault() == ""
    assert len(broker.ids()) == MAX_KEYS
    assert await run(*options, "--revoke") == 0


async def test_damaged_keys_are_only_replaced_if_they_are_revoked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broker = Broker(tmp_path / "data")
    await broker.keys.refresh()
    (tmp_path / "data" / "tokens" / "keys").write_bytes(b"damaged")
    options = ("--data-dir", str(tmp_path / "data"))
    assert await run(*options) == 1
    assert "damaged" in capsys.readouterr().err
    assert await run(*options, "--revoke") == 0
    await broker.keys.refresh()
    assert await broker.keys.fault() == ""


def test_brokers_with_a_key_of_their_own_are_not_served_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(f'data_dir = "{tmp_path}"\nkbs_token_key = "{tmp_path / "key.pem"}"\n')
    with pytest.raises(SystemExit) as ended:
        command("--config", str(config))
    assert ended.value.code == 2
    assert "these settings have --kbs-token-key" in capsys.readouterr().err
