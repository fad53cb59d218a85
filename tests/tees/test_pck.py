"""Chains are verified here before anybody is asked for collateral."""

from __future__ import annotations

import ssl
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.vectors import vector
from tests.tees.support import NOW, REPORT_DATA, good_collateral, good_quote, platform
from verdictd_py.errors import (
    AttestationError,
    ClockBehind,
    CollateralExpired,
    ConfigError,
    EvidenceExpired,
    QuoteInvalid,
    Reason,
    ReasonKind,
)
from verdictd_py.simulator import Flaw, SimulatedPlatform, pki
from verdictd_py.tees.intel.chains import (
    INTEL_ROOT_KEY_SHA256,
    MAX_CHAIN_CERTIFICATES,
    Periods,
    root_key_digest,
    verify_chain_signatures,
)
from verdictd_py.tees.intel.pck import verify_pck_chain, verify_quote_signatures, verify_signed_text
from verdictd_py.tees.intel.quote import parse_quote

DAY = timedelta(days=1)


def verify_chain(pem: bytes, *, root_key: bytes, now: datetime) -> x509.Certificate:
    """Verify a chain up to the root, and its validity; return the leaf."""
    chain = verify_chain_signatures(pem, root_key=root_key)
    Periods(chain).require(now, EvidenceExpired)
    return chain[0]


@dataclass
class Link:
    """One certificate to be made; the defaults make a chain that verifies."""

    name: str
    ca: bool = True
    path_length: int | None = None
    key_cert_sign: bool = True
    key: Any = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    hash: Any = field(default_factory=hashes.SHA256)
    start: datetime = NOW - DAY
    end: datetime = NOW + DAY
    issuer_name: str | None = None
    bare: bool = False  # without any extension


def _certificate(link: Link, issuer: Link) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(link.name))
        .issuer_name(named(link.issuer_name or issuer.name))
        .public_key(link.key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(link.start)
        .not_valid_after(link.end)
    )
    if not link.bare:
        length = link.path_length if link.ca else None
        builder = builder.add_extension(
            x509.BasicConstraints(ca=link.ca, path_length=length), critical=True
        ).add_extension(x509.KeyUsage(key_cert_sign=link.key_cert_sign, **usage), critical=True)
    return builder.sign(issuer.key, link.hash)


def _chain(root: Link, *links: Link) -> tuple[bytes, bytes]:
    """PEM, leaf first, and the digest of the root's key; `links` from the top down."""
    certificates = [_certificate(root, root)]
    for link, issuer in zip(links, (root, *links), strict=False):
        certificates.append(_certificate(link, issuer))
    pem = _pem(*reversed(certificates))
    return pem, root_key_digest(certificates[0].public_bytes(serialization.Encoding.DER))


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(serialization.Encoding.PEM) for one in certificates)


def _links(**changes: dict[str, Any]) -> list[Link]:
    """Root, CA and leaf, each with changes."""
    made = {
        "root": Link("root"),
        "ca": Link("a platform CA", path_length=0),
        "leaf": Link("leaf", ca=False),
    }
    return [replace(made[name], **changes.get(name, {})) for name in made]


def test_good_chain() -> None:
    pem, root = _chain(*_links())
    leaf = verify_chain(pem + b"\0", root_key=root, now=NOW)
    assert leaf.subject.rfc4514_string() == "CN=leaf"


P384 = {"key": ec.generate_private_key(ec.SECP384R1())}
RSA = {"key": rsa.generate_private_key(public_exponent=65537, key_size=2048)}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"ca": {"ca": False}}, "not a CA"),
        ({"ca": {"key_cert_sign": False}}, "not a CA"),
        ({"root": {"ca": False}}, "not a CA"),
        ({"root": {"path_length": 0}}, "longer than a CA"),
        ({"ca": {"bare": True}}, "ExtensionNotFound"),
        ({"leaf": {"issuer_name": "someone else"}}, "issuer"),
        ({"leaf": {"hash": hashes.SHA384()}}, "SHA-256"),
        ({"ca": P384}, "P-256"),
        ({"root": RSA}, "P-256"),
    ],
)
def test_links_that_do_not_hold(changes: dict[str, Any], says: str) -> None:
    pem, root = _chain(*_links(**changes))
    with pytest.raises(QuoteInvalid, match=r"^the certificate chain does not verify") as caught:
        verify_chain(pem, root_key=root, now=NOW)
    (reason,) = caught.value.reasons
    expected = Reason("pck-chain", "", "", reason.text, kind=ReasonKind.VERIFICATION)
    assert reason == expected
    assert says.lower() in reason.text.lower()


