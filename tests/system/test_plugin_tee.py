"""A TEE of another package, from its entry point to a secret, over RATS-TLS and RCAR."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.kbs import PATH, SECRET, running_kbs, url_of
from tests.support.rcar_guests import attested, connected
from tests.support.verdict import verdict
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError
from verdictd_py.guest.attesters import use_certificate
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.guest.rcar.session import RcarGuest
from verdictd_py.protocols.ratstls.issue import Form, issue
from verdictd_py.protocols.ratstls.session import client_context
from verdictd_py.tees.registry import known_tees

pytestmark = pytest.mark.broker(kbs=True)

PACKAGE: Final = Path(__file__).parents[1] / "support" / "plugin_tee"
IMAGE: Final = "ab" * 16
OTHER: Final = "cd" * 16


@dataclass(frozen=True)
class Toy:
    """The installed plug-in and its vendor's key."""

    module: Any
    key: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def settings(self) -> dict[str, Any]:
        public = self.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        return {"verifier": ("toy",), "tee": {"toy": {"vendor": public.hex()}}}

    def quote(self, report_data: bytes, **claims: JsonValue) -> bytes:
        return json.dumps(self.module.evidence(self.key, report_data, **claims)).encode()


@dataclass(frozen=True)
class ToyEvidence:
    """Evidence of a toy guest for RCAR."""

    toy: Toy
    claims: dict[str, JsonValue] = field(default_factory=dict)
    tee: str = "toy"

    def collect(self, digest: bytes) -> JsonValue:
        found: JsonValue = self.toy.module.evidence(self.toy.key, digest, **self.claims)
        return found


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Toy:
    monkeypatch.syspath_prepend(str(PACKAGE))
    monkeypatch.delitem(sys.modules, "toy_tee", raising=False)
    return Toy(importlib.import_module("toy_tee"))


@pytest.fixture
def broker_settings(toy: Toy) -> dict[str, Any]:
    return toy.settings


