"""`verdictd-py`: the daemon, or one of the commands beside it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Final

from verdictd_py.cli.parsing import fail
from verdictd_py.errors import VerdictdError

EXIT_BROKEN_PIPE: Final = 141
"""As a shell says of SIGPIPE: neither a yes nor a no."""

COMMANDS: Final = {
    "admin-token": "a token for whoever administers over HTTP (kbs-client config)",
    "appraise": "judge a certificate or a quote offline, exactly as the listener would",
    "audit": "check that an audit trail is as it was written",
    "collateral": "fetch, show and verify collateral, for a hall without a network",
    "demo": "the whole story on loopback, without hardware, in a minute",
    "eventlog": "show a guest's boot event log, and whether a quote's registers prove it",
    "guest": "a reference guest: attest, then ask for a key or a resource",
    "keyprovider": "ocicrypt's key provider on standard input and output, without a daemon",
    "policy": "check and test a policy without a broker, exactly as the daemon would",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point. A command is loaded only when it is named."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    module = import_module(f"verdictd_py.cli.{name.replace('-', '_') or 'daemon'}")
    run: Callable[[Sequence[str]], int] = module.run
    try:
        status = run(arguments[1:] if name else arguments)
        sys.stdout.flush()
        return status
    except VerdictdError as error:
        fail(f"verdictd-py {name}".strip(), str(error))
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stdout = None  # nothing to flush at exit
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    raise SystemExit(main())
