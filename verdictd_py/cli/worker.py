"""Program of a guest worker, which the daemon starts (`--workers`); it is not a command.

The modules of the broker are loaded by `main`, after the signals are ignored that are meant for the
daemon.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import socket
import sys
from collections.abc import Sequence


def main(argv: Sequence[str]) -> int:
    """Serve guests until the daemon closes the channel.

    Args:
        argv: the descriptor of the channel.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    gc.disable()  # until the worker has started (`favour_event_loop`)
    from verdictd_py.cli.daemon import described  # noqa: PLC0415  # see above
    from verdictd_py.cli.hardening import harden  # noqa: PLC0415
    from verdictd_py.daemon.process import EXIT_FAILED  # noqa: PLC0415
    from verdictd_py.daemon.workers.worker import run  # noqa: PLC0415

    harden()
    connected = socket.socket(fileno=int(argv[0]))
    connected.set_inheritable(False)  # its only form
    try:
        return asyncio.run(run(connected))
    except EOFError:  # the daemon has ended before it sent anything
        return EXIT_FAILED
    except Exception as error:  # noqa: BLE001  # a traceback could quote a secret
        print(f"verdictd-py: a guest worker ends: {described(error)}", file=sys.stderr)
        return EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
