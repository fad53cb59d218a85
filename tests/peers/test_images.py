"""The image owner's journey with real clients: ocicrypt's own code speaks to our broker."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from uuid import UUID

import pytest

from tests.peers import oci
from tests.peers.clients import ImageCopier, image_copier, run_copier
from tests.support.broker import KEY, KID, RunningBroker
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket

pytestmark = pytest.mark.broker(allow_a256ctr=True)

TEXTS = ("first layer", "second layer")
PROVIDER = "provider:attestation-agent"


@pytest.fixture(params=["skopeo", "ocicopy"])
def copier(request: pytest.FixtureRequest) -> ImageCopier:
    return image_copier(request.param)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    layout = tmp_path / "alpine"
    oci.write_image(layout, *TEXTS)
    return layout


async def run(command: list[str], config: Path, broker: RunningBroker | None) -> tuple[int, str]:
    """Runs `command` with a key provider configuration; status and what it printed."""
    stdin_form = [
        "-m",
        "verdictd_py.cli.main",
        "keyprovider",
        "--data-dir",
        f"{config.parent}/data",
    ]
    provider: dict[str, object] = (
        {"cmd": {"path": sys.executable, "args": stdin_form}}
        if broker is None
        else {"grpc": broker.client_api}
    )
    return await run_copier(command, config, provider)


@pytest.mark.parametrize(
    ("parameter", "kid"),
    [
        (f":{KID}", re.escape(KID)),
        (":keyid=kbs:///default/key/1::algorithm=A256GCM", "kbs:///default/key/1"),
        (":keyid=kbs:///default/key/2::algorithm=A256CTR", "kbs:///default/key/2"),
        ("", r"[0-9a-f-]{36}"),
        (":", r"[0-9a-f-]{36}"),
    ],
)
async def test_an_image_is_encrypted_opened_by_a_guest_and_decrypted_again(
    copier: ImageCopier,
    image: Path,
    tmp_path: Path,
    broker: RunningBroker,
    parameter: str,
    kid: str,
) -> None:
    config = tmp_path / "keyprovider.conf"
    encrypted, decrypted = tmp_path / "encrypted", tmp_path / "decrypted"

    command = copier.copy(image, encrypted, "--encryption-key", PROVIDER + parameter)
    status, output = await run(command, config, broker)
    assert status == 0, output
    for before, layer in zip(oci.layers(image), oci.layers(encrypted), strict=True):
        assert layer["mediaType"].endswith("+encrypted")
        packet = AnnotationPacket.decode(oci.packet(layer))
        assert re.fullmatch(kid, packet.kid)
        async with broker.guest() as guest:
            opened = await guest.decrypt(
                kid=packet.kid,
                encrypted_data=packet.blob.ciphertext,
                algorithm=packet.blob.algorithm.value,
                iv=packet.blob.iv,
            )
        assert json.loads(opened.reveal())["digest"] == before["digest"]

    command = copier.copy(encrypted, decrypted, "--decryption-key", PROVIDER)
    status, output = await run(command, config, broker)
    assert status == 0, output
    assert [layer["digest"] for layer in oci.layers(decrypted)] == [
        layer["digest"] for layer in oci.layers(image)
    ]
    assert KEY.decode().strip() not in broker.events.text


async def test_without_a_parameter_a_new_key_with_a_uuid_is_stored(
    copier: ImageCopier, image: Path, tmp_path: Path, broker: RunningBroker
) -> None:
    command = copier.copy(image, tmp_path / "encrypted", "--encryption-key", PROVIDER)
    status, output = await run(command, tmp_path / "keyprovider.conf", broker)
    assert status == 0, output
    for layer in oci.layers(tmp_path / "encrypted"):
        kid = AnnotationPacket.decode(oci.packet(layer)).kid
        assert UUID(kid).version == 4
        assert len((broker.data / "keys" / kid).read_bytes()) == 32


async def test_a_missing_key_fails_and_names_the_key(
    copier: ImageCopier, image: Path, tmp_path: Path, broker: RunningBroker
) -> None:
    """defects.md 3: upstream answered OK, and the image could never be opened."""
    command = copier.copy(image, tmp_path / "x", "--encryption-key", f"{PROVIDER}:no-such-key")
    status, output = await run(command, tmp_path / "keyprovider.conf", broker)
    assert status != 0
    assert "no-such-key" in output
    assert not (tmp_path / "x" / "index.json").exists()


async def test_an_image_whose_key_is_gone_does_not_open(
    copier: ImageCopier, image: Path, tmp_path: Path, broker: RunningBroker
) -> None:
    config = tmp_path / "keyprovider.conf"
    encrypted = tmp_path / "encrypted"
    command = copier.copy(image, encrypted, "--encryption-key", f"{PROVIDER}:{KID}")
    assert (await run(command, config, broker))[0] == 0
    (broker.data / "keys" / KID).write_bytes(bytes(32))
    command = copier.copy(encrypted, tmp_path / "x", "--decryption-key", PROVIDER)
    status, output = await run(command, config, broker)
    assert status != 0
    assert "authentication failed" in output


async def test_the_command_on_stdin_wraps_and_unwraps_without_a_daemon(
    copier: ImageCopier, image: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "data" / "keys"
    keys.mkdir(parents=True)
    (keys / KID).write_bytes(KEY)
    config = tmp_path / "keyprovider.conf"
    encrypted, decrypted = tmp_path / "encrypted", tmp_path / "decrypted"
    command = copier.copy(image, encrypted, "--encryption-key", f"{PROVIDER}:{KID}")
    status, output = await run(command, config, None)
    assert status == 0, output
    command = copier.copy(encrypted, decrypted, "--decryption-key", PROVIDER)
    status, output = await run(command, config, None)
    assert status == 0, output
    assert [layer["digest"] for layer in oci.layers(decrypted)] == [
        layer["digest"] for layer in oci.layers(image)
    ]