def test_signed_by_another_key_of_the_same_name() -> None:
    root, ca, leaf = _links()
    impostor = replace(ca, key=ec.generate_private_key(ec.SECP256R1()))
    pem, digest = _chain(root, ca, leaf)
    forged = _certificate(leaf, impostor).public_bytes(serialization.Encoding.PEM)
    rest = pem[pem.index(b"-----END") :].partition(b"-----\n")[2]
    with pytest.raises(QuoteInvalid, match="trusted root"):
        verify_chain(forged + rest, root_key=digest, now=NOW)


@pytest.mark.parametrize("who", ["ca", "leaf"])
@pytest.mark.parametrize(("moved", "error"), [(-3 * DAY, EvidenceExpired), (3 * DAY, ClockBehind)])
def test_outside_validity(who: str, moved: timedelta, error: type[Exception]) -> None:
    """The vendor's signature proves that the issue has passed, so that a clock must be wrong."""
    pem, root = _chain(*_links(**{who: {"start": NOW - DAY + moved, "end": NOW + DAY + moved}}))
    with pytest.raises(error):
        verify_chain(pem, root_key=root, now=NOW)


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("moment", "error"),
    [
        (NOW - DAY - SECOND, ClockBehind),
        (NOW - DAY, None),
        (NOW + DAY, None),
        (NOW + DAY + SECOND, EvidenceExpired),
    ],
)
def test_first_and_last_second_of_the_validity(
    moment: datetime, error: type[Exception] | None
) -> None:
    """RFC 5280 4.1.2.5: both ends belong to the validity."""
    pem, root = _chain(*_links())
    with pytest.raises(error) if error else nullcontext():
        verify_chain(pem, root_key=root, now=moment)


@pytest.mark.parametrize("expired", [EvidenceExpired, CollateralExpired])
def test_reason_of_an_expired_certificate(
    expired: type[CollateralExpired | EvidenceExpired],
) -> None:
    pem, _ = _chain(*_links())
    leaf, now = x509.load_pem_x509_certificates(pem)[0], NOW + 2 * DAY
    text = "a certificate of the platform's chain is outside its validity"
    with pytest.raises(expired, match=f"^{text}$") as caught:
        Periods([leaf]).require(now, expired)
    window = f"{(NOW - DAY).isoformat()} to {(NOW + DAY).isoformat()}"
    reason = Reason("pck-chain", now.isoformat(), window, text, kind=ReasonKind.VERIFICATION)
    assert caught.value.reasons == (reason,)


@pytest.mark.parametrize("between", [0, 1, 2])
def test_a_root_that_is_not_signed_with_its_own_key(between: int) -> None:
    """Anybody can write a certificate with the trusted key in it, for example with a later end."""
    root = Link("root")
    cas = [Link(f"a platform CA {number}") for number in range(between)]
    pem, digest = _chain(root, *cas, Link("leaf", ca=False))
    forged = _certificate(root, replace(root, key=ec.generate_private_key(ec.SECP256R1())))
    parts = [*x509.load_pem_x509_certificates(pem)[:-1], forged]
    with pytest.raises(QuoteInvalid, match="trusted root"):
        verify_chain(_pem(*parts), root_key=digest, now=NOW)


def test_lengths() -> None:
    """One certificate is no chain, four are accepted, five are too many."""
    root = Link("root")
    links = [*(Link(str(number)) for number in range(MAX_CHAIN_CERTIFICATES - 2)), Link("leaf")]
    pem, digest = _chain(root, *links)
    assert verify_chain(pem, root_key=digest, now=NOW).subject.rfc4514_string() == "CN=leaf"
    pem, digest = _chain(root)
    with pytest.raises(QuoteInvalid):
        verify_chain(pem, root_key=digest, now=NOW)
    pem, digest = _chain(root, Link("1"), Link("2"), Link("3"), Link("leaf", ca=False))
    with pytest.raises(QuoteInvalid):
        verify_chain(pem, root_key=digest, now=NOW)
    with pytest.raises(QuoteInvalid):
        verify_chain(b"", root_key=digest, now=NOW)


def test_chain_in_another_order_or_without_root() -> None:
    pem, root = _chain(*_links())
    parts = [
        part + b"-----END CERTIFICATE-----\n" for part in pem.split(b"-----END CERTIFICATE-----\n")
    ][:-1]
    for order in ([1, 0, 2], [0, 1], [0, 2], [2, 1, 0], [0, 0, 2]):
        with pytest.raises(QuoteInvalid):
            verify_chain(b"".join(parts[at] for at in order), root_key=root, now=NOW)


