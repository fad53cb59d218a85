"""Evidence in certificates: refusals with their reasons, and tolerated deviations."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta

import cbor2
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.bad_guests import fresh_key
from tests.support.ratstls import (
    CBOR_FORMS,
    CLAIM_FORMS,
    DICE,
    ENDORSEMENTS,
    FORMS,
    GARBAGE,
    NOW,
    VENDOR,
    claims_of,
    collateral,
    ec_key,
    extensions_of,
    make,
    quote_for,
    report_data,
    rsa_key,
    self_signed,
    spki,
    with_claims,
)
from tests.support.tees import TEES
from tests.support.vectors import input_file
from verdictd_py.domain.evidence import Evidence
from verdictd_py.errors import (
    AttestationError,
    BindingMismatch,
    EvidenceExpired,
    EvidenceFormat,
    EvidenceFromFuture,
    EvidenceMissing,
)
from verdictd_py.protocols.ratstls import certificate
from verdictd_py.protocols.ratstls.issue import Form, issue

QUOTE = quote_for(bytes(64))
HOUR = timedelta(hours=1)


def read(der: bytes, now: datetime = NOW, max_age: timedelta | None = None) -> Evidence:
    return certificate.read(der, TEES, now=now, max_age=max_age)


def hash_entry(algorithm: int = 1, digest: bytes | None = None) -> bytes:
    return cbor2.dumps([algorithm, digest or hashlib.sha256(spki(ec_key())).digest()])


def dice_certificate(value: bytes) -> bytes:
    return self_signed([(DICE, False, value)])


# Key binding.


@pytest.mark.parametrize("form", FORMS)
def test_evidence_in_a_certificate_with_another_key_is_refused(form: Form) -> None:
    """The claims or REPORTDATA of copied evidence name the key of the other guest."""
    copied = [(oid, *found) for oid, found in extensions_of(make(form)).items()]
    stolen = self_signed(copied, key=ec_key(1))
    if form in CLAIM_FORMS:
        with pytest.raises(BindingMismatch) as refusal:
            read(stolen)
        assert refusal.value.reasons[0].measured == hashlib.sha256(spki(ec_key())).hexdigest()
        assert refusal.value.reasons[0].expected == hashlib.sha256(spki(ec_key(1))).hexdigest()
        return
    found = read(stolen)
    assert found.binding is not None
    assert not report_data(found.quote).startswith(found.binding)


def test_changed_claims_no_longer_match_report_data() -> None:
    value = cbor2.loads(extensions_of(make(Form.CURRENT))[DICE][1])
    quote, claims = value.value
    changed = cbor2.dumps({**cbor2.loads(claims), "role": b"admin"})
    evidence = read(dice_certificate(cbor2.dumps(cbor2.CBORTag(60000, [quote, changed]))))
    assert report_data(quote).startswith(hashlib.sha256(claims).digest())
    assert evidence.binding == hashlib.sha256(changed).digest()


@pytest.mark.parametrize(
    ("algorithm", "name"), [(1, "sha256"), (7, "sha384"), (8, "sha512")], ids=str
)
def test_the_key_may_be_named_by_any_of_three_hashes(algorithm: int, name: str) -> None:
    entry = hash_entry(algorithm, hashlib.new(name, spki(ec_key())).digest())
    claims = claims_of(entry)
    assert read(with_claims(claims)).binding == hashlib.sha256(claims).digest()


WHOLE = hashlib.sha256(spki(ec_key())).digest()


@pytest.mark.parametrize(
    ("claims", "error"),
    [
        pytest.param(claims_of(hash_entry(1, WHOLE[:28])), BindingMismatch, id="28 bytes of hash"),
        pytest.param(claims_of(hash_entry(1, WHOLE + b"\0")), BindingMismatch, id="long hash"),
        pytest.param(claims_of(cbor2.dumps([1, b""])), BindingMismatch, id="no hash"),
        pytest.param(claims_of(hash_entry(7)), BindingMismatch, id="hash of another algorithm"),
        pytest.param(claims_of(hash_entry(2)), BindingMismatch, id="unknown algorithm"),
        pytest.param(claims_of(hash_entry(6)), BindingMismatch, id="truncated algorithm"),
        pytest.param(claims_of(cbor2.dumps([-1, WHOLE])), EvidenceFormat, id="negative"),
        pytest.param(claims_of(cbor2.dumps([1])), EvidenceFormat, id="one entry"),
        pytest.param(claims_of(cbor2.dumps([1, WHOLE, 0])), EvidenceFormat, id="three entries"),
        pytest.param(claims_of(cbor2.dumps([1, WHOLE.hex()])), EvidenceFormat, id="hash as text"),
        pytest.param(claims_of(hash_entry()[:-1]), EvidenceFormat, id="pubkey-hash cut off"),
        pytest.param(claims_of(hash_entry())[:-1], EvidenceFormat, id="claims cut off"),
        pytest.param(b"", EvidenceFormat, id="no claims"),
        pytest.param(cbor2.dumps({"nonce": b"1"}), BindingMismatch, id="no pubkey-hash"),
        pytest.param(cbor2.dumps({}), BindingMismatch, id="empty map"),
        pytest.param(cbor2.dumps({1: hash_entry()}), EvidenceFormat, id="number as a name"),
        pytest.param(cbor2.dumps({"pubkey-hash": 1}), EvidenceFormat, id="number as a value"),
        pytest.param(
            cbor2.dumps({"pubkey-hash": hash_entry(), "n": "text"}),
            EvidenceFormat,
            id="text as a custom claim",
        ),
        pytest.param(b"\xa2" + claims_of(hash_entry())[1:] * 2, EvidenceFormat, id="a name twice"),
        pytest.param(b"\xa1\x61\xff\x40", EvidenceFormat, id="name is not UTF-8"),
        pytest.param(cbor2.dumps([hash_entry()]), EvidenceFormat, id="an array"),
    ],
)
def test_claims_that_do_not_name_the_key_are_refused(
    claims: bytes, error: type[AttestationError]
) -> None:
    with pytest.raises(error):
        read(with_claims(claims))


def test_nonce_and_custom_claims_are_tolerated() -> None:
    claims = claims_of(hash_entry(), {"nonce": b"\0" * 32, "pod": b"a", "empty": b""})
    assert read(with_claims(claims)).binding == hashlib.sha256(claims).digest()


def test_rsa_clients_of_the_oldest_form_are_refused() -> None:
    """They hash the PKCS#1 key instead of the SubjectPublicKeyInfo."""
    key = rsa_key()
    pkcs1 = key.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
    quote = quote_for(hashlib.sha256(pkcs1).digest().ljust(64, b"\0"))
    evidence = read(self_signed([(VENDOR + "8", False, quote)], key=key))
    assert evidence.binding == hashlib.sha256(spki(key)).digest()
    assert not report_data(quote).startswith(evidence.binding)


