"""Sinks by the texts of `--audit-sink`."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qs, urlsplit

from verdictd_py.errors import ConfigError
from verdictd_py.events.sinks.journald import JournalSink
from verdictd_py.events.sinks.sink import Delivery, Sink
from verdictd_py.events.sinks.syslog import (
    TCP_PORT,
    TLS_PORT,
    StreamSyslog,
    UnixSyslog,
    over_tcp,
    over_tls,
)

GROUP: Final = "verdictd_py.audit_sinks"
"""Entry point group of plug-ins: functions that return a `Sink` for the text of the option."""

_FORMS: Final = (
    "journald, syslog:/dev/log, syslog+tcp://HOST[:PORT] or syslog+tls://HOST[:PORT][?ca=FILE]"
)


def deliveries(texts: Sequence[str]) -> tuple[Delivery, ...]:
    """Return a running delivery for each text.

    Raises:
        ConfigError: a text names no sink; the message has the remedy.
    """
    sinks = [(_name(text), sink_of(text)) for text in texts]
    return tuple(Delivery(name, sink) for name, sink in sinks)


def sink_of(text: str) -> Sink:
    """Return the sink that a text names. Nothing is connected yet.

    Raises:
        ConfigError: it names none; the message has the remedy.
    """
    try:
        url = urlsplit(text)
        make = _KNOWN.get(url.scheme or text)
        if make is not None:
            return make(url)
    except ValueError as error:
        raise ConfigError(f"--audit-sink {_name(text)!r}: {error}; write {_FORMS}") from None
    for point in entry_points(group=GROUP, name=url.scheme or text):
        plug_in: Callable[[str], Sink] = point.load()
        return plug_in(text)
    raise ConfigError(
        f"--audit-sink {_name(text)!r} names no sink; write {_FORMS}, or install its plug-in"
    )


def _name(text: str) -> str:
    """Return the text without user, password, query and fragment, which may be secrets."""
    return re.sub(r"(?<=://)[^/?#]*@", "", text).partition("?")[0].partition("#")[0]


def _unix(url: SplitResult) -> Sink:
    if url.netloc or not url.path.startswith("/"):
        raise ValueError("a unix socket has an absolute path")
    return UnixSyslog(Path(url.path))


def _tcp(url: SplitResult) -> Sink:
    return StreamSyslog(over_tcp(_host(url), url.port or TCP_PORT))


def _tls(url: SplitResult) -> Sink:
    query = parse_qs(url.query, strict_parsing=True) if url.query else {}
    files = query.pop("ca", [])
    if query:
        raise ValueError(f"unknown part {next(iter(query))!r}")
    try:
        context = ssl.create_default_context(cafile=files[0] if files else None)
    except OSError as error:
        raise ValueError(f"cannot read {files[0]}: {error.strerror or error}") from None
    return StreamSyslog(over_tls(_host(url), url.port or TLS_PORT, context))


def _host(url: SplitResult) -> str:
    if not url.hostname or url.path not in ("", "/"):
        raise ValueError("the host is missing")
    return url.hostname


_KNOWN: Final[dict[str, Callable[[SplitResult], Sink]]] = {
    "journald": lambda url: JournalSink(),  # noqa: ARG005  # the same form as the others
    "syslog": _unix,
    "syslog+tcp": _tcp,
    "syslog+tls": _tls,
}