def test_leaf_that_is_no_pck_certificate() -> None:
    """A chain of Intel's own for another purpose says nothing about a platform."""
    pem, root = _chain(*_links())
    with pytest.raises(QuoteInvalid, match="trusted root") as caught:
        verify_pck_chain(pem, root_key=root, now=NOW)
    assert "not a PCK certificate" in caught.value.reasons[0].text


@pytest.mark.parametrize("name", ["", "SGX PCK CA", "SGX PCK Processor or Platform CA"])
def test_a_pck_of_a_ca_whose_name_does_not_say_which_one_it_is(name: str) -> None:
    """The CA decides which revocation list is asked; a CA without a common name is none of them."""
    root = platform().root
    attribute = (NameOID.COMMON_NAME, name) if name else (NameOID.ORGANIZATION_NAME, "Platform")
    subject = x509.Name([x509.NameAttribute(*attribute)])
    key, validity = pki.new_key(), pki.Validity(NOW - DAY, NOW + DAY)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            platform().pck_ca.certificate.extensions.get_extension_for_class(x509.KeyUsage).value,
            critical=True,
        )
        .sign(root.key, hashes.SHA256())
    )
    pck = pki.new_pck(
        pki.Signer(key, certificate), platform().identity, validity, "https://pcs.test/crl"
    )
    pem = _pem(pck.certificate, certificate, root.certificate)
    with pytest.raises(QuoteInvalid) as caught:
        verify_pck_chain(pem, root_key=root_key_digest(root.der), now=NOW)
    assert "not issued by a PCK processor or platform CA" in caught.value.reasons[0].text


@pytest.mark.parametrize("flaw", Flaw)
def test_reason_of_a_forged_quote(flaw: Flaw) -> None:
    quote = parse_quote(platform().quote(REPORT_DATA, flaw=flaw))
    root = root_key_digest(platform().root_ca_der)
    pck = verify_pck_chain(quote.pck_chain, root_key=root, now=NOW)
    with pytest.raises(QuoteInvalid, match=r"^the quote's signature does not verify$") as caught:
        verify_quote_signatures(quote, pck)
    (reason,) = caught.value.reasons
    assert reason == Reason("signature", "", "", reason.text, kind=ReasonKind.VERIFICATION)
    assert reason.text.startswith("the quote's signature does not verify: the ")


def test_reason_of_a_text_that_its_signer_did_not_sign() -> None:
    text = "the signature of the collateral does not verify"
    with pytest.raises(QuoteInvalid, match=f"^{text}$") as caught:
        verify_signed_text(
            good_collateral().tcb_info + " ",
            good_collateral().tcb_info_signature,
            platform().tcb_signer.certificate,
            rule="tcb-info",
        )
    assert caught.value.reasons == (Reason("tcb-info", "", "", text, kind=ReasonKind.VERIFICATION),)


@pytest.mark.parametrize(
    ("name", "fmspc", "ca"),
    [
        ("tdx-v4-up-to-date", "b0c06f000000", "platform"),
        ("tdx-v4-spr", "50806f000000", "platform"),
        ("tdx-v5", "90c06f000000", "platform"),
        ("sgx-v3", "00a067110000", "processor"),
    ],
)
def test_intel_chains(name: str, fmspc: str, ca: str) -> None:
    """The pinned key is the one that real chains end at."""
    quote = parse_quote(vector(f"quotes/{name}/quote.bin").read_bytes())
    now = datetime.fromisoformat("2026-06-20T10:16:03Z")
    found = verify_pck_chain(quote.pck_chain, root_key=INTEL_ROOT_KEY_SHA256, now=now)
    assert (found.fmspc, found.ca, len(found.cpu_svn)) == (fmspc, ca, 16)


def test_root_that_is_no_certificate() -> None:
    with pytest.raises(ConfigError, match="openssl x509"):
        root_key_digest(b"-----BEGIN CERTIFICATE-----")


