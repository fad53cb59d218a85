"""The guide from its second step to its seventh with real programs, then a guest opens the image.

Owner's side: the key's file, cosign, the image policy, the daemon's command, skopeo that
encrypts to a registry, cosign that signs there. Guest's side: policy, cosign key and layer keys
through attestation, and skopeo that verifies and decrypts with nothing else.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.peers import oci
from tests.peers.actors import (
    Owner,
    ask,
    cosign_pair,
    fetch,
    guides_policy,
    key_providers,
    open_image,
    run,
)
from tests.peers.clients import image_copier, program
from tests.peers.registry import running_registry
from tests.support.broker import KEY, KID
from tests.support.command import running_daemon
from verdictd_py import daemon as app
from verdictd_py.guest.attesters import COLLATERAL_FILE, simulated_platform

TEXTS = ("first layer", "second layer")


@pytest.fixture(scope="module", params=["skopeo", "ocicopy"])
def owner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Owner]:
    copier, cosign = image_copier(request.param), program("cosign")
    base = tmp_path_factory.mktemp("guide")
    plain = base / "alpine"
    oci.write_image(plain, *TEXTS)
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
        addresses = (started["listen"], started["client_api"])
        made = Owner(copier, base, *addresses, f"docker://{image}", plain)
        (made.data / "keys" / KID).write_bytes(KEY)  # 2, of a broker that runs
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
    before = owner.opened_layers()
    opened = open_image(owner, tmp_path)
    assert opened.returncode == 0, opened
    assert owner.opened_layers() == before + len(TEXTS)
    layers = oci.layers(tmp_path / "opened")
    originals = oci.layers(owner.plain)
    assert [layer["digest"] for layer in layers] == [layer["digest"] for layer in originals]
    for layer in originals:
        content = oci.blob(tmp_path / "opened", layer["digest"])
        assert content == oci.blob(owner.plain, layer["digest"])


def assert_not_opened(
    owner: Owner, directory: Path, opened: subprocess.CompletedProcess[str], said: str, before: int
) -> None:
    """It failed for what `said` says, left no image, and the broker opened no layer key."""
    assert opened.returncode != 0
    assert said in opened.stderr
    assert not (directory / "opened" / "index.json").exists()
    assert owner.opened_layers() == before


def test_with_another_cosign_key_it_is_not_opened(owner: Owner, tmp_path: Path) -> None:
    theirs = cosign_pair(tmp_path / "theirs")
    before = owner.opened_layers()
    owner.verdict("cosign-key", "set", str(theirs / "cosign.pub"))
    try:
        fetch(owner)
        opened = open_image(owner, tmp_path)
    finally:
        owner.verdict("cosign-key", "set", str(owner.base / "pair" / "cosign.pub"))
    said = "cryptographic signature verification failed"
    assert_not_opened(owner, tmp_path, opened, said, before)


def test_with_a_policy_of_reject_it_is_not_opened(owner: Owner, tmp_path: Path) -> None:
    (tmp_path / "reject.json").write_text('{"default":[{"type":"reject"}],"transports":{}}')
    before = owner.opened_layers()
    owner.verdict("image-policy", "set", str(tmp_path / "reject.json"))
    try:
        fetch(owner)
        opened = open_image(owner, tmp_path)
    finally:
        owner.verdict("image-policy", "set", str(owner.base / "policy.json"))
    assert_not_opened(owner, tmp_path, opened, "rejected by policy", before)


def test_an_image_that_nobody_signed_is_not_opened(owner: Owner, tmp_path: Path) -> None:
    fetch(owner)
    before = owner.opened_layers()
    image = f"{owner.image}-unsigned"
    run(*owner.copier.transfer(f"oci:{owner.plain}", image), command=False)
    opened = open_image(owner, tmp_path, image)
    said = "A signature was required, but no signature exists"
    assert_not_opened(owner, tmp_path, opened, said, before)


@pytest.mark.parametrize(
    ("ours", "guides", "said"),
    [
        ('"insecureAccept', '" insecureAccept', "Unknown policy requirement type"),
        ('"type": "matchRepository"', '"type": "matchRepoDigestOrExact"', "is not accepted"),
    ],
    ids=["space", "identity"],
)
def test_the_guides_policy_as_printed_opens_nothing(
    owner: Owner, tmp_path: Path, ours: str, guides: str, said: str
) -> None:
    """`matchRepoDigestOrExact` is what the guide's lack of a `signedIdentity` means."""
    fetch(owner)
    before = owner.opened_layers()
    policy = owner.base / "guest" / "policy.json"
    assert ours in policy.read_text()
    policy.write_text(policy.read_text().replace(ours, guides))
    assert_not_opened(owner, tmp_path, open_image(owner, tmp_path), said, before)


def test_the_guides_scope_as_printed_asks_for_no_signature(owner: Owner, tmp_path: Path) -> None:
    """It matches nothing, so the default decides; the broker refuses to store it."""
    theirs = cosign_pair(tmp_path / "theirs")
    fetch(owner)
    guest = owner.base / "guest"
    (guest / "cosign.pub").write_bytes((theirs / "cosign.pub").read_bytes())
    policy = guest / "policy.json"
    registry = owner.image.removeprefix("docker://").partition("/")[0]
    ours = f'"{registry}/test"'
    assert ours in policy.read_text()
    policy.write_text(policy.read_text().replace(ours, f'" {registry}/test/"'))
    opened = open_image(owner, tmp_path)
    assert opened.returncode == 0, opened
    with pytest.raises(AssertionError, match="no image is in a scope that ends with '/'"):
        owner.verdict("image-policy", "set", str(policy))


def assert_refused(
    owner: Owner, directory: Path, opened: subprocess.CompletedProcess[str], rule: str, before: int
) -> None:
    """The guest is told an id, and the operator finds `rule` there."""
    said = "refused: policy-refused; ask the operator about "
    assert_not_opened(owner, directory, opened, said, before)
    told = [each for each in owner.audited("guest.refused") if each["appraisal"] in opened.stderr]
    assert told
    for fields in told:
        assert [reason.partition(":")[0] for reason in fields["reasons"]] == [rule]


def test_a_guest_under_debug_opens_nothing(owner: Owner, tmp_path: Path) -> None:
    """Even one that was given policy and key by somebody else."""
    fetch(owner)
    before = owner.opened_layers()
    assert_refused(owner, tmp_path, open_image(owner, tmp_path, debug=True), "debug", before)


def test_a_guest_that_measures_something_else_opens_nothing(owner: Owner, tmp_path: Path) -> None:
    fetch(owner)
    before = owner.opened_layers()
    reference = owner.data / "opa" / "tdxData"
    kept = reference.read_bytes()
    reference.write_text(json.dumps({"rtmr1": ["ab" * 48]}))
    try:
        opened = open_image(owner, tmp_path)
        asked = ask(owner, "policy")
    finally:
        reference.write_bytes(kept)
    assert_refused(owner, tmp_path, opened, "rtmr1", before)
    assert (asked.returncode, asked.stdout) == (1, b"")
