"""Random Rego policies and inputs, for comparing two engines."""

# ruff: noqa: E501, PLR0911  # one row for each type of operand, one return for each statement
from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Final

from verdictd_py.encoding import JsonValue

HEAD: Final = "package policy\n\nimport rego.v1\n\ndefault allow := false\n\n"

TEXTS: Final = (
    *(
        "",
        "a",
        "b",
        "ab",
        "A",
        "aBc",
        "aa",
        "aaab",
        "a,b,c",
        " a ",
        "10",
        "-1.5",
        "0x10",
        "true",
        "null",
        "é",
        "Ü",
    ),
    *(
        "ß",
        "日本",
        "😀",
        "e\u0301",
        "\u2028",
        "a/b",
        "a.b",
        'a"b',
        "a\\b",
        "a\nb",
        "\t",
        "<&>",
        "[a-z]+",
        "%d",
    ),
    *(
        "2024-03-13T00:00:00Z",
        "1h30m",
        "v1.2.3",
        "1.2.3-rc1",
        "10.0.0.0/8",
        "10.1.2.3",
        "YWI=",
        "6162",
    ),
)
NUMBERS: Final = (
    *("0", "1", "2", "3", "-1", "10", "255", "1.5", "-2.5", "0.1", "0.2", "100", "0.001", "1.25"),
    *("9007199254740992", "9007199254740993", "-9007199254740993", "9223372036854775807"),
    *("9223372036854775808", "18446744073709551616", "123456789012345678901234567890"),
)
NAMES: Final = ("x", "y", "z")

Scope = tuple[tuple[str, str], ...]