# Where evidence may stand, and which.


def test_a_certificate_without_evidence_is_refused() -> None:
    """defects.md 7."""
    for der in (make(Form.NULL), self_signed([]), self_signed([("1.2.3", True, b"")])):
        with pytest.raises(EvidenceMissing):
            read(der)


@pytest.mark.parametrize("other", ["6", "8", "24"])
def test_evidence_in_several_extensions_is_refused(other: str) -> None:
    claims = claims_of(hash_entry())
    value = cbor2.dumps(cbor2.CBORTag(60000, [QUOTE, claims]))
    with pytest.raises(EvidenceFormat, match="several"):
        read(self_signed([(VENDOR + other, False, QUOTE), (DICE, False, value)]))
    with pytest.raises(EvidenceFormat, match="several"):
        read(self_signed([(VENDOR + other, False, QUOTE), (VENDOR + "22", False, QUOTE)]))


def test_the_same_extension_twice_is_refused() -> None:
    der = self_signed([(VENDOR + "8", False, QUOTE), (VENDOR + "6", False, QUOTE)])
    twice = der.replace(bytes.fromhex("8a3906"), bytes.fromhex("8a3908"))
    with pytest.raises(EvidenceFormat, match="twice"):
        read(twice)


@pytest.mark.parametrize(
    ("arc", "tee"),
    [
        ("8", "tdx"),
        ("6", "sgx"),
    ],
)
def test_vendor_oids_name_the_tee(arc: str, tee: str) -> None:
    evidence = read(self_signed([(VENDOR + arc, False, b"as it comes")]))
    assert (evidence.tee, evidence.quote) == (tee, b"as it comes")
    assert evidence.binding == hashlib.sha256(spki(ec_key())).digest()


