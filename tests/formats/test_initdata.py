"""Init-data: proved by its digest, and read without delay whatever a guest sends."""

from __future__ import annotations

import hashlib
import json
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.examples import examples
from tests.support.vectors import input_file
from tests.support.work import cost
from verdictd_py.domain.evidence import InitData
from verdictd_py.errors import EvidenceFormat
from verdictd_py.formats import initdata, tomlparts
from verdictd_py.formats.initdata import MAX_BYTES, MAX_VALUES

SECRET = "PRIVATE-f00d"
HEAD = 'version = "0.1.0"\nalgorithm = "sha384"\ndata = {}\n'
MAX_COST = 20.0
"""In units of `cost`; without its bounds the reader takes 500 and more."""
TOO_MANY = f"the init-data has more than {MAX_VALUES} values"


def document(algorithm: str, form: str = "toml") -> str:
    data = {"aa.toml": "key = 1", "policy.rego": 'package x\n# "é" \\ tab\t'}
    if form == "json":
        return json.dumps({"version": "0.1.0", "algorithm": algorithm, "data": data})
    lines = [f'"{name}" = {json.dumps(text)}' for name, text in data.items()]
    return "\n".join([f'version = "0.1.0"\nalgorithm = "{algorithm}"\n[data]', *lines])


def refused(body: str, form: str = "toml") -> str:
    """Return the text of the refusal, which contains no data of the document."""
    with pytest.raises(EvidenceFormat) as caught:
        initdata.parse(InitData(form, body))
    assert SECRET not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)


def measured(body: str, algorithm: str) -> str:
    """Return MRCONFIGID of a guest with this init-data: 48 bytes, cut or padded with zeros."""
    return hashlib.new(algorithm, body.encode()).hexdigest()[:96].ljust(96, "0")


@pytest.mark.parametrize("form", ["toml", "json"])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_the_digest_matches_the_measured_one(algorithm: str, form: str) -> None:
    body = document(algorithm, form)
    found = initdata.parse(InitData(form, body))
    assert found.digest == hashlib.new(algorithm, body.encode()).digest()
    assert found.mismatches("register", bytes.fromhex(measured(body, algorithm)), 48) == ()
    assert found.content["data"] == {
        "aa.toml": "key = 1",
        "policy.rego": 'package x\n# "é" \\ tab\t',
    }


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_another_digest_is_a_mismatch(algorithm: str) -> None:
    """The other digests are of another text or algorithm, zeros, or cut."""
    body = document(algorithm)
    found = initdata.parse(InitData("toml", body))
    right = measured(body, algorithm)
    others = {"sha256", "sha384", "sha512"} - {algorithm}
    wrong = [measured(body + " ", algorithm), "0" * 96, right[:62].ljust(96, "0"), right[:64], ""]
    for register in [*wrong, *(measured(body, other) for other in others)]:
        if register != right:
            (reason,) = found.mismatches("register", bytes.fromhex(register), 48)
            assert (reason.rule, reason.measured) == ("initData", register)
            assert reason.expected == right


@pytest.mark.parametrize("size", [32, 48, 64])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_digest_is_cut_or_filled_to_the_size_of_the_claim(algorithm: str, size: int) -> None:
    body = document(algorithm)
    found = initdata.parse(InitData("toml", body))
    right = hashlib.new(algorithm, body.encode()).digest()[:size].ljust(size, b"\0")
    assert found.mismatches("hostData", right, size) == ()
    (reason,) = found.mismatches("hostData", right[:-1] + b"\1", size)
    assert "hostData" in reason.text


@pytest.mark.parametrize("changed", [" ", "\n", "#"])
def test_every_character_changes_the_digest(changed: str) -> None:
    body = document("sha256")
    found = initdata.parse(InitData("toml", body + changed))
    assert found.content == initdata.parse(InitData("toml", body)).content
    assert found.mismatches("register", bytes.fromhex(measured(body, "sha256")), 48)


@pytest.mark.parametrize("spelled", ["sha384", "SHA384", "sha-384", "SHA-384"])
def test_all_spellings_of_an_algorithm_are_accepted(spelled: str) -> None:
    assert len(initdata.parse(InitData("toml", document(spelled))).digest) == 48