FUNCTIONS: Final[tuple[tuple[str, str, str], ...]] = (
    # name, types of the operands, type of the result
    ("abs", "n", "n"),
    ("ceil", "n", "n"),
    ("floor", "n", "n"),
    ("round", "n", "n"),
    ("count", "c", "n"),
    ("sum", "N", "n"),
    ("product", "N", "n"),
    ("max", "l", "?"),
    ("min", "l", "?"),
    ("sort", "l", "a"),
    ("array.concat", "aa", "a"),
    ("array.reverse", "a", "a"),
    ("array.slice", "ann", "a"),
    ("intersection", "S", "e"),
    ("union", "S", "e"),
    ("object.get", "os?", "?"),
    ("object.keys", "o", "e"),
    ("object.union", "oo", "o"),
    ("object.remove", "ol", "o"),
    ("object.filter", "ol", "o"),
    ("object.subset", "oo", "b"),
    ("object.union_n", "O", "o"),
    ("json.patch", "oP", "o"),
    ("concat", "sL", "s"),
    ("contains", "ss", "b"),
    ("startswith", "ss", "b"),
    ("endswith", "ss", "b"),
    ("format_int", "nB", "s"),
    ("indexof", "ss", "n"),
    ("indexof_n", "ss", "a"),
    ("lower", "s", "s"),
    ("upper", "s", "s"),
    ("replace", "sss", "s"),
    ("split", "ss", "a"),
    ("sprintf", "Fa", "s"),
    ("strings.any_prefix_match", "LL", "b"),
    ("strings.any_suffix_match", "LL", "b"),
    ("strings.count", "ss", "n"),
    ("strings.replace_n", "Ts", "s"),
    ("strings.reverse", "s", "s"),
    ("substring", "snn", "s"),
    ("trim", "ss", "s"),
    ("trim_left", "ss", "s"),
    ("trim_right", "ss", "s"),
    ("trim_prefix", "ss", "s"),
    ("trim_suffix", "ss", "s"),
    ("trim_space", "s", "s"),
    ("regex.match", "Rs", "b"),
    ("regex.is_valid", "R", "b"),
    ("regex.split", "Rs", "a"),
    ("regex.replace", "sRs", "s"),
    ("regex.find_n", "Rsn", "a"),
    ("regex.find_all_string_submatch_n", "Rsn", "a"),
    ("bits.and", "nn", "n"),
    ("bits.or", "nn", "n"),
    ("bits.xor", "nn", "n"),
    ("bits.negate", "n", "n"),
    ("bits.lsh", "ni", "n"),
    ("bits.rsh", "ni", "n"),
    ("to_number", "s", "n"),
    ("is_array", "?", "b"),
    ("is_boolean", "?", "b"),
    ("is_null", "?", "b"),
    ("is_number", "?", "b"),
    ("is_object", "?", "b"),
    ("is_set", "?", "b"),
    ("is_string", "?", "b"),
    ("type_name", "?", "s"),
    ("base64.encode", "s", "s"),
    ("base64.decode", "s", "s"),
    ("base64.is_valid", "s", "b"),
    ("base64url.encode", "s", "s"),
    ("base64url.encode_no_pad", "s", "s"),
    ("base64url.decode", "s", "s"),
    ("hex.encode", "s", "s"),
    ("hex.decode", "s", "s"),
    ("urlquery.encode", "s", "s"),
    ("urlquery.decode", "s", "s"),
    ("json.marshal", "?", "s"),
    ("json.unmarshal", "J", "?"),
    ("json.is_valid", "J", "b"),
    ("numbers.range", "ii", "a"),
    ("numbers.range_step", "iii", "a"),
    ("semver.compare", "VV", "n"),
    ("units.parse", "U", "n"),
    ("units.parse_bytes", "U", "n"),
    ("graph.reachable", "gL", "e"),
    ("net.cidr_contains", "CC", "b"),
    ("net.cidr_intersects", "CC", "b"),
    ("net.cidr_is_valid", "C", "b"),
    ("time.parse_rfc3339_ns", "t", "n"),
    ("time.parse_duration_ns", "d", "n"),
    ("time.add_date", "iiii", "n"),
    ("time.date", "k", "a"),
    ("time.clock", "k", "a"),
    ("time.weekday", "k", "s"),
    ("time.diff", "kk", "a"),
    ("time.format", "k", "s"),
    ("crypto.md5", "s", "s"),
    ("crypto.sha1", "s", "s"),
    ("crypto.sha256", "s", "s"),
    ("crypto.hmac.md5", "ss", "s"),
    ("crypto.hmac.sha1", "ss", "s"),
    ("crypto.hmac.sha256", "ss", "s"),
    ("crypto.hmac.sha512", "ss", "s"),
    ("crypto.hmac.equal", "ss", "b"),
)
"""Every function that a policy may call and whose result does not depend on an order."""

