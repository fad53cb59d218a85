"""`verdictd-py`: starts the daemon or one of its commands."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from importlib import import_module
from typing import Final

from verdictd_py.cli.hardening import require_executable_memory
from verdictd_py.cli.output import progress
from verdictd_py.cli.output.limits import TimeExpired, limited, requested
from verdictd_py.cli.parsing import EXIT_USAGE, Failed, fail, with_help
from verdictd_py.errors import VerdictdError

EXIT_BROKEN_PIPE: Final = 141
"""Exit status of a shell after SIGPIPE: neither success nor a refusal."""

COMMANDS: Final = {
    "admin-token": "sign a token for an administrator over HTTP (kbs-client config)",
    "appraise": "appraise a certificate or a quote offline, exactly as the listener would",
    "audit": "verify an audit trail; find and export its records",
    "collateral": "fetch, display and verify collateral for an air-gapped site",
    "completion": "complete this program's command line in bash, zsh, fish, PowerShell or tcsh",
    "config": "write, check and display the configuration; starts nothing",
    "demo": "a broker and its guests on loopback, without hardware, in a minute",
    "doctor": "whether this host and these settings let the broker start and serve guests",
    "eventlog": "display a guest's boot event log, and verify it against a quote",
    "guest": "a reference guest: attest, then request a key or a resource",
    "keyprovider": "ocicrypt's key provider on standard input and output, without a daemon",
    "man": "the manual page of verdictd-py or verdict-py",
    "policy": "check and test a policy without a broker, exactly as the daemon would",
    "store": "seal the store of keys and resources, and verify it",
}


_LIMITED: Final = COMMANDS.keys() - {"completion", "guest", "man"}
"""Commands with `--timeout`. The other ones read nothing (or, `guest`, limit each step)."""

_PROGRESS: Final = frozenset({"appraise", "audit", "collateral", "eventlog", "policy"})
"""Commands that take any time and answer at their end: they display that they run."""


@contextmanager
def _supervised(name: str, arguments: Sequence[str]) -> Iterator[None]:
    """Report the progress of a command, and limit its time if `--timeout` is given."""
    if name not in _LIMITED:
        yield
        return
    shown = progress.until_output(f"verdictd-py {name}") if name in _PROGRESS else nullcontext()
    with shown, limited(requested(arguments)):
        yield


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; it loads only the module of the given command."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(arguments)
    except Failed as error:
        if "--json" in arguments:
            from verdictd_py.cli.output import errors  # noqa: PLC0415  # for errors only

            form = errors.requested_form(arguments)
            errors.report(form, EXIT_USAGE, error.name, error.message)
        raise


def _main(arguments: list[str]) -> int:
    name = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    if arguments and not name and not arguments[0].startswith("-"):
        from verdictd_py.cli import suggest  # noqa: PLC0415  # for errors only

        text = suggest.unknown_command("verdictd-py", arguments)
        fail("verdictd-py", with_help(text, "verdictd-py"))
    try:
        if not name:
            require_executable_memory()
            gc.disable()  # until the daemon has started (`favour_event_loop`): a tenth of its time
    except VerdictdError as error:
        fail("verdictd-py", str(error))
    module = import_module(f"verdictd_py.cli.{name.replace('-', '_') or 'daemon'}")
    run: Callable[[Sequence[str]], int] = module.run
    try:
        with _supervised(name, arguments):
            status = run(arguments[1:] if name else arguments)
        sys.stdout.flush()
        return status
    except TimeExpired as error:
        fail(f"verdictd-py {name}", str(error), "timeout")
    except VerdictdError as error:
        fail(f"verdictd-py {name}".strip(), str(error), error.code)
    except BrokenPipeError:  # the reader closed the pipe
        sys.stdout = None  # nothing to flush at exit
        return EXIT_BROKEN_PIPE
    except KeyboardInterrupt:
        return 130
    finally:
        gc.enable()  # for a caller that goes on in this process


if __name__ == "__main__":
    raise SystemExit(main())
