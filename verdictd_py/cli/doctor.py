"""`verdictd-py doctor`: whether this host and these settings let the broker start and serve.

It imports the broker only after the libraries were checked: a library that cannot be loaded would
otherwise end it with a traceback.
"""

from __future__ import annotations

import os
import pwd
import sys
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from verdictd_py.cli import libraries
from verdictd_py.cli.daemon import Given, add_settings, settings_given
from verdictd_py.cli.hardening import require_executable_memory, require_local_sockets
from verdictd_py.cli.output.layout import Column, Kind, Table
from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.cli.parsing import Parser
from verdictd_py.errors import ConfigError

if TYPE_CHECKING:
    from verdictd_py.config import Settings

PROGRAM: Final = "verdictd-py doctor"

_STATUS: Final = {"ok": 0, "warning": 1, "failure": 2}
Row = dict[str, Any]


def run(argv: Sequence[str]) -> int:
    """Run every check; return 0 if all is in order, 1 with warnings, 2 with failures.

    Raises:
        ConfigError: the user of `--user` does not exist, or this one may not become it.
    """
    options = build_parser().parse_args(list(argv))
    if options.user is not None:
        _become(options.user)
    try:
        rows = _rows(options)
    except ImportError as error:  # of the standard library, or of the program
        text = f"this user cannot read the program or Python ({error}); install them for all users"
        rows = [_row("libraries", "", "failure", text)]
    worst = max((row["result"] for row in rows), key=lambda result: _STATUS[result])
    data = {"result": worst, "checks": rows}
    table = Table(
        ("RESULT", "CHECK", Column("SUBJECT", Kind.VALUE), Column("MESSAGE", Kind.SENTENCE)),
        [(row["result"], row["check"], row["subject"] or "-", row["message"]) for row in rows],
    )
    output = CommandOutput("diagnosis", data, table, _STATUS[worst])
    output.print(Form.JSON if options.json else Form.TABLE)
    return output.status


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        PROGRAM,
        "Check whether this host, this user and these settings let the broker start and serve\n"
        "guests. Nothing is started, changed or fetched. Give the options of the daemon.",
        "exit status: 0 all is in order, 1 warnings, 2 failures",
    )
    parser.add_argument(
        "--user", metavar="NAME", help="check as this user, a name or a number (root may name one)"
    )
    parser.add_argument(
        "--unit", metavar="FILE", type=Path, help="unit of systemd (the installed one)"
    )
    parser.add_argument("--json", action="store_true", help="output as JSON")
    add_settings(parser)
    add_timeout(parser)
    return parser


def _become(name: str) -> None:
    """Become another user, so that what it may read and write is checked."""
    uid, gid, groups, home = _user(name)
    if uid == os.geteuid():
        return
    try:
        os.setgroups(groups)
        os.setgid(gid)
        os.setuid(uid)
    except (OSError, OverflowError) as error:
        if isinstance(error, PermissionError):
            raise ConfigError("only root can check as another user; remove --user") from None
        raise ConfigError(f"there is no user {name}; correct --user") from None
    os.environ["HOME"] = home


def _user(name: str) -> tuple[int, int, Sequence[int], str]:
    """Return user, group, further groups and home of a user, given by its name or number.

    A number without an entry is that of a dynamic user of systemd, whose group has the same number
    (systemd.exec(5)): a minimal system has no module that finds its entry.

    Raises:
        ConfigError: there is no such user.
    """
    try:
        user = pwd.getpwuid(int(name)) if name.isdecimal() else pwd.getpwnam(name)
    except (KeyError, OverflowError):
        if not name.isdecimal():
            raise ConfigError(f"there is no user {name}; correct --user") from None
        return int(name), int(name), (), "/"
    return user.pw_uid, user.pw_gid, os.getgrouplist(user.pw_name, user.pw_gid), user.pw_dir


def _rows(options: Namespace) -> list[Row]:
    rows = [_row("libraries", name, "failure", text) for name, text in libraries.problems()]
    if not rows:
        rows.append(_row("libraries", "", "ok", f"all can be loaded by Python {_python()}"))
    rows += _sandbox()
    if any(row["result"] == "failure" for row in rows):
        text = "the other checks need what failed above; run this command again afterwards"
        return [*rows, _row("settings", "", "warning", text)]
    given = settings_given(vars(options))
    settings, of_settings = _settings(given)
    return [*rows, *of_settings, *_diagnosis(given, settings, options.unit)]


def _sandbox() -> Iterable[Row]:
    for check in (require_executable_memory, require_local_sockets):
        try:
            check()
        except ConfigError as error:
            yield _row("sandbox", "this process", "failure", str(error))


def _settings(given: Given) -> tuple[Settings | None, list[Row]]:
    """Load the settings; return None with every fault if that fails."""
    file = given.file or (Path(name) if (name := os.environ.get("VERDICTD_CONFIG")) else None)
    try:
        settings = given.load()
    except ConfigError as error:
        return None, _faults(file) or [_row("settings", str(file or ""), "failure", str(error))]
    subject = "" if settings.file is None else str(settings.file)
    return settings, [_row("settings", subject, "ok", "they can be read")]


def _faults(file: Path | None) -> list[Row]:
    """Return every fault of the configuration file; none if it has none or cannot be read."""
    from verdictd_py.cli.config.faults import document_of, faults  # noqa: PLC0415  # see above

    if file is None:
        return []
    try:
        found = faults(document_of(file))
    except ConfigError:
        return []
    return [
        _row(
            "settings",
            f"{file}{'' if fault.line is None else f':{fault.line}'}",
            "failure",
            fault.message,
        )
        for fault in found
    ]


def _diagnosis(given: Given, settings: Settings | None, unit: Path | None) -> Iterable[Row]:
    from verdictd_py.daemon.diagnosis.host import Host  # noqa: PLC0415  # see the module
    from verdictd_py.daemon.diagnosis.run import diagnose  # noqa: PLC0415

    host = Host() if unit is None else Host(units=(unit,))
    for finding in diagnose(settings, given.unsafe, host):
        yield _row(finding.check, finding.subject, finding.result.value, finding.message)


def _row(check: str, subject: str, result: str, message: str) -> Row:
    return {"check": check, "subject": subject, "result": result, "message": message}


def _python() -> str:
    return ".".join(map(str, sys.version_info[:3]))