# Constants of special types, by their letter.
SPECIAL: Final[dict[str, tuple[str, ...]]] = {
    "i": ("0", "1", "2", "5", "-1", "-3", "12", "31"),
    "B": ("2", "8", "10", "16", "3"),
    "R": (
        *(
            r"`[a-z]+`",
            r"`^a.c$`",
            r"`(?i)AB`",
            r"`\p{L}+`",
            r"`\d+`",
            r"`(a)(b)?`",
            r"`a|b`",
            r"`.`",
        ),
        *(r"`[`", r"`(?P<n>a)`", r"`\bA`", r"`x*`", r"`[[:alpha:]]`", r"`\w+`", r"`\s`", r"`^$`"),
        *(
            r"`(?s)a.b`",
            r"`[^a]`",
            r"`a{2,3}`",
            r"`\x{65E5}`",
            r"`(?m)^b`",
            r"`urn:{.*}`",
            r'"\\d"',
        ),
    ),
    "F": (
        *(
            '"%d"',
            '"%s"',
            '"%v"',
            '"%v %v"',
            '"%d-%s"',
            '"%x"',
            '"%q"',
            '"%5d"',
            '"%.2f"',
            '"%t"',
            '"%%"',
        ),
        *(
            '"%-5s|"',
            '"%05d"',
            '"%e"',
            '"%X"',
            '"%o"',
            '"%b"',
            '"%c"',
            '"%T"',
            '"%+d"',
            '"%5.1f"',
            '"é%v"',
        ),
    ),
    "J": (
        *(r'"[1,2]"', r'"{\"a\": 1}"', r'"{"', r'"1"', r'"\"\\u0041\""', r'"nul"', r'"[1.0, 1e2]"'),
        *(
            r'"{\"a\":1,\"a\":2}"',
            r'"9007199254740993"',
            r'"a: b"',
            r'"- 1"',
            r'"\ufeff1"',
            r'""',
            r'"1 2"',
        ),
        *(r'"\"<&>\""', r'"true"', r'"yes"', r'"1e400"', r'"0x10"', r'"~"', r'"2024-01-01"'),
    ),
    "V": (
        '"1.2.3"',
        '"v1.2.3"',
        '"1.2.3-rc.1"',
        '"1.2"',
        '"1.10.0"',
        '"1.2.3+b"',
        '"x"',
        '"01.2.3"',
    ),
    "U": (
        *(
            '"10"',
            '"10K"',
            '"1.5M"',
            '"2Ki"',
            '"3MiB"',
            '"1e3"',
            '"100m"',
            '"m"',
            '"1GB"',
            '"0.1"',
            '"1 K"',
        ),
        *('"1k"', '"1Ti"', '"-1"', '"+2K"', '"1E"', '"1e2K"', '".5M"', '"10b"'),
    ),
    "g": ('{"a": ["b"], "b": ["c"], "c": []}', '{"a": ["a"], "b": {"a"}}', "{}"),
    "C": (
        *(
            '"10.0.0.0/8"',
            '"10.1.2.3"',
            '"10.1.0.0/16"',
            '"::/0"',
            '"2001:db8::/32"',
            '"2001:db8::1"',
        ),
        *(
            '"::ffff:10.0.0.1"',
            '"1.2.3"',
            '"10.0.0.0/33"',
            '"0.0.0.0/0"',
            '"10.0.0.1/32"',
            '"a"',
            '"1.2.3.04"',
        ),
    ),
    "t": (
        *('"2024-03-13T00:00:00Z"', '"2024-02-29T23:59:59.123456789Z"', '"2023-02-29T00:00:00Z"'),
        *('"1970-01-01T00:00:00+02:00"', '"2024-03-13T24:00:00Z"', '"2024-03-13t00:00:00z"'),
        *(
            '"2024-03-13"',
            '"2024-13-01T00:00:00Z"',
            '"1600-01-01T00:00:00Z"',
            '"2024-03-13T00:00:60Z"',
        ),
        *(
            '"2024-03-13T00:00:00.5-05:30"',
            '"2024-03-13T00:00:00"',
            '"2262-04-11T23:47:16.854775807Z"',
        ),
    ),
    "d": (
        '"1h"',
        '"1h30m5.5s"',
        '"-1.5h"',
        '"100ns"',
        '"1d"',
        '""',
        '"0"',
        '"3us"',
        '".5s"',
        '"1h 1m"',
        '"."',
    ),
    "k": ("0", "1710288000000000000", "-1", "1709251199123456789", '[1710288000000000000, "UTC"]'),
}


