"""`verdictd-py audit`: verifies an audit trail, and finds and exports its records."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from verdictd_py.cli.output.limits import add_timeout
from verdictd_py.cli.output.result import CommandOutput, Form
from verdictd_py.cli.parsing import (
    EXIT_OK,
    EXIT_REFUSED,
    Parser,
    complain,
    moment,
    one_line,
)
from verdictd_py.config import DEFAULT_DATA_DIR
from verdictd_py.errors import ConfigError
from verdictd_py.events.export import FORMATS, as_text
from verdictd_py.events.following import Follower
from verdictd_py.events.heads import HeadVerifier
from verdictd_py.events.loggedheads import LoggedHead, heads_in
from verdictd_py.events.opening import NOT_A_FILE
from verdictd_py.events.reading import (
    ACCEPTED,
    FAILED,
    REFUSED,
    AuditRecord,
    Filter,
    merged,
)
from verdictd_py.events.scan import Scan, files_of, irregular_in, irregular_scan, scan_all
from verdictd_py.events.verification import Findings, verified

PROGRAM: Final = "verdictd-py audit"

FOLLOW_SECONDS: Final = 1.0
"""Pause between two looks for new records with `tail --follow`."""

MIN_DIGEST_CHARACTERS: Final = 8

_DEFAULT: Final = DEFAULT_DATA_DIR / "audit"
_EPILOG: Final = "exit status: 0 unchanged or found, 1 changed or nothing found, 2 cannot be read"


def run(argv: Sequence[str]) -> int:
    """Run an action on audit files; return the exit status.

    Raises:
        ConfigError: a file cannot be read.
    """
    options = build_parser().parse_args(list(argv))
    action: Callable[[argparse.Namespace], int] = options.run
    try:
        return action(options)
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise ConfigError(
            f"cannot read {error.filename}: {error.strerror}; check its name and who may read it"
        ) from error


def build_parser() -> Parser:
    """Return the parser of this command line."""
    parser = Parser(
        PROGRAM,
        "Verify the audit trail, and find and export its records. docs/audit.md states what the\n"
        "trail proves.",
        _EPILOG,
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    verify = _action(actions, "verify", "verify that records were not changed", _verify)
    verify.add_argument(
        "--key", metavar="PUB", action="append", default=[], help="public key that signs the heads"
    )
    verify.add_argument(
        *("--expect-head", "--expect"),
        metavar="DIGEST",
        action="append",
        default=[],
        help="a digest that must occur: `digest` of audit.head or audit.closed in the log",
    )
    verify.add_argument(
        "--log",
        metavar="FILE",
        action="append",
        default=[],
        type=Path,
        help="a log of the broker from another host, whose audit.head lines must all agree",
    )
    verify.add_argument(
        "--stopped",
        action="store_true",
        help="no broker writes the files: with --key, their ends must be signed as well",
    )
    verify.add_argument("--json", action="store_true", help="output as JSON")
    tail = _action(actions, "tail", "print the last records", _tail)
    tail.add_argument("-n", "--lines", metavar="N", type=_number, default=10, help="how many (10)")
    tail.add_argument("-f", "--follow", action="store_true", help="print new records as they come")
    search = _action(actions, "search", "print the records that meet all conditions", _search)
    search.add_argument(
        "--json", action="store_true", help="output as JSON (`export` writes lines)"
    )
    _action(actions, "show", "print one record with all fields", _show, with_record=True)
    export = _action(actions, "export", "write records for other programs", _export)
    export.add_argument("--format", choices=sorted(FORMATS), default="jsonl")
    export.add_argument("--output", metavar="FILE", type=Path, help="(standard output)")
    for action in (tail, search, export):
        _add_filter(action)
    add_timeout(parser)
    return parser


def _action(
    actions: argparse._SubParsersAction[Parser],
    name: str,
    text: str,
    run: Callable[[argparse.Namespace], int],
    *,
    with_record: bool = False,
) -> Parser:
    prog = f"{PROGRAM} {name}"
    action = actions.add_parser(name, prog=prog, description=text, epilog=_EPILOG, help=text)
    if with_record:
        action.add_argument(
            "record", metavar="DIGEST", help="the beginning of its digest, or FILE:NUMBER"
        )
    action.add_argument(
        "paths",
        metavar="DIR|FILE",
        nargs="*",
        type=Path,
        help=f"the directory of the trail, or files ({_DEFAULT})",
    )
    action.set_defaults(run=run)
    return action


def _add_filter(action: Parser) -> None:
    group = action.add_argument_group("conditions")
    group.add_argument(
        "--event", metavar="NAME", action="append", default=[], help="such as 'guest.*'"
    )
    group.add_argument("--guest", metavar="ID", default="", help="id of an appraisal, or its begin")
    group.add_argument("--kid", metavar="KID", default="", help="key, or path of a resource")
    group.add_argument("--result", choices=(ACCEPTED, REFUSED, FAILED), action="append", default=[])
    group.add_argument("--since", metavar="TIME", type=moment)
    group.add_argument("--until", metavar="TIME", type=moment)
    group.add_argument("--text", metavar="TEXT", default="", help="occurs in a field")


def _filter(options: argparse.Namespace) -> Filter:
    return Filter(
        events=tuple(options.event),
        guest=options.guest,
        kid=options.kid,
        results=tuple(options.result),
        since=options.since,
        until=options.until,
        text=options.text,
    )


def _files(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Return the files that are named, and those of the directories that are named.

    Returns:
        The files, and what has the name of an audit file in these directories and is none.
    """
    files: list[Path] = []
    irregular: list[Path] = []
    for path in paths or (_DEFAULT,):
        if path.is_dir():
            directory = path if files_of(path) else path / "audit"
            found = files_of(directory) if directory.is_dir() else []
            if not found:
                raise ConfigError(
                    f"{path} has no audit files; name the directory audit/ of a broker"
                )
            files += found
            irregular += irregular_in(directory)
        else:
            files.append(path)
    return files, irregular


