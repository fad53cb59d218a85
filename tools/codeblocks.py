"""The syntax of the code blocks of a page.

A block is read by the parser of its language: `console` (its commands, by bash without running
them), `json`, `python`, `rego` (by the broker's own engine; rules without a package get one),
`sh`, `toml`, `yaml`. Blocks of other languages are not checked. `<id>` and similar placeholders
count as words.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import textwrap
import tomllib
from collections.abc import Callable, Iterator
from typing import Final

import yaml

from tools.walk.pages import commands
from verdictd_py.errors import VerdictdError

_BLOCK: Final = re.compile(
    r"^(?P<indent>[ ]*)```(?P<language>[\w-]*)[^\n]*\n(?P<text>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
_PLACEHOLDER: Final = re.compile(r"<[a-z0-9][\w .'-]*>")
_PACKAGE: Final = "package policy\n\nimport rego.v1\n\ndefault allow := false\n\n"
LANGUAGES: Final = frozenset(
    {"", "console", "json", "mermaid", "python", "rego", "sh", "text", "toml", "yaml"}
)
"""Names of languages that pages use; another one is a misspelling."""


def broken_blocks(page: str) -> Iterator[tuple[int, str]]:
    """Yield offset and problem of each code block that its language's parser refuses."""
    for block in _BLOCK.finditer(page):
        language = block["language"]
        if language not in LANGUAGES:
            yield block.start(), f"no block of a page has the language {language}"
        elif (parse := _PARSERS.get(language)) is not None:
            text = textwrap.dedent(block["text"]) if block["indent"] else block["text"]
            problem = parse(text)
            if problem:
                yield block.start(), f"the {language} block cannot be read: {problem}"


def _raises(parse: Callable[[str], object], *errors: type[Exception]) -> Callable[[str], str]:
    """Return a function that returns the first line of the error, or an empty text."""

    def problem(text: str) -> str:
        try:
            parse(text)
        except errors as error:
            return " ".join(str(error).split())
        return ""

    return problem


def _rego(text: str) -> object:
    from verdictd_py.policy.engine import CompiledPolicy  # noqa: PLC0415  # slow, and few pages need it

    return CompiledPolicy.compile(text if "package " in text else _PACKAGE + text, "{}")


def _console(text: str) -> str:
    steps = [*commands(text, 1)]
    if not steps and not text.startswith("# "):
        return "it has no command behind '$ '"
    return _sh("\n".join(_PLACEHOLDER.sub("WORD", step.text) for step in steps))


def _sh(text: str) -> str:
    ended = subprocess.run(
        ["bash", "-n"], input=f"{text}\n", capture_output=True, text=True, check=False
    )
    return ended.stderr.strip().partition("\n")[0]


_PARSERS: Final[dict[str, Callable[[str], str]]] = {
    "console": _console,
    "json": _raises(json.loads, ValueError),
    "python": _raises(ast.parse, SyntaxError),
    "rego": _raises(_rego, VerdictdError),
    "sh": _sh,
    "toml": _raises(tomllib.loads, tomllib.TOMLDecodeError),
    "yaml": _raises(yaml.safe_load, yaml.YAMLError),
}