@pytest.mark.parametrize("named", ["sm3", "md5", "sha1", "sha224", "shake_256", "", "sha3843"])
def test_unsupported_algorithms_are_refused(named: str) -> None:
    told = refused(document(named))
    assert named in told
    assert "supported are sha256, sha384 and sha512" in told


@pytest.mark.parametrize("head", ["", "algorithm = 384", 'algorithm = ["sha384"]', "[algorithm]"])
def test_a_missing_algorithm_is_refused(head: str) -> None:
    assert "names the digest none" in refused(head)


@pytest.mark.parametrize("form", ["", "yaml", "TOML", "toml\n", "jsontoml"])
def test_unsupported_formats_are_refused(form: str) -> None:
    assert "supported are toml and json" in refused(document("sha384"), form)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1979-05-27", "1979-05-27"),
        ("07:32:00", "07:32:00"),
        ("1979-05-27T07:32:00Z", "1979-05-27T07:32:00+00:00"),
        ("1979-05-27 07:32:00.5", "1979-05-27T07:32:00.500000"),
        ("true", True),
        ("9223372036854775807", 2**63 - 1),
        ("-9223372036854775808", -(2**63)),
        ("1.5", 1.5),
        ("[1, [2], {a = 3}]", [1, [2], {"a": 3}]),
    ],
)
def test_dates_and_times_become_text(value: str, expected: Any) -> None:
    found = initdata.parse(InitData("toml", f"{HEAD}x = {value}")).content["x"]
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    "value",
    [
        *("nan", "-nan", "inf", "-inf", "1e999", "9223372036854775808", "-9223372036854775809"),
        *("0x" + "f" * 6000, "0b" + "1" * 70, "9" * 6000, "[" * 20 + "]" * 20, "[" * 5000),
        *("{a = " * 20 + "1" + "}" * 20, f'"{SECRET}', f"{SECRET} = {SECRET}", "1 2"),
    ],
)
def test_values_without_json_equivalent_are_refused(value: str) -> None:
    assert refused(f'{HEAD}s = "{SECRET}"\nx = {value}') == "the init-data is not valid TOML"


@pytest.mark.parametrize(
    "body",
    [
        *("[]", "1", "", "{", f'{{"data":"{SECRET}"', f'{{"a":"{SECRET}"}}x', '{"a":1,"a":2}'),
        *(f'{{"a":"{SECRET}","b":NaN}}', '{"a":' + "[" * 40 + "]" * 40 + "}", '{"a":"\\ud800"}'),
        '{"a":' + "9" * 400 + "}",
    ],
)
def test_invalid_json_is_refused(body: str) -> None:
    refused(body, "json")


