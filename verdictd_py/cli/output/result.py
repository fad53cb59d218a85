"""The output of a command, and how it is written in each form."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, TextIO

from verdictd_py.cli.output import terminal
from verdictd_py.cli.output.layout import Block, Layout, Text
from verdictd_py.cli.output.yamltext import to_yaml
from verdictd_py.cli.parsing import one_line, printable
from verdictd_py.errors import ConfigError

SCHEMA: Final = "verdictd.v1/"
"""Beginning of the member `schema` of every document; the kind of the document follows."""


class Form(StrEnum):
    """Form of the output, as `-o` and `-q` name it."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAMES = "names"

    @property
    def for_people(self) -> bool:
        """Whether people read it."""
        return self in (Form.TABLE, Form.WIDE)

    @property
    def is_data(self) -> bool:
        """Whether programs read it."""
        return self in (Form.JSON, Form.YAML)


@dataclass(frozen=True, slots=True)
class CommandOutput:
    """Output of a command in every form, with the exit status.

    Attributes:
        kind: kind of the document in the JSON Schema; empty for the schema itself.
        data: members of the document, or the items of a list.
        text: for people; None if there is only `raw`. If there are both, a terminal gets the text.
        status: exit status of the program.
        raw: content that is written byte for byte unless the output is data or a terminal.
        remarks: notes about the data, a line each on standard error.
        names: ids or names of the objects, for `-q`.
    """

    kind: str
    data: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    text: Block | None = None
    status: int = 0
    raw: bytes | None = field(default=None, repr=False)
    remarks: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def document(self) -> dict[str, Any]:
        """Return the document that is written as JSON or YAML."""
        if not self.kind:
            return dict(self.data) if isinstance(self.data, Mapping) else {}
        members = self.data if isinstance(self.data, Mapping) else {"items": list(self.data)}
        return {"schema": SCHEMA + self.kind, **members}

    def print(self, form: Form, stream: TextIO | None = None) -> None:
        """Write the output to standard output, or to another stream.

        Raises:
            ConfigError: see `write`.
        """
        stream = stream or sys.stdout
        if form.is_data:
            write(stream, as_text(self.document(), form))
        elif form is Form.NAMES and self.raw is None:
            write(stream, "".join(f"{one_line(name)}\n" for name in self.names))
        elif self.raw is not None and stream.isatty() and self.text is None:
            write(stream, printable(_text(self.raw).expandtabs(4)))
        elif self.raw is not None and not stream.isatty():
            write(stream, self.raw)
        else:
            write(stream, "".join(f"{line}\n" for line in self.lines(form, stream)))

    def lines(self, form: Form, stream: TextIO) -> list[str]:
        """Return the lines for people, laid out for a stream."""
        wide = form is Form.WIDE
        width = None if wide else terminal.columns(stream)
        layout = Layout(width, terminal.style(stream), wide)
        return list((self.text or Text(self.data)).lines(layout))

    def print_remarks(self) -> None:
        """Write the remarks to standard error."""
        layout = Layout(terminal.columns(sys.stderr))
        for remark in self.remarks:
            write(sys.stderr, "".join(f"{line}\n" for line in Text(remark).lines(layout)))


def _text(raw: bytes) -> str:
    """Return a content for a terminal.

    Raises:
        ConfigError: it is not a text.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise ConfigError(
            "the content is binary, and this is a terminal: write it to a file with > FILE"
        )
    return text if text.endswith("\n") or not text else text + "\n"


def as_text(document: Mapping[str, Any], form: Form) -> str:
    """Return a document as JSON or YAML."""
    if form is Form.YAML:
        return to_yaml(document)
    return json.dumps(document, indent=2, ensure_ascii=True) + "\n"


def write(stream: TextIO, content: str | bytes) -> None:
    """Write the content and flush the stream.

    Raises:
        BrokenPipeError: the reader closed the pipe.
        ConfigError: it cannot be written.
    """
    try:
        if isinstance(content, bytes):
            stream.buffer.write(content)
        else:
            stream.write(content)
        stream.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = None  # otherwise Python tries to flush it again at exit
        raise ConfigError(
            f"cannot write the answer: {error.strerror}; the broker has completed the request"
        ) from error
