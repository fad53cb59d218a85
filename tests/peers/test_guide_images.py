"""The guide from its second step to its seventh with real programs, then a guest opens the image.

Owner's side: the key's file, cosign, the image policy, the daemon's command, skopeo that
encrypts to a registry, cosign that signs there. Guest's side: policy, cosign key and layer keys
through attestation, and skopeo that verifies and decrypts with nothing else.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.command import COMMAND, environment, running_daemon
from tests.peers import oci
from tests.peers.clients import ImageCopier, image_copier, program
from tests.peers.registry import running_registry
from tests.system.broker import KEY, KID
from verdictd_py import app
from verdictd_py.guest.attesters import COLLATERAL_FILE, simulated_platform

TEXTS = ("first layer", "second layer")
SECONDS = 60


@dataclass(frozen=True)
class Owner:
    """What the image's owner has made, and where the guest finds it.

    Attributes:
        image: `docker://...`, encrypted and signed.
        plain: the layout that was encrypted.
    """

    copier: ImageCopier
    base: Path
    broker: str
    client_api: str
    image: str
    plain: Path

    @property
    def data(self) -> Path:
        return self.base / "data"

    def verdict(self, *words: str) -> None:
        run("-m", "verdictd_py.cli.verdict", "-c", self.client_api, *words)

    def guest(self, *words: str) -> list[str]:
        platform = ("--platform", str(self.base / "platform"))
        return [*COMMAND, "guest", "--connect", self.broker, *platform, *words]


def run(*words: str | Path, command: bool = True, **more: str) -> bytes:
    """Runs one command of ours (by module) or any other, which must end well."""
    program_words = [COMMAND[0], *words] if command else [*words]
    ended = subprocess.run(
        program_words,
        capture_output=True,
        env={**environment(), **more},
        timeout=SECONDS,
        check=False,
    )
    assert ended.returncode == 0, ended
    return ended.stdout


def key_providers(file: Path, address: str) -> dict[str, str]:
    """The environment that tells ocicrypt where its key provider is."""
    file.write_text(json.dumps({"key-providers": {"attestation-agent": {"grpc": address}}}))
    return {"OCICRYPT_KEYPROVIDER_CONFIG": str(file)}


def cosign_pair(directory: Path) -> Path:
    """A key pair; the directory with cosign.key and cosign.pub."""
    directory.mkdir()
    subprocess.run(
        [program("cosign"), "generate-key-pair"],
        cwd=directory,
        env={**os.environ, "COSIGN_PASSWORD": ""},
        capture_output=True,
        timeout=SECONDS,
        check=True,
    )
    return directory


def guides_policy(registry: str, key: Path) -> bytes:
    """The guide's image policy, adjusted (docs/guide.md says why): the two leading spaces and the
    slash at the scope's end taken away; scope and key path of this machine; `matchRepository`,
    because cosign signs the repository's name without the tag."""
    signed = {
        "type": "sigstoreSigned",
        "keyPath": str(key),
        "signedIdentity": {"type": "matchRepository"},
    }
    policy = {
        "default": [{"type": "insecureAcceptAnything"}],
        "transports": {"docker": {f"{registry}/test": [signed]}},
    }
    return json.dumps(policy).encode()


@pytest.fixture(scope="module", params=["skopeo", "ocicopy"])
def owner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Owner]:
    copier, cosign = image_copier(request.param), program("cosign")
    base = tmp_path_factory.mktemp("guide")
    plain = base / "alpine"
    oci.write_image(plain, *TEXTS)
    (base / "data" / "keys").mkdir(parents=True)
    (base / "data" / "keys" / KID).write_bytes(KEY)  # 2
    pair = cosign_pair(base / "pair")  # 3
    platform = base / "platform"
    simulated_platform(platform, now=app.utc_now())
    rehearsal = (
        *("--unsafe-tdx-root-ca", str(platform / "root-ca.pem")),
        *("--collateral", str(platform / COLLATERAL_FILE)),
    )
    with (
        running_registry(base) as registry,
        running_daemon(  # 5, the guide's command
            *("--listen", "127.0.0.1:0", "--verifier", "tdx", "--attester", "nullattester"),
            *("--client-api", "127.0.0.1:0", "--mutual", "--data-dir", str(base / "data")),
            *rehearsal,
        ) as daemon,
    ):
        started = daemon.wait_for("daemon.started")
        image = f"{registry}/test/alpine-encrypted"
        made = Owner(
            copier, base, started["listen"], started["client_api"], f"docker://{image}", plain
        )
        made.verdict("cosign-key", "set", str(pair / "cosign.pub"))
        policy = base / "policy.json"
        policy.write_bytes(guides_policy(registry, base / "guest" / "cosign.pub"))
        made.verdict("image-policy", "set", str(policy))  # 4
        run(  # 6
            *copier.transfer(
                f"oci:{plain}",
                made.image,
                f"--encryption-key=provider:attestation-agent:{KID}",
            ),
            command=False,
            **key_providers(base / "owner.conf", made.client_api),
        )
        run(  # 7
            *(cosign, "sign", "--key", pair / "cosign.key", "--tlog-upload=false", "--yes", image),
            command=False,
            COSIGN_PASSWORD="",
        )
        yield made


