"""Near misses of both programs' commands, options and values get a suggestion, in one line."""

from __future__ import annotations

import re
from itertools import product

import pytest

from tests.support.command import run_here
from verdictd_py.cli.completion.tree import Node, load
from verdictd_py.cli.suggest import unknown_command, unknown_option
from verdictd_py.cli.verdict import main as verdict

VERDICT = {
    "stauts": "did you mean 'status'?",
    "keys list": "did you mean 'key list'?",
    "key lst": "did you mean 'key list'?",
    "key ls": "did you mean 'key list'?",
    "key remove x": "did you mean 'key delete'?",
    "list key": "did you mean 'key list'?",
    "list keys": "there is no command 'list keys'; did you mean 'key list'?",
    "list-keys": "did you mean 'key list'?",
    "keylist": "did you mean 'key list'?",
    "polices list": "did you mean 'policy list'?",
    "referense pin --from x": "did you mean 'reference pin'?",
    "set policy x y": "did you mean 'policy set'?",
    "list": "did you mean 'guest list', 'policy list', 'key list'",
    "guest policy": "'guest policy' is a command of the other program: verdictd-py guest policy",
    "appraise x": "'appraise' is a command of the other program: verdictd-py appraise",
    "frobnicate": "there is no command 'frobnicate'; see verdict-py --help",
    "key frobnicate": "write one of list, describe, create,",
    "key": "the following arguments are required: ACTION, one of list, describe,",
    "key list --jsn": "did you mean '--json'?",
    "key list --tls_ca x": "did you mean '--tls-ca'?",
    "--client-apo x status": "did you mean '--client-api'?",
    "--set-opa-polcy a b": "did you mean '--set-opa-policy'?",
    "key list --path x": "the option --path stands before 'key': verdict-py --path",
    "--field x status": "--field is an option of verdict-py reference pin",
    "--kbs-http x": "--kbs-http is an option of verdictd-py",
    "guest list acepted": "did you mean 'accepted'?",
    "completion bahs": "did you mean 'bash'?",
}

VERDICTD = {
    "geust policy": "did you mean 'guest policy'?",
    "apraise x": "did you mean 'appraise'?",
    "status": "'status' is a command of the other program: verdict-py status",
    "stauts": "did you mean 'verdict-py status'?",
    "policy list": "'policy list' is a command of the other program: verdict-py policy list",
    "--lisen 127.0.0.1:0": "did you mean '--listen'?",
    "--verif tdx": "did you mean '--verifier'?",
    "--data_dir x": "did you mean '--data-dir'?",
    "--log-format jsn": "did you mean 'json'?",
    "--config /dev/null demo": "the command 'demo' stands first: verdictd-py demo",
    "--set-opa-policy a b": "--set-opa-policy is an option of verdict-py",
    "guest polcy": "did you mean 'guest policy'?",
    "guest --conect x policy": "did you mean '--connect'?",
    "guest policy --conect x": "did you mean '--connect'?",
    "guest --protocol rcarr policy": "did you mean 'rcar'?",
    "collateral fetch --outptu x": "did you mean '--output'?",
    "admin-token --rol x": "did you mean '--role'?",
}


@pytest.mark.parametrize("line", VERDICT)
def test_verdict_py_suggests(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ending:
        verdict(line.split())
    said = capsys.readouterr()
    assert (ending.value.code, said.out, said.err.count("\n")) == (2, "", 1)
    assert VERDICT[line] in said.err
    assert re.search(r"[?;] [Ss]ee verdict-py[a-z -]* --help$|: write one of", said.err)


@pytest.mark.parametrize("line", VERDICTD)
def test_verdictd_py_suggests(line: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    ended = run_here(line.split(), capfdbinary)
    assert (ended.status, ended.stderr.count("\n")) == (2, 1)
    assert VERDICTD[line] in ended.stderr


def _commands(program: str, node: Node) -> list[tuple[str, ...]]:
    return [(program, *path.split()) for path in node.paths()]


@pytest.mark.parametrize("program", ["verdict-py", "verdictd-py"])
def test_each_command_with_two_swapped_letters_is_recognized(program: str) -> None:
    missed = []
    for _, *path in _commands(program, load(program)):
        word = path[-1]
        for place in range(1, len(word) - 1):
            typed = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
            if typed == word or len(word) < 4:
                continue
            text = unknown_command(" ".join([program, *path[:-1]]), [typed])
            if f"{' '.join(path)!r}" not in text:
                missed.append((typed, text))
    assert not missed


def test_each_option_with_a_missing_letter_is_recognized() -> None:
    node = load("verdictd-py")
    for name, place in product(node.option_names(), (3, -1)):
        if len(name) > 6:
            typed = name[:place] + name[place:][1:]
            assert f"{name!r}" in unknown_option("verdictd-py", typed) or typed == name
