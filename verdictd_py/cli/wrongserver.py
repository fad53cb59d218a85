"""Sentences about a wrong server at an address: its kind, and the option to change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from verdictd_py._generated import clientapi_pb2 as upstream
from verdictd_py._generated import clientapi_pb2_grpc as services
from verdictd_py.cli.probe import ABSENT, Kind, absence, certificate_problem, kind_of
from verdictd_py.domain.addresses import Address

_SECONDS: Final = 2.0
_OUR_PACKAGES: Final = ("clientapi", "verdictd.v1")
_KEY_PROVIDER: Final = "keyprovider.KeyProviderService"


def of_client_api(addresses: tuple[Address, ...], *, ca: Path | None) -> str:
    """Return a sentence about the server where a client API is expected; empty if it is gRPC.

    Args:
        ca: the CA of the client's TLS options; None if it does not use TLS.
    """
    kinds = [kind_of(address) for address in addresses]
    present = [
        (address, kind)
        for address, kind in zip(addresses, kinds, strict=True)
        if kind not in ABSENT
    ]
    if not present:
        where = " or ".join(map(str, addresses))
        return (
            f"the broker at {where} cannot be reached: {absence(kinds[0], addresses[0])}; "
            "start the broker, or correct -c"
        )
    address, kind = present[0]
    server = f"the server at {address}"
    if kind is Kind.GRPC:
        return f"{server} does not use TLS: remove --tls-ca, --tls-cert and --tls-key" if ca else ""
    if kind is Kind.GRPC_TLS and ca is None:
        return f"{server} requires TLS: add --tls-ca, --tls-cert and --tls-key"
    if kind is Kind.GRPC_TLS and ca is not None:
        problem = certificate_problem(address, ca)
        return f"{server} has a certificate that {problem}" if problem else ""
    return f"{server} is {kind}, not a client API; give -c the address of the broker's --client-api"


async def other_grpc_service(channel: grpc.aio.Channel, address: str) -> str:
    """Return a sentence about a gRPC server that is not a broker; empty if it is one.

    A broker of upstream has none of the services of this project, but those of `clientapi`.
    """
    offered = await _offered(channel)
    if any(name.startswith(_OUR_PACKAGES) for name in offered):
        return ""
    if offered:
        what = f"another gRPC service ({', '.join(sorted(offered)[:3])})"
        if _KEY_PROVIDER in offered:
            what = "a key provider (--keyprovider-api), which only wraps and unwraps"
    elif await _is_upstream(channel):
        return ""
    else:
        what = "another gRPC service"
    return (
        f"the server at {address} is {what}, not a client API; give -c the address of the "
        "broker's --client-api"
    )


async def _offered(channel: grpc.aio.Channel) -> list[str]:
    """Return the names of the services that a server lists; empty if it lists none."""

    async def requests() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    try:
        async with asyncio.timeout(_SECONDS):
            async for answer in stub.ServerReflectionInfo(requests()):
                if answer is None:  # gRPC returns None for bytes that are not a message
                    return []
                names = [service.name for service in answer.list_services_response.service]
                return [name for name in names if not name.startswith("grpc.")]
    except (grpc.aio.AioRpcError, TimeoutError):
        pass
    return []


async def _is_upstream(channel: grpc.aio.Channel) -> bool:
    """Return whether a server has a service of upstream's broker."""
    try:
        stub = services.GpgServiceStub(channel)
        await stub.listGpgKeys(upstream.ListGpgKeysRequest(), timeout=_SECONDS)
    except grpc.aio.AioRpcError as error:
        return error.code() is not grpc.StatusCode.UNIMPLEMENTED
    return True


_ATTESTATION: Final[Mapping[Kind, str]] = {
    Kind.HTTP: "add --protocol rcar, or give --connect the address of the broker's --listen",
    Kind.HTTPS: "add --protocol rcar, or give --connect the address of the broker's --listen",
}


def of_attestation_listener(address: Address) -> str:
    """Return a sentence about the server where RATS-TLS is expected; empty if it is that."""
    kind = kind_of(address)
    if kind is Kind.RATS_TLS:
        return ""
    if kind in ABSENT:
        return (
            f"cannot connect to {address}: {absence(kind, address)}; start the broker, or correct "
            "--connect"
        )
    remedy = _ATTESTATION.get(kind, "give --connect the address of the broker's --listen")
    return f"the server at {address} is {kind}, not an attestation listener; {remedy}"


def of_kbs(address: Address, *, tls: bool) -> str:
    """Return a sentence about the server where a KBS is expected; empty if it is HTTP(S).

    Args:
        tls: whether the guest uses TLS.
    """
    kind = kind_of(address)
    server = f"the server at {address}"
    if kind in ABSENT:
        return (
            f"cannot connect to {address}: {absence(kind, address)}; start the broker with "
            "--kbs-http, or correct --connect"
        )
    if kind is Kind.RATS_TLS:
        return (
            f"{server} is {kind}: remove --protocol rcar, or give --connect the address of the "
            "broker's --kbs-http"
        )
    if kind is Kind.HTTP:
        return f"{server} does not use TLS: write http:// in --connect" if tls else ""
    if kind is Kind.HTTPS or (kind is Kind.TLS and not tls):
        return "" if tls else f"{server} uses TLS: write https:// in --connect"
    if kind is Kind.TLS:
        return ""
    return f"{server} is {kind}, not a KBS; give --connect the address of the broker's --kbs-http"


def of_key_provider(address: Address) -> str:
    """Return a sentence about the server where ocicrypt expects a key provider; empty if gRPC."""
    kind = kind_of(address)
    if kind is Kind.GRPC:
        return ""
    if kind in ABSENT:
        return (
            f"no key provider at {address}: {absence(kind, address)}; start the broker, or correct "
            '"grpc"'
        )
    if kind is Kind.GRPC_TLS:
        return (
            f"the server at {address} requires TLS, which ocicrypt does not use; start the broker "
            'with --keyprovider-api on loopback, and correct "grpc"'
        )
    return (
        f'the server at {address} is {kind}, not a key provider; correct "grpc" to the address of '
        "the broker's --client-api or --keyprovider-api"
    )


def of_collateral_service(url: str) -> str:
    """Return a sentence about the server where a PCS or PCCS is expected; empty if it is HTTP(S).

    Args:
        url: URL of the service, without credentials.
    """
    parts = urlsplit(url)
    tls = parts.scheme == "https"
    address = Address(host=parts.hostname or "", port=parts.port or (443 if tls else 80))
    kind = kind_of(address)
    if kind in ABSENT:
        return f"no service at {address}: {absence(kind, address)}; correct --collateral-url"
    if kind is Kind.HTTP and tls:
        return f"the server at {address} does not use TLS: write http:// in --collateral-url"
    if kind in (Kind.HTTPS, Kind.TLS) and not tls:
        return f"the server at {address} uses TLS: write https:// in --collateral-url"
    if kind in (Kind.HTTP, Kind.HTTPS, Kind.TLS):
        return ""
    return f"the server at {address} is {kind}, not a PCS or PCCS; correct --collateral-url"