@contextmanager
def agent(owner: Owner) -> Iterator[str]:
    """The address of the guest's agent."""
    words = owner.guest("agent", "--keyprovider", "127.0.0.1:0")
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment())
    with process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().split()[-1]
        finally:
            process.kill()


def open_image(owner: Owner, directory: Path) -> subprocess.CompletedProcess[str]:
    """What a guest does with an image, with the policy and key that lie in `base/guest`."""
    guest = owner.base / "guest"
    signatures = directory / "registries.d"
    signatures.mkdir()
    scope = owner.image.removeprefix("docker://")
    (signatures / "local.yaml").write_text(
        f"docker:\n    {scope}:\n        use-sigstore-attachments: true\n"
    )
    with agent(owner) as address:
        return subprocess.run(
            owner.copier.transfer(
                owner.image,
                f"oci:{directory / 'opened'}",
                "--decryption-key=provider:attestation-agent",
                "--remove-signatures",
                policy=guest / "policy.json",
                signatures=signatures,
            ),
            env={**environment(), **key_providers(directory / "guest.conf", address)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )


def ask(owner: Owner, word: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        owner.guest(word), capture_output=True, env=environment(), timeout=SECONDS, check=False
    )


def fetch(owner: Owner) -> None:
    """Policy and cosign key through attestation, to where the policy names them."""
    guest = owner.base / "guest"
    guest.mkdir(exist_ok=True)
    for word, name in (("policy", "policy.json"), ("cosign-key", "cosign.pub")):
        ended = ask(owner, word)
        assert ended.returncode == 0, ended
        (guest / name).write_bytes(ended.stdout)


def test_the_image_in_the_registry_is_encrypted(owner: Owner, tmp_path: Path) -> None:
    run(*owner.copier.transfer(owner.image, f"oci:{tmp_path}/as-it-is"), command=False)
    for layer, original in zip(
        oci.layers(tmp_path / "as-it-is"), oci.layers(owner.plain), strict=True
    ):
        assert layer["mediaType"].endswith("+encrypted")
        assert json.loads(oci.packet(layer))["kid"] == KID
        assert layer["digest"] != original["digest"]


def test_an_attested_guest_verifies_and_opens_it(owner: Owner, tmp_path: Path) -> None:
    fetch(owner)
    opened = open_image(owner, tmp_path)
    assert opened.returncode == 0, opened
    layers = oci.layers(tmp_path / "opened")
    originals = oci.layers(owner.plain)
    assert [layer["digest"] for layer in layers] == [layer["digest"] for layer in originals]
    for layer in originals:
        content = oci.blob(tmp_path / "opened", layer["digest"])
        assert content == oci.blob(owner.plain, layer["digest"])


def test_with_another_cosign_key_it_is_not_opened(owner: Owner, tmp_path: Path) -> None:
    theirs = cosign_pair(tmp_path / "theirs")
    owner.verdict("cosign-key", "set", str(theirs / "cosign.pub"))
    try:
        fetch(owner)
        opened = open_image(owner, tmp_path)
    finally:
        owner.verdict("cosign-key", "set", str(owner.base / "pair" / "cosign.pub"))
    assert opened.returncode != 0
    assert "cryptographic signature verification failed" in opened.stderr
    assert not (tmp_path / "opened" / "index.json").exists()


def test_with_a_policy_of_reject_it_is_not_opened(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "reject.json").write_text('{"default":[{"type":"reject"}]}')
    owner.verdict("image-policy", "set", str(tmp_path / "reject.json"))
    try:
        fetch(owner)
        opened = open_image(owner, tmp_path)
    finally:
        owner.verdict("image-policy", "set", str(owner.base / "policy.json"))
    assert opened.returncode != 0
    assert "rejected by policy" in opened.stderr


def test_a_guest_that_is_refused_opens_nothing(owner: Owner, tmp_path: Path) -> None:
    """Even one that was given policy and key by somebody else."""
    fetch(owner)
    reference = owner.data / "opa" / "tdxData"
    before = reference.read_bytes()
    reference.write_text(json.dumps({"rtmr1": ["ab" * 48]}))
    try:
        opened = open_image(owner, tmp_path)
        asked = subprocess.run(
            owner.guest("policy"),
            capture_output=True,
            env=environment(),
            timeout=SECONDS,
            check=False,
        )
    finally:
        reference.write_bytes(before)
    assert opened.returncode != 0
    assert "refused: policy-refused; ask the operator about" in opened.stderr
    assert (asked.returncode, asked.stdout) == (1, b"")
