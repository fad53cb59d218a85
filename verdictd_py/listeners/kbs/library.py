"""aiohttp, imported without the CA certificates of this host: a twelfth of the start.

aiohttp reads them when it is imported, for its HTTP client, which the broker does not use. A
package with a TEE may use it. So they are read once the daemon has started (`load_cas`); until
then, that client refuses every server.
"""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_VARIABLES: Final = ("SSL_CERT_FILE", "SSL_CERT_DIR")
"""Where OpenSSL looks for CA certificates (SSL_CTX_load_verify_locations(3))."""


@contextmanager
def _without_cas() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _VARIABLES}
    os.environ.update(dict.fromkeys(_VARIABLES, os.devnull))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_delays: Final = "aiohttp" not in sys.modules
if _delays:
    with _without_cas():
        from aiohttp import connector
else:
    from aiohttp import connector


def load_cas() -> None:
    """Read the CA certificates for aiohttp's client, if its import did not. Any thread may."""
    context = getattr(connector, "_SSL_CONTEXT_VERIFIED", None)  # of this version, and maybe others
    if _delays and isinstance(context, ssl.SSLContext):
        context.load_default_certs()
