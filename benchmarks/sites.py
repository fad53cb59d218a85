"""Sites of one secret each, in the stores and under the keys that the broker supports.

They are made in the engines of `./dev engines`, which the environment names
(`eval "$(./dev engines env)"`). The root token and the superuser of those engines are used here,
and not by the broker.
"""

from __future__ import annotations

import json
import os
import secrets
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from benchmarks.bench import NotAvailable
from benchmarks.datasets import RESOURCE, SECRET, make_data
from benchmarks.processes import CHECKOUT, BenchmarkFailed

HOUR: Final = ("--seal-cache-seconds", "3600")
PREFIX: Final = RESOURCE.rpartition("/")[0] + "/"

_LABEL: Final = "verdictd-benchmark"


@dataclass(frozen=True, slots=True)
class Site:
    """How a broker is started on a site.

    Attributes:
        name: what the table calls it.
        options: of the broker, in addition to the usual ones.
        has_key: whether the key that guests request is in the store as well.
    """

    name: str
    options: tuple[str, ...] = ()
    has_key: bool = True


class Sites:
    """Maker of sites.

    Args:
        directory: private; the data directory of each site is `data-NAME` in it, with `-` for
            other characters than letters.
        stack: what must be removed from the engines at the end.
    """

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory = directory
        self._stack = stack
        self._transit = ""

    def makers(self) -> tuple[tuple[str, Callable[[str], Site]], ...]:
        """Return all sites: each name, and what makes it. The first one is compared with."""
        return (
            ("directory, plain", self._plain),
            ("directory, file", lambda name: self._sealed(name, self._file())),
            ("directory, PKCS#11", lambda name: self._sealed(name, self._pkcs11())),
            ("directory, PKCS#11, cache", lambda name: self._sealed(name, self._pkcs11(), *HOUR)),
            ("directory, Transit", lambda name: self._sealed(name, self._vault())),
            ("directory, Transit, cache", lambda name: self._sealed(name, self._vault(), *HOUR)),
            ("PostgreSQL, file", lambda name: self._stored(name, self._file())),
            ("PostgreSQL, Transit", lambda name: self._stored(name, self._vault())),
            ("PostgreSQL, Transit, cache", lambda name: self._stored(name, self._vault(), *HOUR)),
            ("KV version 2 of Vault", self._kv),
        )

    def data_of(self, name: str) -> Path:
        """Return the data directory of a site, which may not exist yet."""
        return self._directory / f"data-{key_of(name)}"

    def _plain(self, name: str) -> Site:
        make_data(self.data_of(name))
        return Site(name)

    def _sealed(self, name: str, location: str, *options: str) -> Site:
        data = _prepared(self.data_of(name))
        _store("seal", "--data-dir", str(data), "--seal", location)
        return Site(name, ("--seal", location, *options))

    def _stored(self, name: str, location: str, *options: str) -> Site:
        url, password = self._stack.enter_context(_database(self._directory))
        source = _prepared(self._directory / f"source-{key_of(name)}")
        access = ["--store-password-file", str(password), "--seal", location]
        _store("copy", "--from", str(source), "--to", url, *access)
        self.data_of(name).mkdir(mode=0o700)
        return Site(name, ("--store", url, *access, *options))

    def _kv(self, name: str) -> Site:
        make_data(self.data_of(name))
        address, authority, token_file = _openbao()
        path = f"benchmark-{secrets.token_hex(6)}"
        _call("POST", f"secret/data/{path}/secret", {"data": {"value": SECRET.decode()}})
        self._stack.callback(_call, "DELETE", f"secret/metadata/{path}/secret")
        settings = self._directory / "kv.toml"
        settings.write_text(
            f'[[resource_backend]]\nprefix = "{PREFIX}"\npath = "{path}"\n'
            f'vault = "{address}/secret?ca={authority}&token-file={token_file}"\n'
        )
        return Site(name, ("--config", str(settings)), has_key=False)

    def _file(self) -> str:
        file = self._directory / "kek"
        if not file.exists():
            file.touch(mode=0o600)
            file.write_bytes(secrets.token_bytes(32))
        return f"file:{file}"

    def _pkcs11(self) -> str:
        token = variable("ENGINES_PKCS11")
        if not self._directory.joinpath("token").exists():
            self._stack.enter_context(_token_key(token))
            self._directory.joinpath("token").touch()
        path, _, query = token.partition("?")
        return f"{path};object={_LABEL};type=secret-key?{query}"

    def _vault(self) -> str:
        address, authority, token_file = _openbao()
        if not self._transit:
            self._transit = f"benchmark-{secrets.token_hex(6)}"
            key = f"transit/keys/{self._transit}"
            _call("POST", key, {"type": "aes256-gcm96"})
            self._stack.callback(_call, "DELETE", key)
            _call("POST", f"{key}/config", {"deletion_allowed": True})
        return f"vault:{address}/transit/{self._transit}?ca={authority}&token-file={token_file}"


