"""`verdictd-py keyprovider --check`: checks the addresses in ocicrypt's configuration.

ocicrypt itself reports only that a call failed. Source of the format: wire-keyprovider.md.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Final

from verdictd_py.cli.parsing import EXIT_OK, EXIT_UNREACHABLE, read_file
from verdictd_py.cli.wrongserver import of_key_provider
from verdictd_py.domain.addresses import Address
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import ConfigError

VARIABLE: Final = "OCICRYPT_KEYPROVIDER_CONFIG"
_MAX_BYTES: Final = 1024 * 1024


def check(file: str) -> int:
    """Print a line for each provider of a file; return 0 if all can be used, else 3.

    Args:
        file: its name; empty for the one in the environment, as image tools read it.

    Raises:
        ConfigError: the file cannot be read, or names no provider.
    """
    name = file or os.environ.get(VARIABLE, "")
    if not name:
        raise ConfigError(f"{VARIABLE} is not set: set it, or write --check FILE")
    status = EXIT_OK
    for provider, address in _providers(Path(name)):
        problem = _problem(address)
        print(f"{provider}: {problem or f'{address[1]} can be used'}")
        if problem:
            status = EXIT_UNREACHABLE
    return status


def _providers(file: Path) -> list[tuple[str, tuple[str, str]]]:
    """Return the providers of a file: name, then `grpc` or `cmd` and its address or program."""
    try:
        members: JsonValue = json.loads(read_file(file, _MAX_BYTES))
    except ValueError as error:
        raise ConfigError(f"{file} is not JSON: {error}; correct it") from None
    providers = members.get("key-providers") if isinstance(members, dict) else None
    if not isinstance(providers, dict) or not providers:
        raise ConfigError(
            f'{file} has no "key-providers": write {{"key-providers":{{"attestation-agent":'
            '{"grpc":"127.0.0.1:60000"}}}'
        )
    return [(name, _provider(file, name, provider)) for name, provider in providers.items()]


def _provider(file: Path, name: str, provider: JsonValue) -> tuple[str, str]:
    if isinstance(provider, dict):
        if isinstance(address := provider.get("grpc"), str):
            return "grpc", address
        command = provider.get("cmd")
        if isinstance(command, dict) and isinstance(path := command.get("path"), str):
            return "cmd", path
    raise ConfigError(f'{file}: {name} has neither "grpc" nor "cmd" with a "path"; add one of them')


def _problem(address: tuple[str, str]) -> str:
    """Return why a provider cannot be used; empty if it can."""
    kind, text = address
    if kind == "cmd":
        return "" if shutil.which(text) else f"there is no program {text}; correct its path"
    try:
        parsed = Address.parse(text, unix_allowed=True)
    except ValueError as error:
        return f'{error}; correct "grpc"'
    return of_key_provider(parsed)
