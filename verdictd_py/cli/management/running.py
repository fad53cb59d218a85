"""Runs one command of `verdict-py`, and writes its output in the requested form."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace
from dataclasses import replace
from functools import partial
from typing import Any, Final

from verdictd_py.cli.management.client import BrokerClient, BrokerFailed
from verdictd_py.cli.management.command import Command
from verdictd_py.cli.management.document_commands import open_problems
from verdictd_py.cli.management.watching import DEFAULT_SECONDS, MAX_SECONDS, MIN_SECONDS, watch
from verdictd_py.cli.output.result import Form
from verdictd_py.cli.parsing import EXIT_OK
from verdictd_py.errors import ConfigError

_FORMS: Final = tuple(form.value for form in Form if form is not Form.NAMES)


def add_output_options(parser: ArgumentParser, default: Any) -> None:  # noqa: ANN401
    """Add the options about the output of a command.

    Args:
        default: SUPPRESS for options behind a command, None for those before it.
    """
    parser.add_argument(
        "-o",
        "--output",
        choices=_FORMS,
        default=default,
        help="table (default), wide (all columns), json, yaml",
    )
    parser.add_argument(
        "--json", dest="output", action="store_const", const="json", default=default, help="-o json"
    )
    parser.add_argument(
        "-q",
        "--quiet",
        action="store_true",
        default=default,
        help="only ids or names, one on each line",
    )


def chosen_form(options: Namespace) -> Form:
    """Return the form that the options request.

    Raises:
        ConfigError: two options contradict each other.
    """
    named = getattr(options, "output", None)
    if getattr(options, "quiet", None):
        if named is not None:
            raise ConfigError("-q writes only names: give it without -o and --json")
        return Form.NAMES
    return Form.TABLE if named is None else Form(named)


def _seconds(text: str) -> float:
    """Parse the pause of `--interval` for argparse."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not MIN_SECONDS <= seconds <= MAX_SECONDS:
        raise ArgumentTypeError(f"write seconds from {MIN_SECONDS:.0f} to {MAX_SECONDS:.0f}")
    return seconds


def add_watch_options(parser: ArgumentParser) -> None:
    """Add the options of a command whose output changes by itself."""
    parser.add_argument(
        "--watch", action="store_true", help="write the output again when it changes, until Ctrl-C"
    )
    parser.add_argument(
        "--interval",
        metavar="S",
        type=_seconds,
        default=DEFAULT_SECONDS,
        help=f"seconds between two looks of --watch ({DEFAULT_SECONDS:.0f})",
    )


async def run_command(command: Command, client: BrokerClient, options: Namespace) -> int:
    """Run a command; its data goes to standard output, its remarks to standard error."""
    options.form = chosen_form(options)
    if getattr(options, "watch", False):
        produce = partial(command.run, client, options)
        return await watch(produce, options.form, options.interval)
    output = await command.run(client, options)
    if command.changes and output.status == EXIT_OK:
        try:
            problems = await open_problems(client)
        except BrokerFailed as error:  # the change was made nevertheless
            problems = (f"cannot read the open problems: {error}",)
        output = replace(output, remarks=(*output.remarks, *problems))
    output.print(options.form)
    output.print_remarks()
    return output.status
