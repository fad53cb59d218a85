"""Each value that docs/design/example.md shows is what the code computes today."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import cbor2
import pytest
from asn1crypto import x509
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from tests.policy.support import Documents, default_documents
from tests.support.events import RecordedEvents
from tests.support.memory import MemoryKeys, MemoryResources
from tests.support.tees import TEES
from tests.support.vectors import from_guide, vector
from verdictd_py.broker.appraiser import Appraiser
from verdictd_py.broker.release import Releaser
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import JsonValue
from verdictd_py.policy.appraisal import RegoAppraisalPolicy
from verdictd_py.ports import NO_QUERY, Failures, Kind
from verdictd_py.protocols.eaa import answers, messages
from verdictd_py.protocols.ratstls import certificate
from verdictd_py.tees.intel.collateral.sources import FileCollateral
from verdictd_py.tees.tdx.verifier import TdxVerifier

PAGE: Final = Path(__file__).parents[2] / "docs" / "design" / "example.md"
NOW: Final = datetime.fromisoformat("2026-11-24T12:00:00Z")
KID: Final = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
KEY: Final = b"1234567890123456789012345678901\n"
IV: Final = bytes(range(12))
DICE_OID: Final = "2.23.133.5.4.9"


class AllowsAll:
    """A release policy that refuses nothing, as the packaged one."""

    async def failures(
        self, peer: AppraisedPeer, kind: Kind, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> Failures:
        return Failures()


def by_other_libraries(der: bytes) -> Iterator[tuple[str, object]]:
    """Yield what asn1crypto, cbor2 and hashlib read from the certificate."""
    tbs = x509.Certificate.load(der)["tbs_certificate"]
    (extension,) = (row for row in tbs["extensions"] if row["extn_id"].dotted == DICE_OID)
    evidence = extension["extn_value"].contents
    quote, claims = cbor2.loads(evidence).value
    algorithm, key_hash = cbor2.loads(cbor2.loads(claims)["pubkey-hash"])
    yield "certificate bytes", len(der)
    yield "certificate SHA-256", sha256(der).hexdigest()
    yield "SPKI SHA-256", sha256(tbs["subject_public_key_info"].dump()).hexdigest()
    yield "extension bytes", len(evidence)
    yield "CBOR tag", cbor2.loads(evidence).tag
    yield "quote bytes", len(quote)
    yield "claims", claims.hex()
    yield "hash algorithm", algorithm
    yield "pubkey-hash", key_hash.hex()
    yield "claims SHA-256", sha256(claims).hexdigest()
    yield "quote version", int.from_bytes(quote[0:2], "little")
    yield "TEE type", hex(int.from_bytes(quote[4:8], "little"))
    yield "TDATTRIBUTES", quote[168:176].hex()
    yield "MRTD", quote[184:232].hex()
    yield "RTMR1", quote[424:472].hex()
    yield "REPORTDATA", quote[568:632].hex()
    yield "signed bytes", 632 + 4 + int.from_bytes(quote[632:636], "little")


async def by_the_broker(der: bytes) -> dict[str, object]:
    """Return what the broker's own parts make of the same certificate, up to the key."""
    source = FileCollateral(vector("rats-tls/collateral.json"))
    root = vector("rats-tls/root.der").read_bytes()
    appraiser = Appraiser(
        tees=TEES,
        verifiers={"tdx": TdxVerifier(source, root_ca_der=root)},
        policy=RegoAppraisalPolicy(Documents(default_documents("tdx")), TEES),
        clock=lambda: NOW,
        events=RecordedEvents(),
    )
    appraisal = await appraiser.appraise(lambda now: certificate.read(der, TEES, now=now))
    peer = AppraisedPeer.of(appraisal, address="192.0.2.7:40000")
    layer = base64.b64decode(from_guide(r'optsdata: Some\("([A-Za-z0-9+/=]+)"\)'))
    sealed = base64.b64encode(AESGCM(KEY).encrypt(IV, layer, None)).decode()
    blob: JsonValue = {
        "kid": KID,
        "encrypted_data": sealed,
        "algorithm": "AES",
        "key_length": 256,
        "iv": base64.b64encode(IV).decode(),
    }
    request = messages.parse({"command": "Decrypt", "blobs": [blob]})
    assert isinstance(request, messages.Decrypt)
    releaser = Releaser(
        keys=MemoryKeys({KeyId.parse(KID): SecretBytes(KEY)}),
        resources=MemoryResources(),
        policy=AllowsAll(),
        events=RecordedEvents(),
    )
    (opened,) = await releaser.decrypt(peer, [row.wrapped for row in request.blobs])
    answer: dict[str, Any] = json.loads(answers.encode_plaintexts([(sealed, opened)]))
    return {
        "form": appraisal.form,
        "quote digest": appraisal.evidence.digest if appraisal.evidence else None,
        "code": appraisal.code,
        "tcbStatus": appraisal.claims["tcbStatus"],
        "mrTd": appraisal.claims["mrTd"],
        "debug": json.dumps(appraisal.claims["debug"]),
        "kid": KID,
        "iv": IV.hex(),
        "ciphertext bytes": len(base64.b64decode(sealed)),
        "ciphertext SHA-256": sha256(base64.b64decode(sealed)).hexdigest(),
        "answer": ", ".join(answer),
        "layer key": base64.b64decode(answer["data"][sealed]).decode(),
    }


@pytest.fixture(scope="module")
def computed() -> dict[str, str]:
    der = vector("rats-tls/6675532-cbor010-tdx-client.der").read_bytes()
    values = dict(by_other_libraries(der)) | asyncio.run(by_the_broker(der))
    return {name: str(value) for name, value in values.items()}


def test_the_page_shows_what_the_code_computes(computed: dict[str, str]) -> None:
    rows = re.findall(r"^\| ([\w -]+) \| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE)
    assert dict(rows) == computed
    assert len(rows) == len(computed)


def test_the_certificate_binds_its_own_key(computed: dict[str, str]) -> None:
    """What the page says about the values, from the key to the signed report."""
    assert computed["pubkey-hash"] == computed["SPKI SHA-256"]
    assert computed["REPORTDATA"] == computed["claims SHA-256"] + "00" * 32
    assert computed["mrTd"] == computed["MRTD"]
    assert int(computed["TDATTRIBUTES"][:2], 16) & 1 == 0
