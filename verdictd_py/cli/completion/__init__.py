"""`completion SHELL` of both programs, and the completion itself, which the shells start.

`tree` describes the command lines, `engine` completes a word, `kinds` and `names` query a broker
for names, and `shells` has the script of each shell and reads what it passes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from verdictd_py.cli.completion.shells import SCRIPTS, script

if TYPE_CHECKING:
    from verdictd_py.cli.parsing import Parser


def run(argv: Sequence[str]) -> int:
    """Print the script for a shell, and return 0."""
    options = build_parser().parse_args(list(argv))
    print(script("verdictd-py", options.shell), end="")
    return 0


def build_parser() -> Parser:
    """Return the parser of this command line."""
    from verdictd_py.cli.parsing import Parser  # noqa: PLC0415  # a completion does not need it

    parser = Parser(
        "verdictd-py completion",
        "Print a script that completes commands, options and files of verdictd-py in a shell.\n"
        "`verdict-py completion SHELL` does the same for verdict-py, and completes names of keys,\n"
        "resources, policies and guests from the broker too.\n\n"
        'bash:        eval "$(verdictd-py completion bash)"               in ~/.bashrc\n'
        'zsh:         eval "$(verdictd-py completion zsh)"                in ~/.zshrc\n'
        "fish:        verdictd-py completion fish | source                in config.fish\n"
        "tcsh:        verdictd-py completion tcsh > ~/.vp; source ~/.vp   in ~/.tcshrc\n"
        "PowerShell:  verdictd-py completion powershell | Out-String | Invoke-Expression\n"
        "                                                                 in $PROFILE",
        "exit status: 0 printed, 2 wrong command line",
    )
    parser.add_argument("shell", choices=SCRIPTS, metavar="SHELL", help=", ".join(SCRIPTS))
    return parser