@pytest.mark.parametrize("arc", ["14", "20", "22", "24", "200"])
def test_evidence_of_a_tee_that_is_not_known_is_refused(arc: str) -> None:
    """The refusal says that no package provides this TEE."""
    with pytest.raises(EvidenceFormat, match="evidence of an unknown TEE"):
        read(self_signed([(VENDOR + arc, False, b"as it comes")]))


def test_the_quote_names_the_tee_where_the_oid_does_not() -> None:
    claims = claims_of(hash_entry())
    for tee_type, tee in ((0x81, "tdx"), (0, "sgx")):
        quote = quote_for(bytes(64), tee_type=tee_type)
        value = cbor2.dumps(cbor2.CBORTag(60000, [quote, claims]))
        assert read(dice_certificate(value)).tee == tee
    unknown = quote_for(bytes(64), tee_type=0x80)
    with pytest.raises(EvidenceFormat):
        read(dice_certificate(cbor2.dumps(cbor2.CBORTag(60000, [unknown, claims]))))


@pytest.mark.parametrize("critical", [False, True])
@pytest.mark.parametrize("tag", [60000, 0x1A7501])
def test_evidence_may_be_critical_or_not(tag: int, critical: bool) -> None:
    value = cbor2.dumps(cbor2.CBORTag(tag, [QUOTE, claims_of(hash_entry())]))
    assert ("critical" in read(self_signed([(DICE, critical, value)])).form) == critical


CLAIMS = claims_of(hash_entry())


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(cbor2.CBORTag(60001, [QUOTE, CLAIMS]), id="wrong tag"),
        pytest.param(cbor2.CBORTag(0x1A7502, [QUOTE, CLAIMS]), id="tag of SGX reports"),
        pytest.param([QUOTE, CLAIMS], id="no tag"),
        pytest.param(cbor2.CBORTag(60000, [QUOTE]), id="new tag without claims"),
        pytest.param(cbor2.CBORTag(0x1A7501, []), id="no entries"),
        pytest.param(cbor2.CBORTag(60000, [QUOTE, CLAIMS, b""]), id="three entries"),
        pytest.param(cbor2.CBORTag(60000, [QUOTE, CLAIMS.hex()]), id="claims as text"),
        pytest.param(cbor2.CBORTag(60000, ["quote", CLAIMS]), id="quote as text"),
        pytest.param(cbor2.CBORTag(60000, [b"short", CLAIMS]), id="quote without header"),
        pytest.param(cbor2.CBORTag(60000, CLAIMS), id="no array"),
        pytest.param(cbor2.CBORTag(60000, cbor2.CBORTag(60000, [QUOTE, CLAIMS])), id="two tags"),
        pytest.param(cbor2.CBORTag(60000, {0: QUOTE, 1: CLAIMS}), id="a map"),
    ],
)
def test_malformed_evidence_is_refused(value: object) -> None:
    with pytest.raises(EvidenceFormat):
        read(dice_certificate(cbor2.dumps(value)))


# Padding.


def test_padding_is_tolerated_at_each_of_the_three_levels() -> None:
    for padded in range(8):
        behind = [GARBAGE if padded >> level & 1 else b"" for level in range(3)]
        claims = claims_of(hash_entry() + behind[0]) + behind[1]
        evidence = read(with_claims(claims, behind=behind[2]))
        # The whole byte string: a hash of the parsed part fails with real guests.
        assert evidence.binding == hashlib.sha256(claims).digest()
        assert evidence.quote == QUOTE


@pytest.mark.parametrize("behind", [b"\0", GARBAGE])
def test_padding_is_tolerated_nowhere_else(behind: bytes) -> None:
    genuine = make(Form.CURRENT)
    with pytest.raises(EvidenceFormat):
        read(genuine + behind)
    # Inside the array behind its items, inside the map behind its pairs: the heads say how
    # many there are, and what is behind the last one belongs to the next level.
    value = cbor2.dumps(cbor2.CBORTag(60000, [QUOTE, CLAIMS]))
    between = value.replace(QUOTE, QUOTE + behind)
    with pytest.raises(AttestationError):
        read(dice_certificate(between))
    before = behind + value
    with pytest.raises(EvidenceFormat):
        read(dice_certificate(before))