def _readable(paths: Sequence[Path]) -> list[Path]:
    """Return the files, and report on standard error what is none."""
    files, irregular = _files(paths)
    for path in irregular:
        complain(PROGRAM, f"{path}: {NOT_A_FILE}")
    return files


def _verify(options: argparse.Namespace) -> int:
    keys = [HeadVerifier.of(text) for text in options.key]
    expected = tuple(digest.lower() for digest in options.expect_head)
    files, irregular = _files(options.paths)
    scans = [*scan_all(files, expected), *map(irregular_scan, irregular)]
    complete = not options.paths or any(path.is_dir() for path in options.paths)
    logged = [head for path in options.log for head in _heads(path)]
    if options.stopped and not keys:
        raise ConfigError("--stopped has an effect with --key only; give the public key as well")
    findings = verified(
        scans,
        complete=complete,
        keys=keys,
        expected=expected,
        logged=logged,
        stopped=options.stopped,
    )
    if options.json:
        CommandOutput("audit-verification", _report(scans, findings)).print(Form.JSON)
    else:
        _print_findings(scans, findings, keyed=bool(keys))
    return EXIT_REFUSED if findings.problems else EXIT_OK


def _heads(path: Path) -> list[LoggedHead]:
    """Return the heads of a log.

    Raises:
        ConfigError: it has none, so that it would prove nothing.
    """
    with path.open(encoding="utf-8", errors="replace") as lines:
        heads = list(heads_in(lines))
    if not heads:
        raise ConfigError(f"{path} has no lines audit.head; give the log of the broker")
    return heads


def _print_findings(scans: Sequence[Scan], findings: Findings, *, keyed: bool) -> None:
    for one in scans:
        if not one.problem:
            print(f"{one_line(str(one.path))}: {one.records} records, digest {one.digest}")
    for remark in findings.remarks:
        print(f"remark: {one_line(remark)}")
    for problem in findings.problems:
        print(one_line(problem), file=sys.stderr)
    records = sum(one.records for one in scans)
    print(f"{len(scans)} files, {records} records: ", end="")
    print(f"{len(findings.problems)} problems" if findings.problems else "no record was changed")
    if keyed:
        print(f"{min(records, sum(findings.signed.values()))} records are covered by signatures")
    elif any(head.signature for one in scans for head in one.heads):
        print("the signatures of the heads were not checked: give --key PUB")
    else:
        print(
            "the heads are not signed: a program that can write these files can write all of them\n"
            "again; compare a digest of the log on another host with --expect-head DIGEST"
        )


