"""Common mistakes with the files of a certificate and its key, so that a refusal names them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"
_ENCRYPTED: Final = (b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED")
_DER: Final = b"\x30\x82"


def mistake(certificate: tuple[Path, bytes], key: tuple[Path, bytes]) -> str:
    """Return what is wrong with the content of two files; empty for nothing common.

    Args:
        certificate: path and content of the certificate's file.
        key: the same of the private key. The result has nothing of the content.
    """
    (cert_path, cert_text), (key_path, key_text) = certificate, key
    for path, text in (certificate, key):
        if not text.strip():
            return f"{path} is empty"
    if _KEY in cert_text and _CERTIFICATE not in cert_text and _CERTIFICATE in key_text:
        return f"the files are swapped: {cert_path} has a private key, {key_path} a certificate"
    if any(mark in key_text for mark in _ENCRYPTED):
        return (
            f"the key {key_path} is encrypted with a passphrase, which a service cannot enter; "
            f"decrypt it with 'openssl pkey -in {key_path}'"
        )
    for path, text, command in (
        (cert_path, cert_text, "x509"),
        (key_path, key_text, "pkey"),
    ):
        if text.startswith(_DER):
            return f"{path} is DER, not PEM; convert it with 'openssl {command} -in {path}'"
    return ""
