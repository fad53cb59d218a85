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
    *,
    credentials: grpc.ChannelCredentials | None = None,
    max_answer_bytes: int | None = None,
) -> grpc.aio.Channel:
    """Return a channel to a broker that uses no proxy. Nothing is sent yet.

    Args:
        address: `host:port`, `[v6]:port` or `unix:/path`.
        credentials: TLS credentials; None for a channel without TLS.
        max_answer_bytes: maximum size of an answer; None for gRPC's own limit of 4 MiB.
    """
    options = list(_OPTIONS)
    if max_answer_bytes is not None:
        options.append(("grpc.max_receive_message_length", max_answer_bytes))
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, credentials, options=options)
