"""The command line: `./dev engines up|down|env`."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from tools.engines.openbao import OpenBao
from tools.engines.postgres import Postgres
from tools.engines.processes import EngineError
from tools.engines.softhsm import SoftHsm
from tools.engines.valkey import Valkey

DIRECTORY: Final = Path(__file__).resolve().parents[2] / ".cache" / "engines"
UNAVAILABLE: Final = 3


class Engine(Protocol):
    """What `up` and `down` need of an engine."""

    def start(self) -> dict[str, str]:
        """Start it; return environment variables."""
        ...

    def remove(self) -> None:
        """Stop it and remove its directory."""
        ...


ENGINES: Final[dict[str, Callable[[Path], Engine]]] = {
    "postgres": Postgres,
    "valkey": Valkey,
    "softhsm": SoftHsm,
    "openbao": OpenBao,
}


def main(argv: Sequence[str]) -> int:
    """Run a command; return 0, or 3 if an engine could not be started."""
    parser = argparse.ArgumentParser(
        prog="./dev engines",
        description="Start the real engines that tests use: PostgreSQL, Valkey (or redis), a "
        "SoftHSM2 token, and OpenBao (from PyPI), on free ports of 127.0.0.1, in .cache/engines. "
        "Debian: apt-get install postgresql redis-server softhsm2.",
    )
    parser.add_argument(
        "command",
        choices=("up", "down", "env"),
        help="up: start those that do not run; down: stop all and remove their data; "
        'env: print the variables for the tests, for eval "$(./dev engines env)"',
    )
    parser.add_argument("engine", nargs="*", help=f"of {', '.join(ENGINES)}; default: all")
    options = parser.parse_args(argv)
    if unknown := [name for name in options.engine if name not in ENGINES]:
        parser.error(f"{unknown[0]} is not an engine: choose from {', '.join(ENGINES)}")
    names = options.engine or list(ENGINES)
    if options.command == "up":
        return up(names)
    return down(names) if options.command == "down" else env()


def up(names: Sequence[str]) -> int:
    """Start engines, and write their variables; return 3 if one could not be started."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    status = 0
    for name in names:
        try:
            variables = ENGINES[name](DIRECTORY / name).start()
        except EngineError as error:
            print(f"{name}: {error}", file=sys.stderr)
            status = UNAVAILABLE
            continue
        file = _variables_of(name)
        file.touch(mode=0o600)
        file.write_text("".join(f"{key}={text}\n" for key, text in variables.items()))
        print(f"{name}: {', '.join(variables)}", file=sys.stderr)
    print('for tests: eval "$(./dev engines env)"', file=sys.stderr)
    return status


def down(names: Sequence[str]) -> int:
    """Stop engines and remove their directories."""
    for name in names:
        _variables_of(name).unlink(missing_ok=True)
        if (DIRECTORY / name).exists():
            ENGINES[name](DIRECTORY / name).remove()
    return 0


def env() -> int:
    """Print the variables of the running engines as lines of a shell."""
    for name in ENGINES:
        if (file := _variables_of(name)).exists():
            for line in file.read_text().splitlines():
                key, _, text = line.partition("=")
                print(f"export {key}={shlex.quote(text)}")
    return 0


def _variables_of(name: str) -> Path:
    return DIRECTORY / f"{name}.env"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
