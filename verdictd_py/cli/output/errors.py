"""Errors of commands as documents, for programs that read the output of `-o json` or `-o yaml`.

A program reads one document from standard output, whether the command succeeded or not. The line
for people is on standard error in every form.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.errors import ConfigError

KIND = "error"


def requested_form(arguments: Sequence[str]) -> Form:
    """Return the form that a command line requests, also one that cannot be parsed."""
    form = Form.TABLE
    for index, argument in enumerate(arguments):
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        if argument == "--json":
            form = Form.JSON
        elif argument in ("-o", "--output"):
            form = _named(following, form)
        elif argument.startswith(("-o", "--output=")):
            form = _named(argument.removeprefix("--output=").removeprefix("-o"), form)
        elif argument == "--":
            break
    return form


def _named(name: str, otherwise: Form) -> Form:
    return next((form for form in Form if form.is_data and form == name), otherwise)


def report(form: Form, status: int, code: str, message: str) -> None:
    """Write an error as a document to standard output; nothing in a form for people.

    Args:
        status: exit status of the program.
        code: stable name of the error: `usage`, `no-broker`, or the code of the broker's answer.
    """
    if not form.is_data or sys.stdout is None:
        return
    data = {"status": status, "code": code, "message": " ".join(message.split())}
    try:
        CommandOutput(KIND, data).print(form)
    except (BrokenPipeError, ConfigError):  # the line on standard error reports the error
        sys.stdout = None