class Generator:
    """Generates policies, the same ones for the same seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # cases, not secrets
        self._makers: dict[str, Callable[[int, Scope], str]] = {
            "n": self._number,
            "s": self._string,
            "b": self._boolean,
            "a": self._array,
            "e": self._set,
            "o": self._object,
        }

    def policy(self) -> str:
        """Return a policy: helpers, and the rule `result` in one of several forms."""
        choice = self._random.choice
        helpers = [self._function("f"), self._partial_set("p"), self._partial_object("q")]
        helpers = self._random.sample(helpers, self._random.randrange(3))
        form = choice((self._complete, self._complete, self._with_else, self._with_default))
        main = choice((form, form, self._partial_set, self._partial_object))("result")
        return HEAD + "\n".join([*helpers, main]) + "\n"

    def call(self) -> str:
        """Return a policy that calls a function with constants."""
        name, operands, _ = self._random.choice(FUNCTIONS)
        values = [self._operand(letter, 1, ()) for letter in operands]
        return f"{HEAD}result := {name}({', '.join(values)})\n"

    def inputs(self, count: int) -> list[dict[str, JsonValue]]:
        return [
            {
                name: self._json(kind)
                for name, kind in (("s", "s"), ("n", "n"), ("a", "a"), ("o", "o"))
            }
            for _ in range(count)
        ]

    def _json(self, kind: str, depth: int = 2) -> JsonValue:
        chance = self._random
        if chance.random() < 0.1:
            kind = chance.choice("snbza")
        if kind == "s":
            return chance.choice(TEXTS)
        if kind == "n":
            found: JsonValue = json.loads(chance.choice(NUMBERS))
            return found
        if kind == "a" and depth:
            return [
                self._json(chance.choice("snao"), depth - 1) for _ in range(chance.randrange(4))
            ]
        if kind == "o" and depth:
            names = chance.sample(["a", "b", "c", "é"], chance.randrange(4))
            return {name: self._json(chance.choice("snao"), depth - 1) for name in names}
        return chance.choice([None, True, False])

    # Rules

    def _complete(self, name: str) -> str:
        body, scope = self._body(3)
        return f"{name} := {self._any(2, scope)} if {{\n{body}\n}}"

    def _with_else(self, name: str) -> str:
        other, scope = self._body(2)
        tail = self._random.choice((f"else := {self._any(1, ())}", ""))
        return f"{self._complete(name)} else := {self._any(1, scope)} if {{\n{other}\n}} {tail}"

    def _with_default(self, name: str) -> str:
        return f"default {name} := {self._constant()}\n\n{self._complete(name)}"

    def _partial_set(self, name: str) -> str:
        parts = []
        for _ in range(self._random.randrange(1, 3)):
            body, scope = self._body(2)
            parts.append(f"{name} contains {self._any(1, scope)} if {{\n{body}\n}}")
        return "\n\n".join(parts)

    def _partial_object(self, name: str) -> str:
        body, scope = self._body(2)
        return f"{name}[{self._string(1, scope)}] := {self._any(1, scope)} if {{\n{body}\n}}"

    def _function(self, name: str) -> str:
        argument = self._random.choice(NAMES)
        body, scope = self._body(2, ((argument, "?"),))
        return f"{name}({argument}) := {self._any(1, scope)} if {{\n{body}\n}}"

    # Bodies

    def _body(self, length: int, scope: Scope = ()) -> tuple[str, Scope]:
        lines = []
        for _ in range(self._random.randrange(1, length + 1)):
            line, scope = self._statement(2, scope)
            lines.append("\t" + line)
        return "\n".join(lines), scope

    def _statement(self, depth: int, scope: Scope) -> tuple[str, Scope]:
        chance = self._random
        free = [name for name in NAMES if name not in {known for known, _ in scope}]
        roll = chance.random()
        if free and roll < 0.3:
            kind = chance.choice("nsboae")
            return f"{free[0]} := {self._of(kind, depth, scope)}", (*scope, (free[0], kind))
        if free and roll < 0.45:
            domain = self._of(chance.choice("ae"), depth, scope)
            return f"some {free[0]} in {domain}", (*scope, (free[0], "?"))
        if len(free) > 1 and roll < 0.55:
            text = f"some {free[0]}, {free[1]} in {self._of(chance.choice('ao'), depth, scope)}"
            return text, (*scope, (free[0], "?"), (free[1], "?"))
        if free and roll < 0.6:
            domain = self._of(chance.choice("ae"), depth, scope)
            inner, _ = self._statement(0, (*scope, (free[0], "?")))
            return f"every {free[0]} in {domain} {{ {inner} }}", scope
        if free and roll < 0.68:
            pattern = chance.choice((f"[{free[0]}, 1]", f"[1, {free[0]}]", f'{{"a": {free[0]}}}'))
            return f"{pattern} = {self._of(chance.choice('ao'), depth, scope)}", (
                *scope,
                (free[0], "?"),
            )
        if roll < 0.78:
            return f"not {self._boolean(depth, scope)}", scope
        if roll < 0.86:
            target = chance.choice(("input", "input.s", "input.n", "input.o", "input.new.name"))
            text = f"{self._boolean(depth, scope)} with {target} as {self._any(1, scope)}"
            return text, scope
        return self._boolean(depth, scope), scope

    # Terms

    def _any(self, depth: int, scope: Scope) -> str:
        return self._of(self._random.choice("nsbaeo"), depth, scope)

    def _of(self, kind: str, depth: int, scope: Scope) -> str:
        chance = self._random
        if chance.random() < 0.05:
            kind = chance.choice("nsbaeo")
        if depth < 0:
            return self._leaf(kind)
        variables = [name for name, known in scope if known in (kind, "?")]
        if variables and chance.random() < 0.4:
            return chance.choice(variables)
        if depth and chance.random() < 0.3:
            return self._call_of(kind, depth, scope)
        if chance.random() < 0.08:
            return chance.choice(
                ("input.a[0]", "input.o.a", "input.missing", "data.n", "data.l[_]", "f(1)")
            )
        return self._makers[kind](depth, scope)

    def _leaf(self, kind: str) -> str:
        leaves = {
            "n": ("input.n", *NUMBERS),
            "s": ("input.s", self._text()),
            "b": ("true", "false"),
        }
        leaves |= {"a": ("[]", "[1]", "input.a"), "e": ("set()", "{1}"), "o": ("{}", "input.o")}
        return self._random.choice(leaves[kind])

    def _call_of(self, kind: str, depth: int, scope: Scope) -> str:
        fitting = [entry for entry in FUNCTIONS if entry[2] in (kind, "?")]
        name, operands, _ = self._random.choice(fitting)
        values = [self._operand(letter, depth - 1, scope) for letter in operands]
        return f"{name}({', '.join(values)})"

    def _operand(self, letter: str, depth: int, scope: Scope) -> str:
        chance = self._random
        if letter in SPECIAL:
            return chance.choice(SPECIAL[letter])
        if letter == "?":
            return self._any(depth, scope)
        if letter in "nsbaeo":
            return self._of(letter, depth, scope)
        if letter == "c":
            return self._of(chance.choice("aeos"), depth, scope)
        if letter == "l":
            return self._of(chance.choice("ae"), depth, scope)
        return self._collection(letter, scope)

    def _collection(self, letter: str, scope: Scope) -> str:
        chance = self._random
        count = chance.randrange(3)
        if letter == "N":
            return self._listed([self._number(0, scope) for _ in range(count)])
        if letter == "L":
            return self._listed([self._string(0, scope) for _ in range(count)])
        if letter == "O":
            return f"[{', '.join(self._object(1, scope) for _ in range(count))}]"
        if letter == "S":
            return f"{{{self._set(1, scope)}, {self._set(1, scope)}}}"
        if letter == "T":
            texts = chance.sample([json.dumps(text, ensure_ascii=False) for text in TEXTS], 4)
            return f"{{{texts[0]}: {texts[1]}, {texts[1]}: {texts[2]}, {texts[3]}: {texts[0]}}}"
        operation = chance.choice(("add", "replace", "remove", "test", "copy", "move"))
        path = chance.choice(("/a", "/b", "a", "/a/0", "/a/-"))  # OPA 1.4 fails to remove ""
        return f'[{{"op": "{operation}", "path": "{path}", "from": "/a", "value": {self._constant()}}}]'

    def _listed(self, values: list[str]) -> str:
        if values and self._random.random() < 0.4:
            return "{" + ", ".join(values) + "}"
        return "[" + ", ".join(values) + "]"

    def _constant(self) -> str:
        return self._random.choice(
            (self._text(), self._literal_number(), "true", "false", "null", "[]", "{}")
        )

    def _literal_number(self) -> str:
        return self._random.choice(NUMBERS)

    def _text(self) -> str:
        """Return a literal in one of its equivalent spellings."""
        text = self._random.choice(TEXTS)
        roll = self._random.random()
        if roll < 0.15 and "`" not in text:
            return f"`{text}`"
        if roll < 0.3:
            return json.dumps(text)  # every non-ASCII character as \uXXXX
        if roll < 0.4 and text:
            return '"' + "".join(f"\\u{ord(c):04x}" for c in text if ord(c) < 0x10000) + '"'
        return json.dumps(text, ensure_ascii=False).replace("/", "\\/" if roll < 0.5 else "/")

    def _number(self, depth: int, scope: Scope) -> str:
        chance = self._random
        if depth and chance.random() < 0.3:
            left, right = self._of("n", depth - 1, scope), self._of("n", depth - 1, scope)
            return f"({left} {chance.choice('+-*/%')} {right})"
        return chance.choice((self._literal_number(), "input.n", "data.n"))

    def _string(self, depth: int, scope: Scope) -> str:
        return self._random.choice((self._text(), "input.s"))

    def _boolean(self, depth: int, scope: Scope) -> str:
        chance = self._random
        kind = chance.choice("nsaeo")
        roll = chance.random()
        if roll < 0.15:
            return f"{self._any(depth, scope)} in {self._of(chance.choice('aeo'), depth, scope)}"
        if roll < 0.2:
            return chance.choice(("true", "false"))
        operator = chance.choice(("==", "!=", "<", "<=", ">", ">="))
        return f"{self._of(kind, depth, scope)} {operator} {self._of(kind, depth, scope)}"

    def _array(self, depth: int, scope: Scope) -> str:
        if depth and self._random.random() < 0.4:
            return self._comprehension("[", "]", depth, scope)
        parts = [self._any(depth - 1, scope) for _ in range(self._random.randrange(4))]
        return self._random.choice((f"[{', '.join(parts)}]", "input.a"))

    def _set(self, depth: int, scope: Scope) -> str:
        chance = self._random
        if depth and chance.random() < 0.3:
            return self._comprehension("{", "}", depth, scope)
        if depth and chance.random() < 0.3:
            left, right = self._set(depth - 1, scope), self._set(depth - 1, scope)
            return f"({left} {chance.choice('|&-')} {right})"
        parts = [self._any(depth - 1, scope) for _ in range(chance.randrange(1, 4))]
        return chance.choice((f"{{{', '.join(parts)}}}", "set()"))

    def _object(self, depth: int, scope: Scope) -> str:
        chance = self._random
        names = chance.sample(['"a"', '"b"', '"c"', "1", "input.s"], chance.randrange(4))
        parts = [f"{name}: {self._any(depth - 1, scope)}" for name in names]
        return chance.choice((f"{{{', '.join(parts)}}}", "input.o"))

    def _comprehension(self, opening: str, closing: str, depth: int, scope: Scope) -> str:
        """Return a comprehension; its variable may hide a variable of the rule around it."""
        name = self._random.choice(NAMES)
        outside = tuple(entry for entry in scope if entry[0] != name)
        domain = self._of(self._random.choice("ae"), 0, outside)
        inside = (*outside, (name, "?"))
        term = self._any(0, inside)
        more = f"; {self._boolean(0, inside)}" if self._random.random() < 0.5 else ""
        return f"{opening}{term} | some {name} in {domain}{more}{closing}"
