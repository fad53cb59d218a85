"""Writes docs/reference/ from the sources that the programs themselves use.

Usage: reference.py [check]   `check` only compares, and ends with 1 where they differ.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import Action
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tools import contents
from verdictd_py.cli import commandlines, daemon, exitstatus, programs
from verdictd_py.cli.completion import tree
from verdictd_py.cli.completion.shells import SCRIPTS
from verdictd_py.cli.management.schema import schema
from verdictd_py.cli.management.upstream import OPTIONS
from verdictd_py.cli.verdict import COMMANDS, build_parser
from verdictd_py.config import ENVIRONMENT_PREFIX, Settings
from verdictd_py.daemon.health import Health
from verdictd_py.daemon.readings import Documents, Sources
from verdictd_py.domain.events import CATALOGUE
from verdictd_py.domain.eventtypes import FieldInfo
from verdictd_py.events.budgets import MAX_LIMITED_PER_MINUTE
from verdictd_py.events.floods import LINES_PER_MINUTE
from verdictd_py.events.log import LogEvents
from verdictd_py.listeners.kbs import answers, description
from verdictd_py.metrics import families
from verdictd_py.tees.registry import known_tees

ROOT: Final = Path(__file__).resolve().parents[1]
TARGET: Final = ROOT / "docs" / "reference"
NOTE: Final = "<!-- Made by `./dev docs`; change what it is made from. -->\n"

_BLOCK: Final = re.compile(  # a comment, then a service, message or enum
    r"((?:^//[^\n]*\n)*)^(service|message|enum) (\w+) \{(\}|.*?^\})", re.DOTALL | re.MULTILINE
)
_RPC: Final = re.compile(r"rpc (\w+)\((\w+)\) returns \((\w+)\)")
_FIELD: Final = re.compile(r"^\s*((?:repeated )?[\w.]+) (\w+) = (\d+);(?:\s*//\s*(.*))?$")
_VALUE: Final = re.compile(r"^\s*()(\w+) = (\d+);(?:\s*//\s*(.*))?$")


def main(argv: list[str]) -> int:
    pages = {
        "configuration.md": "".join(configuration()),
        "verdict-py.md": "".join(commands()),
        "verdict-py.schema.json": json.dumps(schema(), indent=1) + "\n",
        "verdictd-py.md": "".join(command_lines()),
        "clientapi.md": "".join(api("clientapi")),
        "verdictd-v1.md": "".join(api("verdictd_v1")),
        "events.md": "".join(events()),
        "metrics.md": "".join(metrics()),
        "contents.md": "".join((NOTE, *contents.table())),
        "kbs-errors.md": "".join(kbs_errors()),
        "kbs-openapi.json": json.dumps(json.loads(description.document(known_tees())), indent=1)
        + "\n",
        "exit-status.md": "".join(exit_statuses()),
    }
    files = {TARGET / name: text for name, text in pages.items()}
    files[tree.FILE] = tree.dump(programs.trees())
    different = [
        file for file, text in files.items() if not file.is_file() or file.read_text() != text
    ]
    if argv == ["check"]:
        for file in different:
            name = file.relative_to(ROOT)
            print(f"{name} is not what its sources give: ./dev docs", file=sys.stderr)
        return 1 if different else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    for file in different:
        file.write_text(files[file])
        print(file.relative_to(ROOT))
    return 0


def configuration() -> Iterator[str]:
    yield f"{NOTE}\n# Configuration of verdictd-py\n\n"
    yield (
        "The command line wins over the environment, the environment over the TOML file of "
        "`--config FILE`\n(or `VERDICTD_CONFIG`), and that over the defaults. An unknown key "
        "is an error. `-V`, `--version` prints the version.\n\n"
        "| option | value | TOML key | environment | default | meaning |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    for names, value, text in daemon.OPTIONS:
        key = names[-1].removeprefix("--").replace("-", "_")
        field = Settings.model_fields.get(key)
        if field is None:
            continue
        default = _default(field.default)
        yield _row(
            f"`{'`, `'.join(names)}`",
            value or "-",
            f"`{key}`",
            f"`{ENVIRONMENT_PREFIX}{key.upper()}`",
            default,
            text if default == "-" else _without_default(text),
        )
    yield (
        "\n## Unsafe\n\nOn the command line only, named in the log at start and in "
        "`verdict-py status`.\n\n| option | value | meaning |\n| --- | --- | --- |\n"
    )
    for names, value, text in daemon.UNSAFE_OPTIONS:
        yield _row(f"`{names[-1]}`", value or "-", text)


def commands() -> Iterator[str]:
    yield f"{NOTE}\n# verdict-py\n\n## Commands\n\n| command | arguments | what it does |\n"
    yield "| --- | --- | --- |\n"
    for command in COMMANDS:
        arguments = " ".join(_argument(name, more) for name, more in command.arguments.items())
        yield _row(f"`{command.words}`", f"`{arguments}`" if arguments else "", command.help)
    yield (
        f"| `completion` | `{'|'.join(SCRIPTS)}` | prints a script for the shell: "
        'bash, `eval "$(verdict-py completion bash)"`; `verdictd-py completion --help` has the '
        "others |\n"
    )
    yield (
        "\n## How to reach the broker, and what is written\n\n"
        "Before the command or behind it (`-p` before it only).\n\n"
        "| option | value | meaning |\n| --- | --- | --- |\n"
    )
    for action in commandlines.options(build_parser()):
        if action.option_strings[-1] not in OPTIONS:
            names, value = "`, `".join(action.option_strings), str(action.metavar or "-")
            yield _row(f"`{names}`", value, str(action.help))
    yield from _more_options()
    yield "\n## Options of upstream's `verdict`\n\n| option | values | what it does |\n"
    yield "| --- | --- | --- |\n"
    for name, option in OPTIONS.items():
        yield _row(
            f"`{name}`", f"`{' '.join(option.values)}`" if option.values else "", option.help
        )
    yield (
        "\n## Exit status\n\n| status | meaning |\n| --- | --- |\n| 0 | done |\n"
        "| 1 | the broker refused, or a tested policy does not allow |\n"
        "| 2 | the command line is wrong, or a file that it names |\n| 3 | no broker reached |\n"
    )


def _more_options() -> Iterator[str]:
    """Yield a table of the options that several commands have and that are not their arguments."""
    common = {
        name for action in commandlines.options(build_parser()) for name in action.option_strings
    }
    arguments = {command.words: command.arguments for command in COMMANDS}
    used: dict[str, list[str]] = {}
    actions: dict[str, Action] = {}
    for words, parser in programs.parsers():
        command = words.removeprefix("verdict-py ")
        for action in commandlines.own_options(parser) if command in arguments else ():
            names = action.option_strings
            if set(names) - common - arguments[command].keys():
                used.setdefault(names[-1], []).append(f"`{command}`")
                actions[names[-1]] = action
    yield "\n## Further options of some commands\n\n"
    yield "| option | value | meaning | commands |\n| --- | --- | --- | --- |\n"
    for name, commands_with_it in used.items():
        action = actions[name]
        names = "`, `".join(action.option_strings)
        yield _row(f"`{names}`", _value(action), _meaning(action), ", ".join(commands_with_it))


def exit_statuses() -> Iterator[str]:
    yield (
        f"{NOTE}\n# Exit statuses\n\nOf both programs and all their commands. A status has the "
        "same meaning everywhere; a command\nthat describes it more exactly is below.\n\n"
        "| status | meaning |\n| --- | --- |\n"
    )
    for number, meaning in exitstatus.COMMON:
        yield _row(str(number), meaning)
    yield _row("130", "interrupted by Ctrl-C")
    yield _row("141", "the reader of the output closed the pipe (`verdictd-py`)")
    yield "\n| command | 0 | 1 | 2 | 3 |\n| --- | --- | --- | --- | --- |\n"
    for program in programs.PROGRAMS:
        for words, meanings in exitstatus.statuses(program):
            texts = dict(meanings)
            yield _row(f"`{words}`", *(texts.get(number, "-") for number in range(4)))


def metrics() -> Iterator[str]:
    yield (
        f"{NOTE}\n# Metrics\n\n`/metrics` of `--status` ([monitoring](../monitoring.md)). Counters "
        "and histograms are those of all processes of the broker together.\nCounters end with "
        "`_total`; histograms have `_bucket`, `_count` and `_sum`, in seconds.\n\n"
        "| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n"
    )
    for family in families.families(tuple(tee.name for tee in known_tees())):
        name = f"{family.name}_total" if family.kind is families.Kind.COUNTER else family.name
        yield _row(f"`{name}`", family.kind, "; ".join(map(_axis, family.axes)), family.help)
    health = Health({}, LogEvents(len))
    nothing: dict[str, Any] = {"connections": dict, "limits": dict, "certificates": dict}
    sources = Sources(
        started_at=datetime.now(UTC),
        health=health,
        workers=lambda: (0, 0),
        collateral=tuple,
        client_ca=lambda: None,
        unsafe=0,
        **nothing,
    )
    for reading in (*sources.readings(), *Documents(frozenset()).readings()):
        labels = ", ".join(f"`{label}`" for label in reading.labels)
        yield _row(f"`{reading.name}`", families.Kind.GAUGE, labels, reading.help)


def _axis(axis: families.Axis) -> str:
    """Return the names of labels with their values, unless there are too many."""
    names = ", ".join(f"`{label}`" for label in axis.labels)
    if len(axis.values) > 30:
        return names
    return f"{names}: {', '.join(' '.join(value) for value in axis.values)}"


def command_lines() -> Iterator[str]:
    yield (
        f"{NOTE}\n# Commands of verdictd-py\n\n`verdictd-py` without a command is the daemon: "
        "[configuration](configuration.md). The others need no daemon.\nExit status 0 done, 1 "
        "refused, 2 wrong command line, unless the command says otherwise.\n"
    )
    listed: dict[str, set[str]] = {}
    for words, parser in programs.parsers():
        if not words.startswith("verdictd-py "):
            continue
        above = words.rpartition(" ")[0]
        own = [*commandlines.own_options(parser)]
        listed[words] = {name for action in own for name in action.option_strings}
        inherited = listed.get(above, set()) & listed[words]
        own = [action for action in own if not inherited & set(action.option_strings)]
        depth = "#" * min(len(words.split()), 3)
        yield f"\n{depth} {words}\n"
        if parser.description:
            yield f"\n{_escaped(parser.description)}\n"
        rows = [
            *((_value(action), "-", action) for action in commandlines.arguments(parser)),
            *(
                (f"`{'`, `'.join(action.option_strings)}`", _value(action), action)
                for action in own
            ),
        ]
        if rows:
            yield "\n| option | value | meaning |\n| --- | --- | --- |\n"
        for names, value, action in rows:
            yield _row(names, value, _meaning(action))
        if inherited:
            yield f"\nThe options of `{above}` may follow this command as well.\n"
        if parser.epilog:
            yield f"\n```text\n{parser.epilog}\n```\n"


def _meaning(action: Action) -> str:
    text = " ".join((action.help or "").split()) % {"default": action.default, "prog": ""}
    return _escaped(text)


def _value(action: Action) -> str:
    if action.nargs == 0:
        return "-"
    value = action.metavar or "\\|".join(map(str, action.choices or ())) or action.dest.upper()
    return f"`{value}`".replace("\\|", "|")


def _escaped(text: str) -> str:
    return text.replace("<", "\\<")


def kbs_errors() -> Iterator[str]:
    yield (
        f"{NOTE}\n# Errors of the HTTP listener\n\nEvery answer to a failed request has a body "
        '`{"type": "https://github.com/confidential-containers/kbs/errors/<variant>", "detail"}`.\n'
        "A guest gets only the code and the id of its appraisal; the operator reads the rest in "
        "the log, and with `verdict-py explain <id>`.\n\n"
        "| status | variant | code in the log | meaning | remedy |\n"
        "| --- | --- | --- | --- | --- |\n"
    )
    for refusal in answers.REFUSALS:
        yield _row(
            str(refusal.status),
            f"`{refusal.variant}`",
            f"`{refusal.kind.code}`",
            refusal.meaning,
            refusal.remedy,
        )
    for other in answers.OTHERS:
        yield _row(str(other.status), f"`{other.variant}`", "-", other.meaning, other.remedy)


def events() -> Iterator[str]:
    yield (
        f"{NOTE}\n# Events\n\n"
        "The daemon logs each of these events as one line: time, level, name, fields. With\n"
        "`--log-format json` the line is a JSON object. A text or list that is longer than\n"
        "its bound is cut there, and a marker such as `...[12 more characters]` follows. A\n"
        "secret is replaced by its size.\n\n"
        "Audited events are also written to the audit trail below `audit/` of the data\n"
        "directory, before they are logged. If the record cannot be written, a secret is not\n"
        "released. *limited* means that unauthenticated peers can cause the event: at most\n"
        f"{MAX_LIMITED_PER_MINUTE} such records are written in a minute, and `audit.not-kept`\n"
        "has the number of the others.\n\n"
        "Any peer can cause the events marked *peers*, an unauthenticated one too. The log has\n"
        f"at most {LINES_PER_MINUTE} lines of each of them for one source in a minute, and\n"
        "`log.flood` has the number of the others. The audit trail is not affected.\n\n"
        "| event | level | audited | cause | when |\n| --- | --- | --- | --- | --- |\n"
    )
    for kind in CATALOGUE:
        spec, when = kind.spec, kind.__doc__ or ""
        cause = "peers" if spec.by_peers else ""
        yield _row(f"[`{spec.name}`](#{_anchor(spec.name)})", spec.level, spec.audit, cause, when)
    for kind in CATALOGUE:
        yield f"\n## {kind.spec.name}\n\n{kind.__doc__}\n\n"
        if not kind.spec.fields:
            yield "No fields.\n"
            continue
        yield "| field | type | bound | meaning |\n| --- | --- | --- | --- |\n"
        for field in kind.spec.fields.values():
            yield _row(
                f"`{field.name}`",
                field.type + (", optional" if field.optional else ""),
                _bound(field.info),
                field.info.meaning,
            )


def _bound(info: FieldInfo) -> str:
    texts = [
        f"{number} {unit}"
        for number, unit in ((info.items, "items"), (info.characters, "characters"))
        if number is not None
    ]
    return " of ".join(texts) or "-"


def _anchor(title: str) -> str:
    return title.replace(".", "")


def api(name: str) -> Iterator[str]:
    text = (ROOT / "protos" / f"{name}.proto").read_text()
    found = re.search(r"^package ([\w.]+);", text, re.MULTILINE)
    package = found[1] if found else name
    yield f"{NOTE}\n# The gRPC package `{package}`\n\n{_comment(text[: text.index('syntax')])}\n"
    for comment, kind, title, body in _BLOCK.findall(text):
        yield f"\n## {title}\n\n"
        if comment:
            yield _comment(comment) + "\n\n"
        if kind == "service":
            yield "| method | request | answer |\n| --- | --- | --- |\n"
            for method, request, answer in _RPC.findall(body):
                yield _row(f"`{method}`", _link(request), _link(answer))
            continue
        rows = [
            match.groups()
            for line in body.splitlines()
            if (match := (_VALUE if kind == "enum" else _FIELD).match(line))
        ]
        if not rows:
            yield "No fields.\n"
            continue
        yield "| number | name | type | meaning |\n| --- | --- | --- | --- |\n"
        for of_type, field, number, meaning in rows:
            yield _row(number, f"`{field}`", f"`{of_type}`" if of_type else "-", meaning or "")


def _comment(text: str) -> str:
    lines = (line.removeprefix("//").strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line)


def _link(name: str) -> str:
    return f"[`{name}`](#{name.lower()})"


def _argument(name: str, more: object) -> str:
    assert isinstance(more, dict)  # noqa: S101  # as in Command
    value = str(more.get("metavar") or "|".join(more.get("choices", ())) or "")
    if not name.startswith("-"):
        return f"[{value or name}]" if more.get("nargs") == "?" else value or name
    shown = f"{name} {value}".rstrip()
    return shown if more.get("required") else f"[{shown}]"


def _default(value: object) -> str:
    if value is None or value in ("", ()):
        return "-"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _without_default(text: str) -> str:
    return re.sub(r" \([^()]*\)$", "", text)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