def key_of(name: str) -> str:
    """Return the name of a site for files."""
    return "".join(c if c.isalnum() else "-" for c in name)


def variable(name: str) -> str:
    """Return a variable of `./dev engines env`.

    Raises:
        NotAvailable: it is absent.
    """
    value = os.environ.get(name)
    if value is None:
        raise NotAvailable(f'{name} is not set: ./dev engines up; eval "$(./dev engines env)"')
    return value


def _prepared(directory: Path) -> Path:
    """Write a data directory as the first start of a broker leaves it."""
    make_data(directory)
    for name in ("image", "gpg", "opa"):
        (directory / name).mkdir(mode=0o700)
    return directory


def _store(*arguments: str) -> None:
    """Run `verdictd-py store`.

    Raises:
        BenchmarkFailed: it failed.
    """
    command = [sys.executable, "-m", "verdictd_py.cli.main", "store", *arguments]
    own = {name: text for name, text in os.environ.items() if not name.startswith("VERDICTD_")}
    done = subprocess.run(
        command, cwd=CHECKOUT, env=own, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchmarkFailed(f"store {arguments[0]}: {done.stderr.strip()}")


@contextmanager
def _token_key(token: str) -> Iterator[None]:
    """Create a key in the token for a while."""
    try:
        import pkcs11  # noqa: PLC0415  # optional
    except ImportError:
        raise NotAvailable("python-pkcs11 is not installed") from None
    parts = dict(part.split("=", 1) for part in token.partition("?")[2].split("&"))
    label = token.partition("?")[0].removeprefix("pkcs11:token=")
    pin = Path(parts["pin-source"].removeprefix("file:")).read_text().strip()
    slot = pkcs11.lib(parts["module-path"]).get_token(token_label=label)
    usable = (pkcs11.Attribute.ENCRYPT, pkcs11.Attribute.DECRYPT)
    with slot.open(rw=True, user_pin=pin) as session:
        key = session.generate_key(
            pkcs11.KeyType.AES,
            256,
            label=_LABEL,
            id=b"\x01",
            store=True,
            template={
                pkcs11.Attribute.SENSITIVE: True,
                pkcs11.Attribute.EXTRACTABLE: False,
                **dict.fromkeys(usable, True),
            },
        )
        try:
            yield
        finally:
            key.destroy()


@contextmanager
def _database(directory: Path) -> Iterator[tuple[str, Path]]:
    """Make a database with the schema; yield its URL for brokers, and their password's file."""
    superuser_url = variable("ENGINES_POSTGRES")
    try:
        import psycopg  # noqa: PLC0415  # optional
        from psycopg import conninfo, sql  # noqa: PLC0415  # optional
    except ImportError:
        raise NotAvailable("psycopg is not installed: the extra `postgres`") from None
    from verdictd_py.postgres.schema import roles_script  # noqa: PLC0415  # optional

    superuser: dict[str, Any] = dict(conninfo.conninfo_to_dict(superuser_url))
    name, password = f"benchmark_{secrets.token_hex(6)}", secrets.token_hex(16)
    owner, role = f"{name}_owner", f"{name}_broker"
    file = directory / f"{name}.password"
    file.touch(mode=0o600)
    file.write_text(password + "\n")
    query = "&".join(f"{key}={superuser[key]}" for key in ("sslmode", "sslrootcert"))
    where = f"{superuser['host']}:{superuser['port']}/{name}?{query}"
    with psycopg.connect(**superuser, autocommit=True) as server:
        server.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        try:
            with psycopg.connect(**{**superuser, "dbname": name}, autocommit=True) as own:
                own.execute(roles_script(owner, role).encode())
                for who in (owner, role):
                    text = sql.SQL("ALTER ROLE {} PASSWORD {}")
                    own.execute(text.format(sql.Identifier(who), sql.Literal(password)))
            access = ["--role", role, "--store-password-file", str(file)]
            _store("migrate", "--store", f"postgresql://{owner}@{where}", *access)
            yield f"postgresql://{role}@{where}", file
        finally:
            drop = sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name))
            server.execute(drop)
            for who in (role, owner):
                server.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(who)))


def _openbao() -> tuple[str, str, str]:
    """Return address, file of the CA and file of the root token."""
    return (
        variable("ENGINES_OPENBAO"),
        variable("ENGINES_OPENBAO_CA"),
        variable("ENGINES_OPENBAO_TOKEN_FILE"),
    )


def _call(method: str, path: str, body: Mapping[str, object] | None = None) -> None:
    """Call the API of OpenBao with the root token."""
    address, authority, token_file = _openbao()
    request = urllib.request.Request(  # noqa: S310  # https, from `./dev engines`
        f"{address}/v1/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"X-Vault-Token": Path(token_file).read_text().strip()},
    )
    context = ssl.create_default_context(cafile=authority)
    with urllib.request.urlopen(request, context=context) as answer:  # noqa: S310
        answer.read()