@asynccontextmanager
async def tls_guest(
    broker: RunningBroker, toy: Toy, form: Form = Form.CURRENT, **claims: JsonValue
) -> AsyncIterator[GuestConnection]:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = issue(
        form,
        key=key,
        quote_for=lambda data: toy.quote(data, **claims),
        now=broker.now,
        oid=toy.module.OID,
        tag=toy.module.TAG,
    )
    context = client_context(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    use_certificate(context, certificate)
    async with GuestConnection.open(*broker.address, context, timeout_seconds=60) as guest:
        yield guest


def rcar_guest(toy: Toy, **claims: JsonValue) -> RcarGuest:
    return RcarGuest(ToyEvidence(toy, claims))


def pinned(broker: RunningBroker, **values: JsonValue) -> None:
    (broker.data / "opa" / "toyData").write_text(json.dumps({"image": [], "level": [], **values}))


async def refused(broker: RunningBroker, toy: Toy, **claims: JsonValue) -> dict[str, Any]:
    """Return the broker's explanation for the refusal of an RCAR guest."""
    async with connected(url_of(broker), rcar_guest(toy, **claims)) as session:
        with pytest.raises(KbsRefused):
            await session.handshake()
    found: dict[str, Any] = (await verdict(broker, "explain", "--last", "--json")).json
    return found


def test_the_plugin_is_loaded_only_when_it_is_named(toy: Toy) -> None:
    assert "toy" not in known_tees()
    assert known_tees(["toy"]).named("toy") is toy.module.TEE
    assert known_tees(["toy", "tdx"]).default.name == "tdx"


async def test_its_documents_are_created_at_start(broker: RunningBroker) -> None:
    for name in ("toyPolicy.rego", "toyData"):
        text = (PACKAGE / "toy_tee" / name).read_text()
        assert (broker.data / "opa" / name).read_text() == text
    (loaded,) = broker.events.named("policy.loaded")
    assert loaded["tee"] == "toy"
    (warning,) = broker.events.named("warning.unpinned")
    assert warning["measurements"] == ("image",)


@pytest.mark.parametrize("form", [Form.LEGACY, Form.CURRENT, Form.INTERIM])
async def test_a_guest_gets_a_key_over_rats_tls(
    broker: RunningBroker, toy: Toy, form: Form
) -> None:
    async with tls_guest(broker, toy, form) as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY
    (accepted,) = broker.events.named("guest.accepted")
    assert (accepted["tee"], accepted["tcb_status"]) == ("toy", "current")


async def test_a_guest_gets_a_resource_over_rcar(broker: RunningBroker, toy: Toy) -> None:
    pinned(broker, image=[IMAGE])
    async with attested(url_of(broker), rcar_guest(toy)) as session:
        assert (await session.get(str(PATH))).reveal() == SECRET
        said: Any = (await session.token()).claims
    cpu = said["submods"]["cpu0"]
    assert cpu["ear.appraisal-policy-id"] == "toyPolicy.rego"
    assert cpu["ear.trustworthiness-vector"] == {"hardware": 2, "executables": 2}
    assert cpu["ear.veraison.annotated-evidence"]["toy"]["image"] == IMAGE


async def test_a_changed_reference_value_refuses_and_is_explained(
    broker: RunningBroker, toy: Toy
) -> None:
    pinned(broker, image=[OTHER])
    found = await refused(broker, toy)
    assert [(r["rule"], r["measured"], r["expected"]) for r in found["reasons"]] == [
        ("image", IMAGE, OTHER)
    ]
    async with tls_guest(broker, toy) as guest:
        with pytest.raises(Exception, match=r"refused|closed"):
            await guest.keks([KID])
    assert broker.events.named("guest.refused")[-1]["reasons"] == (
        f"image: measured {IMAGE}, expected one of {OTHER}",
    )


async def test_a_refused_guest_is_pinned_and_gets_its_secret(
    broker: RunningBroker, toy: Toy
) -> None:
    pinned(broker, image=[OTHER])
    which = (await refused(broker, toy))["id"]
    ended = await verdict(broker, "reference", "pin", "--from", which, "--yes", "--field", "image")
    assert (ended.status, ended.stderr) == (0, "")  # nothing else is open
    stored = json.loads((broker.data / "opa" / "toyData").read_text())
    assert stored["image"] == [OTHER, IMAGE]
    async with connected(url_of(broker), rcar_guest(toy)) as session:
        assert (await session.resource(PATH)).reveal() == SECRET


async def test_its_claims_form_the_schema_of_its_reference_data(
    broker: RunningBroker, toy: Toy, tmp_path: Path
) -> None:
    for values, said in (
        ({"Image": [IMAGE]}, "did you mean image?"),
        ({"image": ["ABC"]}, "image: 'ABC' is not 32 lower-case hex digits"),
        ({"mrTd": []}, "no policy reads 'mrTd'"),  # another TEE's
    ):
        (tmp_path / "wrong").write_text(json.dumps(values))
        ended = await verdict(broker, "reference", "set", "toyData", str(tmp_path / "wrong"))
        assert said in ended.complaint(1, "verdict-py")
    pinned(broker, Image=[IMAGE])
    (reason,) = (await refused(broker, toy))["reasons"]
    assert "did you mean image?" in reason["text"]
    ended = await verdict(broker, "policy", "set", "toypolicy.rego", str(tmp_path / "wrong"))
    assert "did you mean toyPolicy.rego?" in ended.complaint(1, "verdict-py")


async def test_a_named_set_takes_only_values_of_the_claims_form(
    broker: RunningBroker, toy: Toy
) -> None:
    pinned(broker, image=[OTHER])
    add = ("reference", "add", "--tee", "toy", "release-1")
    wrong = await verdict(broker, *add, "image=ABC")
    assert "is not 32 lower-case hex digits" in wrong.stderr
    assert (await verdict(broker, *add, f"image={IMAGE}")).status == 0
    async with connected(url_of(broker), rcar_guest(toy)) as session:
        assert (await session.resource(PATH)).reveal() == SECRET


async def test_a_policy_is_checked_with_its_sample_claims(
    broker: RunningBroker, tmp_path: Path
) -> None:
    """`input.level` is a text in the sample, so that a policy that fails for it is not stored."""
    policy = tmp_path / "policy.rego"
    policy.write_text(
        "package policy\nimport rego.v1\ndefault allow := false\nallow if input.level % 2 == 0\n"
    )
    ended = await verdict(broker, "policy", "set", "toyPolicy.rego", str(policy))
    assert ended.status != 0
    assert "policy" in ended.stderr


@pytest.mark.parametrize(
    ("claims", "rule"),
    [({"level": "broken"}, "level"), ({"level": "old"}, "level"), ({"debug": True}, "debug")],
)
async def test_its_tcb_term_and_flags_are_explained(
    broker: RunningBroker, toy: Toy, claims: dict[str, JsonValue], rule: str
) -> None:
    found = await refused(broker, toy, **claims)
    assert rule in [reason["rule"] for reason in found["reasons"]]


async def test_no_policy_accepts_what_the_vendor_revoked(broker: RunningBroker, toy: Toy) -> None:
    (broker.data / "opa" / "toyPolicy.rego").write_text("package policy\ndefault allow = true\n")
    found = await refused(broker, toy, level="broken")
    assert [reason["rule"] for reason in found["reasons"]] == ["level"]


async def test_a_forged_signature_is_refused(broker: RunningBroker, toy: Toy) -> None:
    found = await refused(broker, Toy(toy.module))
    assert found["code"] == "quote-invalid"


async def test_the_broker_does_not_start_without_the_settings_of_the_plugin(
    toy: Toy, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"below \[tee.toy\]"):
        async with running_kbs(tmp_path, verifier=("toy",)):
            raise AssertionError
