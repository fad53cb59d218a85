"""`verdictd-py config`: writes, checks and displays the configuration; it starts nothing."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from verdictd_py.cli.config.effective import effective
from verdictd_py.cli.config.example import example
from verdictd_py.cli.config.explained import as_toml
from verdictd_py.cli.config.faults import document_of, faults
from verdictd_py.cli.daemon import add_settings, settings_given
from verdictd_py.cli.output.layout import Column, Kind, Table, Text
from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.output.result import CommandOutput, Form, write
from verdictd_py.cli.parsing import EXIT_OK, EXIT_USAGE, Parser
from verdictd_py.errors import ConfigError

PROGRAM: Final = "verdictd-py config"
_MODE: Final = 0o640


def run(argv: Sequence[str]) -> int:
    """Run an action; return 0, or 2 if a configuration has faults.

    Raises:
        ConfigError: the configuration cannot be read or written.
    """
    options = build_parser().parse_args(list(argv))
    if options.action == "init":
        return _init(options.file)
    output = _validate(options.file) if options.action == "validate" else _show(options)
    output.print(Form.JSON if options.json else Form.TABLE)
    return output.status


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        PROGRAM,
        "Write, check and display the configuration of the daemon. Nothing is started.",
        "exit status: 0 done, 2 the configuration has faults, or a file cannot be used",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    init = actions.add_parser(
        "init", prog=f"{PROGRAM} init", description="write a commented file with every setting"
    )
    init.add_argument("file", metavar="FILE", type=Path, nargs="?", help="(standard output)")
    validate = actions.add_parser(
        "validate",
        prog=f"{PROGRAM} validate",
        description="list every fault of a file, with line, cause and remedy",
    )
    validate.add_argument("file", metavar="FILE", type=Path, help="the configuration, TOML")
    show = actions.add_parser(
        "show",
        prog=f"{PROGRAM} show",
        description="display each value in force and its source; secrets are redacted",
    )
    add_settings(show)
    for action in (validate, show):
        action.add_argument("--json", action="store_true", help="output as JSON")
    add_timeout(parser)
    return parser


def _init(file: Path | None) -> int:
    """Write the commented file; one that exists stays as it is."""
    if file is None:
        write(sys.stdout, example())
        return EXIT_OK
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(example())
    except FileExistsError:
        raise ConfigError(f"{file} exists; name another file, or move it away") from None
    except OSError as error:
        raise ConfigError(f"cannot write {file}: {error.strerror}; name another file") from error
    return EXIT_OK


def _validate(file: Path) -> CommandOutput:
    found = faults(document_of(file))
    data = {
        "file": str(file),
        "valid": not found,
        "faults": [
            {"line": fault.line, "setting": fault.setting, "message": fault.message}
            for fault in found
        ],
    }
    lines = [
        f"{file}{'' if fault.line is None else f':{fault.line}'}: {fault.message}"
        for fault in found
    ]
    text = Text("\n".join(lines or [f"{file}: no fault"]))
    return CommandOutput("config-validation", data, text, EXIT_USAGE if found else EXIT_OK)


def _show(options: Namespace) -> CommandOutput:
    given = settings_given(vars(options))
    settings = given.load()
    document = None if settings.file is None else document_of(settings.file)
    items = effective(settings, given.flags, document)
    rows = [
        {"name": one.name, "value": one.value, "source": one.source, "where": one.where}
        for one in items
    ]
    table = Table(
        ("NAME", Column("VALUE", Kind.VALUE), "SOURCE", Column("WHERE", Kind.VALUE)),
        [(one.name, _text(one.value), one.source, one.where) for one in items],
    )
    return CommandOutput("setting-list", rows, table)


def _text(value: object) -> str:
    if value is None or value in ([], {}):
        return "-"
    return json.dumps(value) if isinstance(value, dict) else as_toml(value)