def _report(scans: Sequence[Scan], findings: Findings) -> Mapping[str, object]:
    return {
        "changed": bool(findings.problems),
        "problems": list(findings.problems),
        "remarks": list(findings.remarks),
        "files": [
            {
                "file": str(one.path),
                "records": one.records,
                "digest": one.digest,
                "signed": findings.signed.get(one.name, 0),
                "since": one.first_time,
                "until": one.last_time,
            }
            for one in scans
        ],
    }


def _found(options: argparse.Namespace) -> Iterator[AuditRecord]:
    wanted = _filter(options)
    return (record for record in merged(_readable(options.paths)) if wanted.admits(record))


def _search(options: argparse.Namespace) -> int:
    if options.json:
        records = [record.as_json() for record in _found(options)]
        CommandOutput("audit-record-list", records).print(Form.JSON)
        return EXIT_OK if records else EXIT_REFUSED
    count = 0
    for line in as_text(_found(options)):
        sys.stdout.write(line)
        count += 1
    if not count:
        print(f"{PROGRAM} search: no record meets all conditions", file=sys.stderr)
    return EXIT_OK if count else EXIT_REFUSED


def _tail(options: argparse.Namespace) -> int:
    wanted = _filter(options)
    follower = Follower(partial(_files_now, options.paths))
    records = follower.before(merged(_readable(options.paths)))
    last = deque(filter(wanted.admits, records), maxlen=options.lines)
    sys.stdout.writelines(as_text(last))
    while options.follow:
        sys.stdout.flush()
        time.sleep(FOLLOW_SECONDS)
        sys.stdout.writelines(as_text(filter(wanted.admits, follower.new())))
    return EXIT_OK


def _files_now(paths: Sequence[Path]) -> list[Path]:
    """Return the files as `_files` does; none while the directory has none."""
    try:
        return _files(paths)[0]
    except ConfigError:
        return []


def _show(options: argparse.Namespace) -> int:
    name, colon, number = options.record.rpartition(":")
    if not colon and len(options.record) < MIN_DIGEST_CHARACTERS:
        raise ConfigError(f"{options.record!r} is too short; give 8 digits of a digest or more")
    found = []
    for record in merged(_readable(options.paths)):
        if colon:
            is_wanted = (record.file, str(record.number)) == (Path(name).name, number)
        else:
            is_wanted = str(record.members.get("digest", "")).startswith(options.record)
        if is_wanted:
            found.append(record)
    if len(found) > 1:
        raise ConfigError(f"{len(found)} records begin with {options.record!r}; give more digits")
    if not found:
        print(f"{PROGRAM} show: there is no such record", file=sys.stderr)
        return EXIT_REFUSED
    CommandOutput("audit-record", found[0].as_json()).print(Form.JSON)
    return EXIT_OK


def _export(options: argparse.Namespace) -> int:
    lines = FORMATS[options.format](_found(options))
    if options.output is None:
        sys.stdout.writelines(lines)
        return EXIT_OK
    _require_outside(options.output, options.paths)
    try:
        descriptor = os.open(options.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "w", encoding="ascii", newline="") as stream:  # noqa: PTH123  # not a path
            stream.writelines(lines)
    except OSError as error:
        if error.filename not in (None, str(options.output)):
            raise
        raise ConfigError(
            f"cannot write {options.output}: {error.strerror}; check --output"
        ) from error
    return EXIT_OK


def _require_outside(output: Path, paths: Sequence[Path]) -> None:
    """Refuse an output among the files of the trail, which it could overwrite or be taken for.

    Raises:
        ConfigError: it is in the directory of one of them.
    """
    directories = {path.resolve().parent for path in _files(paths)[0]}
    if output.resolve().parent in directories:
        raise ConfigError(f"{output} is among the files of the trail; choose another directory")


def _number(text: str) -> int:
    """Return a number of records, from 0 on.

    Raises:
        ArgumentTypeError: the text is none.
    """
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of records, such as 10")
    return int(text)