# Time and size.


@pytest.mark.parametrize("form", FORMS)
def test_the_validity_period_is_checked(form: Form) -> None:
    """defects.md 18: the verify callback of OpenSSL accepts every date."""
    der = make(form, lifetime=timedelta(days=1))
    begin, end = NOW - HOUR, NOW + timedelta(days=1)
    second = timedelta(seconds=1)
    assert read(der, begin).tee is read(der, end).tee == "tdx"
    with pytest.raises(EvidenceExpired):
        read(der, end + second)
    with pytest.raises(EvidenceFromFuture, match="clock is at least 1 minutes ahead"):
        read(der, begin - second)
    with pytest.raises(EvidenceFromFuture, match="clock is at least 90 minutes ahead"):
        read(der, begin - timedelta(minutes=90))


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_quote_is_missing_evidence(form: Form) -> None:
    """The host's quote generation service gave none; the guest's agent sends it anyway."""
    der = issue(form, key=fresh_key(), quote_for=lambda _: b"", now=NOW)
    with pytest.raises(EvidenceMissing, match="the guest's host gave none"):
        read(der)


def test_the_certificate_of_a_reported_guest_has_an_empty_quote() -> None:
    der = input_file("reports/guest-empty-quote.der").read_bytes()
    with pytest.raises(EvidenceMissing, match="empty quote"):
        read(der, datetime(2026, 12, 1, tzinfo=UTC))


@pytest.mark.parametrize("form", FORMS)
def test_the_age_of_evidence_is_bounded(form: Form) -> None:
    """defects.md 18: an optional maximum age, counted from notBefore."""
    der = make(form)
    assert read(der, NOW + HOUR, 2 * HOUR).tee == "tdx"
    with pytest.raises(EvidenceExpired, match="more than"):
        read(der, NOW + HOUR + timedelta(seconds=1), 2 * HOUR)


def test_dates_in_the_distant_future_are_read() -> None:
    begin, end = (
        datetime.fromisoformat(f"{day}T00:00:00Z") for day in ("1951-01-01", "9999-12-31")
    )
    der = self_signed([(VENDOR + "8", False, QUOTE)], begin=begin, end=end)
    assert read(der).tee == "tdx"
    with pytest.raises(EvidenceExpired):
        read(der, max_age=timedelta(days=365))


def test_a_certificate_has_a_maximum_size() -> None:
    cap = certificate.MAX_CERTIFICATE_BYTES
    empty = len(self_signed([(VENDOR + "8", False, bytes(60_000))])) - 60_000
    # A signature's length varies by some bytes.
    assert read(self_signed([(VENDOR + "8", False, bytes(cap - empty - 16))])).tee == "tdx"
    with pytest.raises(EvidenceFormat, match="longer"):
        read(self_signed([(VENDOR + "8", False, bytes(cap - empty + 16))]))


# Endorsements beside evidence.


@pytest.mark.parametrize("form", CBOR_FORMS)
@pytest.mark.parametrize("garbage", [b"", GARBAGE])
def test_endorsements_are_read(form: Form, garbage: bytes) -> None:
    der = make(form, endorsements=collateral(), garbage=garbage)
    assert read(der).endorsements == collateral()


def test_endorsements_of_another_generation_are_refused() -> None:
    found = extensions_of(make(Form.CURRENT, endorsements=collateral()))
    older = extensions_of(make(Form.INTERIM, endorsements=collateral()))
    mixed = [(DICE, *found[DICE]), (ENDORSEMENTS, *older[ENDORSEMENTS])]
    with pytest.raises(EvidenceFormat, match="tag"):
        read(self_signed(mixed))
    with pytest.raises(EvidenceFormat, match="generation"):
        read(self_signed([(VENDOR + "8", False, QUOTE), (ENDORSEMENTS, *found[ENDORSEMENTS])]))


def test_malformed_endorsements_refuse_the_certificate() -> None:
    found = extensions_of(make(Form.CURRENT))
    with pytest.raises(EvidenceFormat):
        read(self_signed([(DICE, *found[DICE]), (ENDORSEMENTS, False, b"\xa0")]))
