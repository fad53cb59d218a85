"""Certificates directly under a simulated root, as only the vendor can issue them."""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID

from verdictd_py.simulator import pki


def signer_under(
    root: pki.Signer,
    name: str | x509.Name,
    validity: pki.Validity,
    *,
    ca: bool = False,
    signs_crls: bool | None = None,
    crl_url: str | None = None,
) -> pki.Signer:
    """Return a certificate with its key.

    Args:
        name: its subject, or the common name in it.
        ca: whether it is a CA, which may sign certificates.
        signs_crls: whether it may sign CRLs; by default a CA may.
        crl_url: address of its CRL, if it names one.
    """
    key = pki.new_key()
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca if signs_crls is None else signs_crls,
        encipher_only=False,
        decipher_only=False,
    )
    if isinstance(name, str):
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(root.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(validity.not_before)
        .not_valid_after(validity.not_after)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
    )
    if crl_url is not None:
        point = x509.DistributionPoint(
            full_name=[x509.UniformResourceIdentifier(crl_url)],
            relative_name=None,
            reasons=None,
            crl_issuer=None,
        )
        builder = builder.add_extension(x509.CRLDistributionPoints([point]), critical=False)
    return pki.Signer(key, builder.sign(root.key, hashes.SHA256()))