@pytest.mark.parametrize("form", ["toml", "json"])
def test_init_data_has_a_maximum_size(form: str) -> None:
    filling = "#" if form == "toml" else " "
    body = document("sha384", form)
    for size in (MAX_BYTES, MAX_BYTES + 1):
        filled = body + "\n" + filling * (size - len(body.encode()) - 1)
        assert len(filled.encode()) == size
        if size > MAX_BYTES:
            assert "larger than 1048576 bytes" in refused(filled, form)
        else:
            assert initdata.parse(InitData(form, filled)).digest
    two_bytes = "é" * (MAX_BYTES // 2 + 1)
    assert "larger" in refused(f"#{two_bytes}", form)  # bytes count, not characters


def test_the_depth_of_keys_is_limited() -> None:
    good = ".".join("k" * 10)
    assert initdata.parse(InitData("toml", f"{HEAD}{good} = 1\n[b.{good}]\nc = 1.5"))
    for part in ("k", '"k"', "'k'", '"k.k"', ' "\\"" '):
        for key in (".".join([part] * 40), f"{'.'.join([part] * 40)} = 1\n[t]"):
            for text in (key, f"[{key}]", f"x = {{{key} = 1}}", f"x = [{{{key} = 1}}]"):
                refused(f"{HEAD}{text}\n")


@pytest.mark.parametrize(
    "quoted",
    [
        '"{}"',
        "'{}'",
        '"""{}"""',
        "'''{}'''",
        '"\\"{}"',
        '"""\\"""{}"\n\n""{}"""""',
        "'''\n''{}\n'{}'''''",
        "1 # {}",
        '"#" # "{}',
        '"""#\n{}"""',
    ],
)
def test_dots_in_text_are_not_key_separators(quoted: str) -> None:
    """Policies of agents contain many."""
    body = f"{HEAD}x = {quoted.replace('{}', 'a.' * 500)}\ny = 1"
    assert initdata.parse(InitData("toml", body)).content == tomllib.loads(body)


@pytest.mark.parametrize("text", ['"""a""""', '"""a"""""', "'''a''''", "'''a'''''", '""'])
def test_keys_behind_a_string_are_not_taken_for_text(text: str) -> None:
    """A long string may end with two quotes of its own."""
    body = f"x = {{s = {text}, {'.'.join('k' * 40)} = 1}}"
    assert tomllib.loads(body)
    with pytest.raises(ValueError, match="nested too deep"):
        tomlparts.exceed(body, 1000, dots=16)


def fill(unit: str, *, before: str = "", behind: str = "") -> str:
    """Return a document of the maximum size."""
    room = MAX_BYTES - len(HEAD + before + behind)
    return HEAD + before + unit * (room // len(unit)) + behind


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(fill("a.", behind="a=1"), id="one dotted key"),  # 24 s without a bound
        pytest.param(fill("a.", before="[", behind="a]"), id="one dotted table"),
        pytest.param(fill(" . a", before="a", behind="=1"), id="with spaces"),
        pytest.param(fill('"".', behind='""=1'), id="quoted and empty"),
        pytest.param(fill(".".join("a" * 16) + ".b=1\n"), id="keys as deep as may be"),
        pytest.param(fill('\\"""x\n'), id="triple quotes that never end"),
        pytest.param(fill('\\"', before='a="'), id="quotes that never end"),
        pytest.param(fill("''x\n", before="a='''"), id="literal that never ends"),
        pytest.param(fill('"x\n'), id="a quote a line"),
        pytest.param(fill("\\n", before='a="', behind='"'), id="escapes"),
        pytest.param(fill("\\\n", before='a="""', behind='"""'), id="escaped ends of lines"),
        pytest.param(fill("[", before="a="), id="arrays"),
        pytest.param(fill("{a=", before="a="), id="inline tables"),
        pytest.param(fill("1,", before="a=[", behind="]"), id="elements"),
        pytest.param(fill("{},", before="a=[", behind="]"), id="tables in an array"),
        pytest.param(fill("[[a]]\n"), id="array of tables"),
        pytest.param(fill("[[a]]\n[[a.b]]\n"), id="arrays of tables of tables"),
        pytest.param(fill("f", before="a=0x"), id="one number"),
        pytest.param(fill("9", before="a="), id="one decimal number"),
        pytest.param(fill("9", before="a=1."), id="one fraction"),
        pytest.param(fill(" ", before="a=", behind="1"), id="spaces"),
        pytest.param(fill("\r\n"), id="ends of lines"),
        pytest.param(
            HEAD + "".join(f"[t{number}]\n" for number in range(MAX_BYTES // 10)), id="many tables"
        ),
        pytest.param(
            HEAD + "".join(f"k{number}=1\n" for number in range(MAX_BYTES // 10)), id="many keys"
        ),
    ],
)
@pytest.mark.timing
def test_no_document_takes_long_to_refuse(body: str) -> None:
    """A genuine guest can send any document, and all other guests wait meanwhile."""

    def parse() -> None:
        try:
            found = initdata.parse(InitData("toml", body[:MAX_BYTES]))
        except EvidenceFormat as error:
            assert str(error) in {"the init-data is not valid TOML", TOO_MANY}  # noqa: PT017
        else:
            assert found.content["algorithm"] == "sha384"

    assert cost(parse) < MAX_COST


# Files that operators have.


@pytest.mark.parametrize(
    "name",
    [
        *("bom.toml", "crlf.toml", "genpolicy-300k.toml", "kata-doc.toml", "kata.json"),
        *("sha256.toml", "sha512.toml", "upper-alg.toml"),
    ],
)
def test_init_data_that_guests_read_is_read(name: str) -> None:
    """The digest is that of the exact bytes: a byte order mark and the ends of lines count."""
    file = input_file("initdata") / name
    data = file.read_bytes()
    found = initdata.parse(InitData(file.suffix.removeprefix("."), data.decode()))
    algorithm = str(found.content["algorithm"]).lower().replace("-", "")
    assert found.digest == hashlib.new(algorithm, data).digest()
    assert found.content["version"] == "0.1.0"
    assert found.content["data"]


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("no-alg.toml", "the init-data names the digest none; supported are sha256"),
        ("no-data.toml", "the init-data has no data"),
        ("no-version.toml", "the init-data has no version"),
    ],
)
def test_init_data_that_guests_refuse_is_refused(name: str, problem: str) -> None:
    assert problem in refused((input_file("initdata") / name).read_text())


def test_json_may_begin_with_a_byte_order_mark() -> None:
    body = "\ufeff" + document("sha384", "json")
    found = initdata.parse(InitData("json", body))
    assert found.digest == hashlib.sha384(body.encode()).digest()
    refused("\ufeff" + body, "json")


def test_the_number_of_strings_is_limited() -> None:
    """Each takes a step in Python, and none of them is a value if they are concatenated."""
    assert refused(HEAD + "a = " + "'' " * 10_000) == TOO_MANY


def test_the_length_of_a_word_is_limited() -> None:
    """Other threads wait while a number is read."""
    longest = tomlparts.MAX_WORD_CHARACTERS
    assert initdata.parse(InitData("toml", f"{HEAD}{'x' * longest}=1"))
    assert "not valid TOML" in refused(f"{HEAD}{'x' * (longest + 1)}=1")
    assert "not valid TOML" in refused(f"{HEAD}x={'0' * (longest + 1)}")
    assert initdata.parse(InitData("toml", f"{HEAD}x={' ' * (longest + 1)}1"))


def with_values(form: str, count: int) -> str:
    """Return a document with `count` values: three members, a list, and its elements."""
    if form == "json":
        members = {"version": "0.1.0", "algorithm": "sha384", "data": {}}
        return json.dumps({**members, "x": [1] * (count - 4)})
    return f"{HEAD}x = [{', '.join(['1'] * (count - 4))}]"


@pytest.mark.parametrize("form", ["toml", "json"])
def test_the_number_of_values_is_limited(form: str) -> None:
    """A policy engine needs minutes for a hundred thousand, while other guests wait."""
    assert initdata.parse(InitData(form, with_values(form, MAX_VALUES))).digest
    for count in (MAX_VALUES + 1, 20 * MAX_VALUES):
        assert refused(with_values(form, count), form) == TOO_MANY


def test_nested_values_count_and_long_texts_do_not() -> None:
    keys = "".join(f"a.b.c.d.e.f.k{number} = {{}}\n" for number in range(MAX_VALUES // 2))
    assert initdata.parse(InitData("toml", HEAD + keys)).digest
    tables = "".join(f"[t{number}.a.b.c.d]\n" for number in range(MAX_VALUES // 4))
    assert refused(HEAD + tables) == TOO_MANY
    text = "a, b = [{}]\n" * 10_000
    assert initdata.parse(InitData("toml", f'{HEAD}x = """\n{text}"""')).digest
    assert initdata.parse(InitData("toml", HEAD + "# a, b = [{}]\n" * MAX_VALUES)).digest


@given(st.sampled_from(["toml", "json"]), st.text(st.characters(codec=None), max_size=200))
@examples(150)
def test_arbitrary_text_raises_the_documented_error_only(form: str, body: str) -> None:
    try:
        initdata.parse(InitData(form, body))
    except EvidenceFormat as error:
        assert "\n" not in str(error)  # noqa: PT017


FRAGMENTS = st.sampled_from(
    ["a", ".", '"', "'", '"""', "'''", "\\", "#", "\n", "=", "[", "]", "{", "}", ",", "1", " "]
)


@given(st.lists(FRAGMENTS, max_size=40).map("".join))
@examples(300)
def test_the_limit_of_depth_refuses_nothing_else(body: str) -> None:
    """A document that `tomllib` reads is accepted if no key is deeper than 16."""
    try:
        tomllib.loads(HEAD + body)
    except ValueError:
        return
    if body.count(".") <= 16:
        assert initdata.parse(InitData("toml", HEAD + body)).digest


@pytest.mark.parametrize("form", ["toml", "json"])
def test_text_that_utf_8_cannot_encode_is_refused(form: str) -> None:
    body = '{"algorithm": "sha256", "version": "\ud800"}'
    with pytest.raises(EvidenceFormat):
        initdata.parse(InitData(form, body))
