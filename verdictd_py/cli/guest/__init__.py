"""`verdictd-py guest`: attests to a broker, and requests a secret or serves image tools."""

from __future__ import annotations

import asyncio
import base64
import sys
from argparse import Namespace
from collections.abc import Sequence

from verdictd_py.cli.guest import agent, ratstls, rcar
from verdictd_py.cli.guest.log import logging_at
from verdictd_py.cli.guest.options import build_parser, check, complete
from verdictd_py.cli.guest.servers import is_no_kbs, no_kbs, wrong_server
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, EXIT_UNREACHABLE, complain
from verdictd_py.guest.connection import BrokerRefused, BrokerUnreachable, HandshakeFailed


def run(argv: Sequence[str]) -> int:
    """Write the requested secret to standard output, and return the exit status.

    Returns:
        0 done, 1 the broker refused, 3 no broker was reached.

    Raises:
        ConfigError: the command line or the simulated platform cannot be used.
    """
    parser = build_parser()
    options = parser.parse_args(list(argv))
    complete(options)
    if options.connect is None:
        parser.error(
            "--connect is missing: write host:port of the broker's --listen, or of its --kbs-http "
            "with --protocol rcar"
        )
    check(options)
    with logging_at(options.log_level):
        return _run(options)


def _run(options: Namespace) -> int:
    protocol = rcar if options.protocol == "rcar" else ratstls
    if options.request == "agent":
        asyncio.run(agent.serve(options, protocol.connector(options)))
        return EXIT_OK
    try:
        secret = asyncio.run(protocol.fetch(options))
    except (BrokerUnreachable, HandshakeFailed) as error:
        complain("verdictd-py guest", wrong_server(options) or str(error))
        return EXIT_UNREACHABLE
    except BrokerRefused as error:
        if is_no_kbs(error):
            complain("verdictd-py guest", no_kbs(options, error))
            return EXIT_UNREACHABLE
        complain("verdictd-py guest", str(error))
        return EXIT_REFUSED
    content = secret.reveal()
    sys.stdout.buffer.write(base64.b64encode(content) + b"\n" if options.base64 else content)
    sys.stdout.flush()
    return EXIT_OK
