"""An image is encrypted once and opens in every generation of guest, with real image clients."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.peers import oci
from tests.peers.clients import ImageCopier, image_copier, run_copier
from tests.support.broker import RunningBroker
from tests.support.command import environment
from tests.support.kbs import url_of
from verdictd_py import daemon as app
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket
from verdictd_py.protocols.rcar.versions import Version
from verdictd_py.simulator import SimulatedPlatform

pytestmark = pytest.mark.broker(kbs_http="127.0.0.1:0", allow_a256ctr=True)

TEXTS = ("first layer", "second layer")
PROVIDER = "provider:attestation-agent"


@pytest.fixture(params=["skopeo", "ocicopy"])
def copier(request: pytest.FixtureRequest) -> ImageCopier:
    return image_copier(request.param)


@pytest.fixture
def platform(tmp_path: Path) -> SimulatedPlatform:
    """The platform of the broker, stored where an agent finds it."""
    made = SimulatedPlatform.create(now=app.utc_now())
    made.save(tmp_path / "platform")
    return made


def guests(broker: RunningBroker) -> dict[str, list[str]]:
    """How an agent of each generation is started."""
    host, port = broker.address
    found = {"ratstls": ["--connect", f"{host}:{port}"]}
    for version in Version:
        asks = ["--protocol", "rcar", "--kbs-version", version.value, "--connect", url_of(broker)]
        found[version.value] = asks
    return found


@asynccontextmanager
async def agent(broker: RunningBroker, *words: str) -> AsyncIterator[str]:
    """Where an agent of a guest serves ocicrypt's key provider."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "verdictd_py.cli.main", "guest", "agent"),
        *("--keyprovider", "127.0.0.1:0", "--platform", str(broker.data.parent / "platform")),
        *words,
        env=environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await process.stdout.readline()).decode()
        yield line.split()[-1]
    finally:
        process.kill()
        await process.communicate()


@pytest.mark.parametrize("algorithm", ["A256GCM", "A256CTR"])
async def test_an_image_that_is_encrypted_once_opens_in_every_generation_of_guest(
    copier: ImageCopier, tmp_path: Path, broker: RunningBroker, algorithm: str
) -> None:
    """The owner names a path; its key is made, kept, and fetched by each in its own way."""
    image, encrypted, config = (tmp_path / name for name in ("alpine", "encrypted", "config"))
    oci.write_image(image, *TEXTS)
    parameter = f"{PROVIDER}:keyid=kbs:///default/key/1::algorithm={algorithm}"
    command = copier.copy(image, encrypted, "--encryption-key", parameter)
    status, output = await run_copier(command, config, {"grpc": broker.client_api})
    assert status == 0, output
    for layer in oci.layers(encrypted):
        packet = AnnotationPacket.decode(oci.packet(layer))
        assert (packet.kid, packet.blob.algorithm.value) == ("kbs:///default/key/1", algorithm)

    allowed = ["--allow-a256ctr"] if algorithm == "A256CTR" else []
    for name, words in guests(broker).items():
        broker.events.events.clear()
        decrypted = tmp_path / f"decrypted-{name}"
        more = allowed if name != "ratstls" else []  # there the broker decrypts
        async with agent(broker, *words, *more) as keyprovider:
            command = copier.copy(encrypted, decrypted, "--decryption-key", PROVIDER)
            status, output = await run_copier(command, config, {"grpc": keyprovider})
        assert status == 0, output
        for before, after in zip(oci.layers(image), oci.layers(decrypted), strict=True):
            whole = oci.blob(image, before["digest"])
            assert oci.blob(decrypted, after["digest"]) == whole
        released = {str(fields["path"]) for fields in broker.events.named("secret.released")}
        assert released == {"keys/default/key/1"}, name
