"""gRPC channels to a broker. Every channel of these programs is made here."""

from __future__ import annotations

from typing import Final

import grpc

_OPTIONS: Final = (
    # gRPC would send the secrets in clear text through `http_proxy`, even to loopback addresses,
    # which its `no_proxy` does not exempt.
    ("grpc.enable_http_proxy", 0),
)


def channel(
    address: str,
    *others: str,
    credentials: grpc.ChannelCredentials | None = None,
    max_answer_bytes: int | None = None,
) -> grpc.aio.Channel:
    """Return a channel to a broker that uses no proxy. Nothing is sent yet.

    Args:
        address: `host:port`, `[v6]:port` or `unix:/path`.
        others: addresses to try if that one does not answer; then all are numeric, with ports.
        credentials: TLS credentials; None for a channel without TLS.
        max_answer_bytes: maximum size of an answer; None for gRPC's own limit of 4 MiB.
    """
    options: list[tuple[str, int | str]] = list(_OPTIONS)
    if max_answer_bytes is not None:
        options.append(("grpc.max_receive_message_length", max_answer_bytes))
    target = address
    if others:
        target = "ipv6:" + ",".join(_as_ipv6(each) for each in (address, *others))
        options.append(("grpc.default_authority", "localhost"))
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options)
    return grpc.aio.secure_channel(target, credentials, options=options)


def _as_ipv6(address: str) -> str:
    """Return an address as IPv6: gRPC takes several addresses of one family only."""
    return address if address.startswith("[") else "[::ffff:{}]:{}".format(*address.split(":"))
