"""Both languages have the same texts, with the same values in them."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from jinja2 import nodes

import verdictd_py.console as package
from verdictd_py.console import frame, language, pages_keys, pages_reference, server
from verdictd_py.console.language import ENGLISH, OF_VALUES, languages, named, preferred
from verdictd_py.console.rendering import environment
from verdictd_py.console.views.sentences import STATES

BASE = Path(package.__file__).parent
CHINESE = languages()[1]


def texts_of_templates() -> Iterator[str]:
    for path in sorted((BASE / "templates").glob("*.html")):
        for call in environment().parse(path.read_text()).find_all(nodes.Call):
            if isinstance(call.node, nodes.Name) and call.node.name == "_":
                first = call.args[0]
                inside = [first] if isinstance(first, nodes.Const) else first.find_all(nodes.Const)
                yield from (each.value for each in inside if isinstance(each.value, str))


def texts_of_code() -> Iterator[str]:
    for path in BASE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args:
                name = getattr(node.func, "id", getattr(node.func, "attr", ""))
                first = node.args[0]
                if name in ("say", "language") and isinstance(first, ast.Constant):
                    assert isinstance(first.value, str)
                    yield first.value


def used() -> set[str]:
    return {*texts_of_templates(), *texts_of_code(), *OF_VALUES}


def test_both_languages_have_the_same_texts() -> None:
    assert used() == CHINESE.texts.keys()


@pytest.mark.parametrize("text", sorted(CHINESE.texts))
def test_a_translation_has_the_same_values(text: str) -> None:
    values = re.compile(r"%\(\w+\)[sd]|%(?!\()")
    assert sorted(values.findall(text)) == sorted(values.findall(CHINESE.texts[text]))
    assert CHINESE.texts[text].strip()


def test_the_texts_of_values_are_complete() -> None:
    menu = {name for _, name in frame._MENU}
    done = {*pages_keys._DONE.values(), *pages_reference._DONE.values()}
    expected = menu | done | {state.name for state in STATES} | set(server._TITLES.values())
    assert expected <= set(OF_VALUES)


ACCEPTED = {
    "": "en",
    "zh": "zh",
    "zh-CN,zh;q=0.9,en;q=0.8": "zh",
    "en-GB, zh;q=0.9": "en",
    "fr, de;q=0.9": "en",
    "fr, zh-Hant;q=0.2": "zh",
    "en;q=0, zh;q=0.1": "zh",
    "zh;q=nonsense": "en",
    "*;q=1": "en",
    ",;,;q=;=,": "en",
}


@pytest.mark.parametrize(("accept", "code"), ACCEPTED.items())
def test_the_preferred_language_is_chosen(accept: str, code: str) -> None:
    assert preferred(accept).code == code


def test_a_language_has_a_name_of_its_own() -> None:
    assert named("xx") is None
    assert named("zh") is CHINESE
    assert ENGLISH("as %(it)s", it="it is") == "as it is"
    assert language.languages()[0] is ENGLISH


@pytest.mark.parametrize(
    ("text", "values", "said"),
    [
        ("%(number)d guests are connected now", {"number": 1}, "1 guest is connected now"),
        ("%(number)d guests are connected now", {"number": 2}, "2 guests are connected now"),
        ("%(number)d documents have expired.", {"number": 1}, "1 document has expired."),
        ("%(number)d equal lines", {"number": 1}, "1 equal line"),
        ("%(number)d of the names below cannot be used.", {"number": 1}, None),
        (
            "%(files)d files, %(records)d records, %(problems)d problems",
            {"files": 1, "records": 32, "problems": 1},
            "1 file, 32 records, 1 problem",
        ),
        ("%(name)s and %(number)d more values", {"name": "1 values", "number": 1}, None),
    ],
)
def test_one_thing_is_named_in_the_singular(
    text: str, values: dict[str, object], said: str | None
) -> None:
    expected = said or (text % values).replace("1 more values", "1 more value")
    assert ENGLISH(text, **values) == expected
