"""The client API with TLS: only certificates with a role may call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.support.access import (
    cannot_connect,
    client_of,
    may_do_everything,
    may_do_nothing,
    may_wrap_only,
)
from tests.support.broker import KID, running_broker
from tests.support.certificates import Certificates
from tests.support.keyprovider_client import KeyProviderClient
from verdictd_py import daemon as app
from verdictd_py.errors import ConfigError
from verdictd_py.simulator import SimulatedPlatform


@pytest.fixture
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=app.utc_now())


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates.make(tmp_path)


class TestTls:
    async def test_a_certificate_has_the_role_of_its_name(
        self, tmp_path: Path, platform: SimulatedPlatform, certificates: Certificates
    ) -> None:
        issue = certificates.ca.issue_cert
        settings: dict[str, Any] = {"client_api": "0.0.0.0:0", **certificates.settings}
        async with running_broker(tmp_path, platform, **settings) as broker:
            target = f"127.0.0.1:{broker.daemon.listener('client_api').address.port}"

            @asynccontextmanager
            async def client(
                certificate: trustme.LeafCert | None,
            ) -> AsyncIterator[KeyProviderClient]:
                found = certificates.credentials(certificate)
                async with KeyProviderClient.open(target, found) as opened:
                    yield opened

            async with client(issue(common_name="farm")) as one:
                await may_wrap_only(one, "certificate farm")
            async with client(issue(common_name="ops")) as one:
                await may_wrap_only(one, "certificate ops")
            async with client(issue("boss.example")) as one:
                await may_do_everything(one)
            async with client(issue(common_name="stranger")) as one:
                await may_do_nothing(one, "certificate stranger")
            yesterday = datetime.now(UTC) - timedelta(days=1)
            expired = issue(
                common_name="farm", not_before=yesterday - timedelta(1), not_after=yesterday
            )
            for refused in (None, trustme.CA().issue_cert(common_name="farm"), expired):
                async with client(refused) as one:
                    await cannot_connect(one)
            async with KeyProviderClient.open(target) as one:
                await cannot_connect(one)
            assert broker.events.named("image-key.unwrapped") == [
                {"caller": "certificate boss.example", "kid": KID}
            ]

    async def test_loopback_does_not_replace_a_certificate(
        self, tmp_path: Path, platform: SimulatedPlatform, certificates: Certificates
    ) -> None:
        """With TLS, the daemon's user needs a role as well, also with insecure flags."""
        unsafe = {"insecure_loopback": True, "insecure_client_api": True}
        stranger = certificates.credentials(certificates.ca.issue_cert(common_name="stranger"))
        async with (
            running_broker(tmp_path, platform, unsafe=unsafe, **certificates.settings) as broker,
            client_of(broker, stranger) as client,
        ):
            await may_do_nothing(client, "certificate stranger")

    @pytest.mark.parametrize("missing", ["cert", "key", "ca", "roles"])
    async def test_all_four_files_are_needed(
        self, tmp_path: Path, platform: SimulatedPlatform, certificates: Certificates, missing: str
    ) -> None:
        file = certificates.settings.pop(f"client_api_{missing}")
        with pytest.raises(ConfigError, match="TLS for the client API needs all of"):
            async with running_broker(tmp_path, platform, **certificates.settings):
                pass
        certificates.settings[f"client_api_{missing}"] = file
        file.unlink()
        with pytest.raises(ConfigError, match=f"No such file.*--client-api-{missing}"):
            async with running_broker(tmp_path, platform, **certificates.settings):
                pass

    @pytest.mark.parametrize(
        ("name", "content", "cause"),
        [
            ("cert", b"", "cert is empty"),
            ("cert", b"x", "is not a PEM certificate"),
            ("key", b"-----BEGIN PRIVATE KEY-----\n", "unencrypted PEM key"),
            ("ca", b"\x30\x82", "PEM certificate"),
            ("roles", b"", "must have one table"),
            ("key", None, "does not belong to the certificate"),
        ],
    )
    async def test_a_wrong_file_is_named_at_start(
        self,
        tmp_path: Path,
        platform: SimulatedPlatform,
        certificates: Certificates,
        name: str,
        content: bytes | None,
        cause: str,
    ) -> None:
        file = certificates.settings[f"client_api_{name}"]
        if content is None:
            content = certificates.ca.issue_cert("127.0.0.1").private_key_pem.bytes()
        file.write_bytes(content)
        with pytest.raises(ConfigError, match=cause) as caught:
            async with running_broker(tmp_path, platform, **certificates.settings):
                pass
        assert str(file) in str(caught.value)
        assert "\n" not in str(caught.value)