def test_a_serial_that_the_library_warns_of_is_refused_without_a_word() -> None:
    """Warnings are errors in these tests, and lines on standard error elsewhere."""
    pem, root = _chain(*_links())
    leaf = x509.load_pem_x509_certificates(pem)[0]
    der = bytearray(leaf.public_bytes(serialization.Encoding.DER))
    serial = leaf.serial_number.to_bytes(leaf.serial_number.bit_length() // 8 + 1)
    der[der.index(serial)] |= 0x80  # a negative number
    odd = ssl.DER_cert_to_PEM_cert(bytes(der)).encode()
    with pytest.raises(QuoteInvalid):
        verify_chain(
            odd + pem[pem.index(b"-----END") :].partition(b"\n")[2], root_key=root, now=NOW
        )


@given(st.lists(st.tuples(st.integers(0, 10**4), st.integers(1, 255)), min_size=1, max_size=3))
@examples(200)
def test_flipped_chains(flips: list[tuple[int, int]]) -> None:
    quote = parse_quote(good_quote())
    pem = bytearray(quote.pck_chain)
    for at, mask in flips:
        pem[at % len(pem)] ^= mask
    root = root_key_digest(platform().root_ca_der)
    try:
        found = verify_pck_chain(bytes(pem), root_key=root, now=NOW)
    except AttestationError:
        return
    assert found.fmspc == verify_pck_chain(quote.pck_chain, root_key=root, now=NOW).fmspc


def test_a_cached_chain_is_verified_again_for_another_root() -> None:
    pem, root = parse_quote(good_quote()).pck_chain, root_key_digest(platform().root_ca_der)
    assert verify_pck_chain(pem, root_key=root, now=NOW) is verify_pck_chain(
        pem, root_key=root, now=NOW
    )
    with pytest.raises(QuoteInvalid, match="trusted root"):
        verify_pck_chain(pem, root_key=INTEL_ROOT_KEY_SHA256, now=NOW)


@pytest.mark.parametrize("who", [0, 1, 2], ids=["PCK", "intermediate CA", "root"])
def test_a_cached_chain_expires_with_each_of_its_certificates(who: int) -> None:
    """A clock that is set back before the issue is noticed, too."""
    pem, root = parse_quote(good_quote()).pck_chain, root_key_digest(platform().root_ca_der)
    verify_pck_chain(pem, root_key=root, now=NOW)
    certificate = x509.load_pem_x509_certificates(pem.rstrip(b"\0"))[who]
    with pytest.raises(EvidenceExpired):
        verify_pck_chain(pem, root_key=root, now=certificate.not_valid_after_utc + SECOND)
    with pytest.raises(ClockBehind):
        verify_pck_chain(pem, root_key=root, now=certificate.not_valid_before_utc - SECOND)
    assert verify_pck_chain(pem, root_key=root, now=NOW).ca == "platform"


def test_the_first_expired_certificate_of_a_cached_chain_is_refused() -> None:
    """The certificates of one chain end at different times."""
    for who in ("ca", "leaf"):
        pem, root = _chain(*_links(**{who: {"end": NOW + SECOND}}))
        chain = verify_chain_signatures(pem, root_key=root)
        periods = Periods(chain)
        assert periods.end == NOW + SECOND
        periods.require(NOW + SECOND)
        with pytest.raises(CollateralExpired):
            periods.require(NOW + 2 * SECOND)


def test_a_long_text_between_certificates_is_verified_and_not_cached() -> None:
    """Any guest can send a genuine chain in as many forms as it likes."""
    pem, root = parse_quote(good_quote()).pck_chain, root_key_digest(platform().root_ca_der)
    padded = b"x" * 60_000 + b"\n" + pem
    first = verify_pck_chain(padded, root_key=root, now=NOW)
    assert verify_pck_chain(padded, root_key=root, now=NOW) is not first
    assert first.fmspc == verify_pck_chain(pem, root_key=root, now=NOW).fmspc


@pytest.mark.parametrize("flaw", [Flaw.FOREIGN_KEY, Flaw.FORGED_QE_REPORT])
def test_a_cached_quoting_enclave_vouches_for_no_other_key(flaw: Flaw) -> None:
    root = root_key_digest(platform().root_ca_der)
    good, forged = parse_quote(good_quote()), parse_quote(platform().quote(REPORT_DATA, flaw=flaw))
    pck = verify_pck_chain(good.pck_chain, root_key=root, now=NOW)
    verify_quote_signatures(good, pck)
    with pytest.raises(QuoteInvalid):
        verify_quote_signatures(forged, pck)
    other = SimulatedPlatform.create(now=NOW)
    chain = parse_quote(other.quote(REPORT_DATA)).pck_chain
    stranger = verify_pck_chain(chain, root_key=root_key_digest(other.root_ca_der), now=NOW)
    with pytest.raises(QuoteInvalid, match="signature"):
        verify_quote_signatures(good, stranger)
