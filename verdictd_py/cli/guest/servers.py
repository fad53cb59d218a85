"""Messages of `verdictd-py guest` about a server that is not a broker for the chosen protocol."""

from __future__ import annotations

from argparse import Namespace
from typing import Final
from urllib.parse import urlsplit

from verdictd_py.cli.wrongserver import of_attestation_listener, of_kbs
from verdictd_py.domain.addresses import Address
from verdictd_py.guest.connection import BrokerRefused
from verdictd_py.guest.rcar.errors import KbsRefused
from verdictd_py.guest.rcar.http import loopback

_NOT_SERVED: Final = (400, 403, 404, 405, 501)
"""Statuses with which HTTP servers that are not a KBS answer requests, without its error body."""


def wrong_server(options: Namespace) -> str:
    """Return a sentence about the server at `--connect`; empty if it is of the right kind."""
    url: str = options.connect
    if options.protocol == "ratstls":
        return of_attestation_listener(Address.parse(url))
    scheme, separator, rest = url.partition("://")
    if not separator:
        address = Address.parse(url)
        tls = options.ca is not None or options.insecure_no_tls_verification
        return of_kbs(address, tls=tls or not loopback(address.host))
    parts = urlsplit(f"//{rest}")
    port = parts.port or (443 if scheme == "https" else 80)
    return of_kbs(Address(host=parts.hostname or "", port=port), tls=scheme == "https")


def is_no_kbs(error: BrokerRefused) -> bool:
    """Return whether an HTTP server answered that is not a KBS."""
    return isinstance(error, KbsRefused) and not error.has_body and error.status in _NOT_SERVED


def no_kbs(options: Namespace, error: BrokerRefused) -> str:
    """Return the message for an HTTP server that is not a KBS."""
    return (
        f"the server at {options.connect} is an HTTP server, but not a KBS ({error}); give "
        "--connect the address of the broker's --kbs-http"
    )
