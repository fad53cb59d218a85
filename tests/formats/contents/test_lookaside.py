"""Lookaside configurations, and the YAML that they consist of."""

from __future__ import annotations

import time

import pytest
import yaml  # type: ignore[import-untyped]  # schemathesis depends on it
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.domain.names import ResourcePath
from verdictd_py.formats import contents
from verdictd_py.formats.contents.findings import EVERY
from verdictd_py.formats.contents.yamlmappings import NotMappings, Unsupported, Value, parse

PATH = ResourcePath.parse("team/sigstore-config/a")
ENTRY = "sigstore: file:///x"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "---\n",
        f"---\ndefault-docker:\n  {ENTRY}\n...\n",
        "default-docker:\n",
        "docker: ~\n",
        "docker:\n\n  # none\n",
        "default-docker:\n  sigstore: 'file:///x'  # why\n  sigstore-staging: file:///y\n",
        'default-docker:\r\n  sigstore:\t"file:///x"\r\n',
        f'docker: # all\n  "*.example.com": # one\n    {ENTRY} # here\n',
        f"docker:\n  reg.example:5000/ns:\n    {ENTRY}\n",
        '{"default-docker": {"sigstore": "file:///x"}, "docker": null}',
        f"\ufeffdefault-docker:\n  {ENTRY}\n",
        f"default-docker:\n  lookaside: file:///y\n  {ENTRY}\n",
        "default-docker:\n  sigstore: FILE:///x#y\n",
    ],
)
def test_what_guests_read(text: str) -> None:
    found = contents.check(PATH, text.encode())
    assert (found.problems, found.warnings, found.usable) == ((), (), EVERY)


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("default-docker: x\n", "default-docker: it is not a mapping"),
        ("docker: x\n", "docker: it is not a mapping of namespaces"),
        ("docker:\n  a.example:\n", "docker.'a.example': it is not a mapping"),
        ("default-docker:\n  sigstore:\n", "sigstore: it is not text"),
        ("default-docker:\n  sigstore: 5\n", "sigstore: it is not text"),
        ("default-docker:\n  sigstore: true\n", "sigstore: it is not text"),
        ('default-docker:\n  sigstore: ""\n', "is not a URL of the scheme file"),
        ("default-docker:\n  sigstore: https://a.example\n", "is not a URL of the scheme file"),
        ("default-docker:\n  sigstore: /var/lib\n", "is not a URL of the scheme file"),
        (f"docker:\n  index.docker.io/a:\n    {ENTRY}\n", "guests replace index.docker.io"),
        (f"docker:\n  *.example.com:\n    {ENTRY}\n", "must be in quotes"),
        (f"default-docker:\n  {ENTRY}\n    more: y\n", "a value that is not a mapping"),
        (f"default-docker:\n  {ENTRY}\n---\na: b\n", "another document"),
        (f"default-docker:\n  {ENTRY}\ndefault-docker:\n  {ENTRY}\n", "for the second time"),
        ("default-docker:\n  sigstore:file:///x\n", "is not a member"),
        ("default-docker:\n  sigstore: file: x\n", "a second colon"),
        ('default-docker:\n  sigstore: "file:///x" y\n', "text behind a quoted value"),
        ('default-docker:\n  sigstore: "file:///x\n', "quotes that nothing closes"),
        ("default-docker:\n\t# why\n  sigstore: file:///x\n", "a tab"),
        ("- a\n", "an element of a list"),
        ("hello\n", "is not a member"),
    ],
)
def test_what_no_guest_reads(text: str, part: str) -> None:
    """Each of them was given to image-rs, which refuses it or cannot use it."""
    (problem,) = contents.check(PATH, text.encode()).problems
    assert part in problem


def test_bytes_that_are_not_utf_8_are_refused() -> None:
    (problem,) = contents.check(PATH, b"default-docker:\n  sigstore: file:///\xfc\n").problems
    assert "not UTF-8" in problem


@pytest.mark.parametrize(
    "text",
    [
        f"default-docker: &a\n  {ENTRY}\n",
        f"default-docker: !!map\n  {ENTRY}\n",
        "default-docker: {sigstore: 'file:///x'}\n",
        "default-docker:\n  sigstore: |\n    file:///x\n",
        'default-docker:\n  sigstore: "file:///\\x41"\n',
        f"%YAML 1.1\n---\ndefault-docker:\n  {ENTRY}\n",
        "? default-docker\n: x\n",
    ],
)
def test_yaml_that_the_broker_does_not_read_is_a_remark(text: str) -> None:
    found = contents.check(PATH, text.encode())
    assert found.problems == ()
    assert found.usable == EVERY
    assert "this broker cannot verify it" in found.warnings[0]


def test_members_that_guests_ignore_are_a_remark() -> None:
    found = contents.check(PATH, f"default:\n  {ENTRY}\n".encode())
    assert found.warnings == ("'default': guests ignore it; they read default-docker and docker",)


def test_deep_nesting_is_limited() -> None:
    text = "".join(f"{' ' * depth}a:\n" for depth in range(100))
    assert "nested deeper" in contents.check(PATH, text.encode()).warnings[0]


@pytest.mark.parametrize("text", ["a: x\n" * 20_001, "a: " + "x" * 2000])
def test_lines_are_limited(text: str) -> None:
    assert "more than" in contents.check(PATH, text.encode()).warnings[0]


def as_value(loaded: object) -> Value:
    """Return what PyYAML has read, as `parse` returns it."""
    if isinstance(loaded, dict):
        return {str(key): as_value(value) for key, value in loaded.items()}
    return loaded if loaded is None or isinstance(loaded, str) else 0


WORDS = st.text(alphabet="ab:#'\"*&!|>{}[],%@-?~ /0", max_size=8)
LINES = st.lists(
    st.builds(
        lambda indent, key, rest: " " * indent + key + rest,
        st.sampled_from([0, 0, 1, 2, 2, 4]),
        st.sampled_from(["a:", "b:", "'c' :", '"d":', "e :", "- ", "", "a", "#"]),
        WORDS.map(lambda word: f" {word}") | st.just(""),
    ),
    max_size=6,
)


@given(LINES.map("\n".join))
def test_a_result_is_that_of_a_complete_parser(text: str) -> None:
    """The alphabet has no tab, which PyYAML refuses, and no truth value of YAML 1.1."""
    try:
        ours = parse(text.encode())
    except (NotMappings, Unsupported):
        return
    theirs = yaml.safe_load(text)
    assert ours == (as_value(theirs) or {})


@pytest.mark.parametrize("line", ["k{n}: b{space}x", "k{n}{space}x: b"])
@pytest.mark.timing
def test_white_space_takes_linear_time(line: str) -> None:
    """A quadratic pattern held the event loop for seconds."""
    space = " " * 1900
    text = "\n".join(line.format(n=n, space=space) for n in range(10_000))
    start = time.process_time()
    assert len(parse(text.encode())) == 10_000
    assert time.process_time() - start < 20
