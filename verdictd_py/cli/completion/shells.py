"""The script of each shell, and its protocol: what it passes, and what it reads.

Each script starts `PROGRAM complete SHELL ...` for a word, and reads candidates, a line each. In
place of candidates, `@file` and `@directory` let the shell complete names of files. The name of
the program is that of the command line, so that the completion of another version is never used.
Everything is silent: an error on a terminal would damage the line that is being written.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from verdictd_py.cli.completion import kinds
from verdictd_py.cli.completion.engine import Candidate, Completion, complete

_BASH: Final = r"""
_FUNCTION() {
    local line cur="${COMP_WORDS[COMP_CWORD]}" program="${COMP_WORDS[0]/#\~/$HOME}"
    COMPREPLY=()
    while IFS= read -r line; do
        case "$line" in
            @file) compopt -o filenames 2>/dev/null
                while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -f -- "$cur") ;;
            @directory) compopt -o filenames 2>/dev/null
                while IFS= read -r line; do COMPREPLY+=("$line"); done < <(compgen -d -- "$cur") ;;
            *) COMPREPLY+=("$line") ;;
        esac
    done < <("$program" complete bash "$COMP_WORDBREAKS" "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
}
complete -F _FUNCTION PROGRAM
"""

_ZSH: Final = r"""#compdef PROGRAM
_FUNCTION() {
    local -a lines
    local program="${(Q)words[1]/#\~/$HOME}"
    lines=("${(@f)$("$program" complete zsh "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    case "$lines[1]" in
        "") return 1 ;;
        @file*) compset -P '*=' ; _files ;;
        @directory*) compset -P '*=' ; _files -/ ;;
        *) _describe -V PROGRAM lines ;;
    esac
}
if [ "$funcstack[1]" = _FUNCTION ]; then _FUNCTION "$@"; else compdef _FUNCTION PROGRAM; fi
"""

_FISH: Final = r"""
function _FUNCTION
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l lines (command $words[1] complete fish $words[2..-1] -- "$current" 2>/dev/null)
    switch "$lines[1]"
        case '@file*'
            __fish_complete_path (string replace -r '^--[^=]*=' '' -- $current)
        case '@directory*'
            __fish_complete_directories (string replace -r '^--[^=]*=' '' -- $current)
        case '*'
            string join \n -- $lines
    end
end
complete -c PROGRAM -f -a '(_FUNCTION)'
"""

_POWERSHELL: Final = r"""
Register-ArgumentCompleter -Native -CommandName PROGRAM -ScriptBlock {
    param($wordToComplete, $commandAst, $cursorPosition)
    $words = @($commandAst.CommandElements |
        Where-Object { $_.Extent.StartOffset -lt $cursorPosition } |
        ForEach-Object { $_.Extent.Text })
    $program = $words[0]
    $before = @($words | Select-Object -Skip 1)
    if ($wordToComplete -ne '') { $before = @($before | Select-Object -SkipLast 1) }
    $lines = @(& $program complete powershell @before "--" "=$wordToComplete" 2>$null)
    if ($lines.Count -eq 0 -or "$($lines[0])".StartsWith('@')) { return }
    foreach ($line in $lines) {
        $word, $text = $line -split "`t", 2
        if (-not $text) { $text = $word }
        [System.Management.Automation.CompletionResult]::new($word, $word, 'ParameterValue', $text)
    }
}
"""

_TCSH: Final = r"""
complete PROGRAM 'p@*@`PROGRAM complete tcsh "$COMMAND_LINE"`@'
"""

SCRIPTS: Final[Mapping[str, str]] = {
    "bash": _BASH,
    "zsh": _ZSH,
    "fish": _FISH,
    "powershell": _POWERSHELL,
    "tcsh": _TCSH,
}


def script(program: str, shell: str) -> str:
    """Return the script that completes a program in a shell."""
    function = "_" + program.replace("-", "_")
    return SCRIPTS[shell].lstrip("\n").replace("_FUNCTION", function).replace("PROGRAM", program)


def main(program: str, argv: Sequence[str]) -> int:
    """Print the candidates for a word, as a script requests them; return 0.

    Args:
        argv: the shell, and what it passes.
    """
    with suppress(Exception):  # silent: see the module
        shell, *rest = argv
        sys.stdout.write(_ANSWERS[shell](program, rest))
        sys.stdout.flush()
    return 0


def _bash(program: str, passed: Sequence[str]) -> str:
    """Answer bash, which passes the characters that end its words, and the line to the cursor."""
    breaks, line = passed
    words = split(line)
    completion = complete(program, words[1:], kinds.request)
    if completion.files:
        return f"@{completion.files}\n"
    # bash replaces only what follows the last of these characters in the word.
    current = words[-1]
    start = max(current.rfind(character) for character in breaks) + 1 if breaks else 0
    return "".join(f"{one.word[start:]}\n" for one in completion.candidates)


def _zsh(program: str, passed: Sequence[str]) -> str:
    return _described(program, passed, lambda one: f"{_escaped(one.word)}:{one.help}".rstrip(":"))


def _escaped(word: str) -> str:
    return word.replace("\\", "\\\\").replace(":", "\\:")


def _fish(program: str, passed: Sequence[str]) -> str:
    *before, separator, current = passed  # fish does not pass an empty word without it
    del separator
    return _described(program, [*before, current], _tabbed)


def _powershell(program: str, passed: Sequence[str]) -> str:
    *before, separator, current = passed  # PowerShell passes no empty arguments
    del separator
    return _described(program, [*before, current.removeprefix("=")], _tabbed)


def _tabbed(candidate: Candidate) -> str:
    return f"{candidate.word}\t{candidate.help}".rstrip("\t")


def _tcsh(program: str, passed: Sequence[str]) -> str:
    """Answer tcsh, which cannot complete files after a command: they are candidates."""
    words = split(passed[0])
    completion = complete(program, words[1:], kinds.request)
    if not completion.files:
        return "".join(f"{one.word}\n" for one in completion.candidates)
    current = words[-1].removeprefix(completion.prefix)
    return "".join(
        f"{completion.prefix}{name}\n" for name in _files(current, completion.files == "directory")
    )


def _files(beginning: str, only_directories: bool) -> list[str]:
    """Return the paths that begin so; directories end with a slash."""
    folder, slash, name = beginning.rpartition("/")
    start = folder + slash
    directory = Path(os.path.expanduser(start or "."))  # noqa: PTH111  # "" stays relative
    found = []
    for entry in sorted(directory.iterdir()):
        hidden = entry.name.startswith(".") and not name.startswith(".")
        if entry.name.startswith(name) and not hidden:
            if entry.is_dir():
                found.append(f"{start}{entry.name}/")
            elif not only_directories:
                found.append(f"{start}{entry.name}")
    return found


def _described(program: str, words: Sequence[str], line: Callable[[Candidate], str]) -> str:
    completion: Completion = complete(program, words, kinds.request)
    if completion.files:
        return f"@{completion.files}\n"
    return "".join(f"{line(one)}\n" for one in completion.candidates)


def split(line: str) -> list[str]:
    """Split a line at the cursor into words, the last of which may be empty or incomplete."""
    for quote in ("", '"', "'"):
        try:
            words = shlex.split(line + quote)
        except ValueError:  # a quote is open
            continue
        open_word = not quote and (not line or line[-1].isspace())
        return [*words, ""] if open_word else words
    return [*line.split(), ""]


_ANSWERS: Final[Mapping[str, Callable[[str, Sequence[str]], str]]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
    "powershell": _powershell,
    "tcsh": _tcsh,
}
