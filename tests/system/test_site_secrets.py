"""No secret of a whole site is in an engine, in its files, on its wire, or on a broker's disk.

Two brokers in processes of their own share PostgreSQL, a store of sessions and OpenBao. They serve
real guests. Afterwards each place that a secret must not reach is searched for all of them
(`tests.support.secretforms`): image keys, resources, layer keys, keys of tokens and of challenges,
session ids, the key-encryption key, the data key of each object, the key of the ledger, and what
the brokers authenticate with.

The first broker connects to its engines through relays that record plain bytes: without TLS to
PostgreSQL (`--unsafe-store-tls`) and Valkey (loopback); to OpenBao by HTTP on loopback, which the
relay passes on with TLS. The second broker uses TLS for all of them, as a site does; its relays
record what a listener in the network gets, in which nothing is found without exception.

Exceptions, each of which must be found where it is (so the search works on recorded traffic):

* The plain bytes between a broker and Vault contain what Vault is for: resources and wrapped keys
  of a `[[resource_backend]]`, the data keys that Transit wraps, and the login. TLS protects them.
* The plain bytes between a broker and Valkey contain the password of the login (`AUTH`). Without
  TLS, a broker uses loopback only, unless the operator insists.

Not searched for: attestation tokens, which release nothing without the private key of the guest
(they are in the session store, docs/threat-model.md), and challenges, which are public.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import secrets
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import psycopg
import pytest
import valkey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from psycopg import conninfo, sql

from tests.support.engines import OpenBaoAddress, engine_in
from tests.support.keyprovider_client import KeyProviderClient
from tests.support.rcar_guests import connected, session_id, tdx_guest, use_session_id
from tests.support.relays import Relay, recording
from tests.support.secretfiles import write_secret
from tests.support.secretforms import secrets_in
from tests.support.vault import Engine, encoded
from tools.engines.openbao import OpenBao
from tools.engines.postgres import Postgres
from tools.engines.processes import program
from tools.engines.softhsm import LABEL, SoftHsm
from tools.engines.valkey import Valkey
from tools.torture.broker import Broker, Site
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_grpc
from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.ports.sealing import KeyEncryptionKey
from verdictd_py.postgres import schema
from verdictd_py.postgres.address import Address
from verdictd_py.postgres.database import Database
from verdictd_py.postgres.objects import Objects
from verdictd_py.protocols.rcar import tokenring
from verdictd_py.protocols.rcar.challenges import Challenges
from verdictd_py.sealing.registry import open_key
from verdictd_py.sealing.sealer import EnvelopeSealer

KEY: Final = "default/image/1"
VAULT_KEY: Final = "team/image/1"
RESOURCE: Final = "default/creds/db"
VAULT_RESOURCE: Final = "team/creds/db"
NAMES: Final = (KEY, VAULT_KEY, RESOURCE, VAULT_RESOURCE)

DATABASE: Final = "verdictd"
OWNER: Final = "verdictd_owner"

PLAIN_VAULT: Final = "plain bytes between a broker and OpenBao"
PLAIN_VALKEY: Final = "plain bytes between a broker and Valkey"


@dataclass
class Hidden:
    """Secrets by name, and the places that may have them.

    Attributes:
        allowed: names of the secrets that a place has by its nature.
    """

    secrets: dict[str, bytes] = field(default_factory=dict, repr=False)
    allowed: dict[str, set[str]] = field(default_factory=dict)

    def add(self, name: str, secret: bytes, *places: str) -> None:
        """Add a secret, and the places that must have it."""
        self.secrets[name] = secret
        for place in places:
            self.allowed.setdefault(place, set()).add(name)

    def require_none(self, place: str, content: bytes) -> None:
        """Require that the place has what it has by its nature, and no other secret."""
        found = secrets_in(content, self.secrets)
        assert found == self.allowed.get(place, set()), place

    def require_none_in_files(self, contents: Mapping[str, bytes]) -> None:
        """Require that no file has a secret; all of them are searched at once, which is faster."""
        if secrets_in(b"\xff\n\xff".join(set(contents.values())), self.secrets):
            for path, content in contents.items():
                self.require_none(path, content)
            raise AssertionError("a secret is in several files together")


class Engines:
    """Engines of one site, on loopback, each in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.postgres = engine_in(directory / "postgres", Postgres)
        self.valkey = engine_in(directory / "valkey", Valkey)
        self.softhsm = engine_in(directory / "softhsm", SoftHsm)
        self.openbao = engine_in(directory / "openbao", OpenBao)
        self.softhsm_variables: dict[str, str] = {}
        self.superuser: dict[str, Any] = {}
        self.password = secrets.token_hex(16)
        self.urls: dict[str, str] = {}

    def start(self) -> None:
        """Start all of them; PostgreSQL logs each statement with its parameters."""
        url = self.postgres.start()["ENGINES_POSTGRES"]
        self.superuser = dict(conninfo.conninfo_to_dict(url))
        self.urls = self.valkey.start()
        self.softhsm_variables = self.softhsm.start()
        self.openbao.start()
        self._create_database()
        with self.sessions() as client:
            client.config_set("rdbcompression", "no")
            client.config_set("appendonly", "yes")

    def _create_database(self) -> None:
        with psycopg.connect(**self.superuser, autocommit=True) as connection:
            connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))
            connection.execute("ALTER SYSTEM SET log_statement = 'all'")
            connection.execute("SELECT pg_reload_conf()")
        self.execute(schema.roles_script(OWNER, DATABASE))
        for role in (OWNER, DATABASE):
            self._set_password(role)

    def _set_password(self, role: str) -> None:
        """Set a password as `\\password` does: the server gets its verifier only."""
        with psycopg.connect(**{**self.superuser, "dbname": DATABASE}) as connection:
            verifier = connection.pgconn.encrypt_password(
                self.password.encode(), role.encode(), b"scram-sha-256"
            )
            connection.execute(
                sql.SQL("ALTER ROLE {} PASSWORD {}").format(
                    sql.Identifier(role), sql.Literal(verifier.decode())
                )
            )

    def execute(self, statement: str) -> None:
        """Run a statement in the database of the brokers, as superuser."""
        parameters = {**self.superuser, "dbname": DATABASE}
        with psycopg.connect(**parameters, autocommit=True) as connection:
            connection.execute(statement)

    def sessions(self) -> Any:
        """Return a client of Valkey."""
        return valkey.Valkey.from_url(self.urls["ENGINES_VALKEY"])

    @property
    def valkey_password(self) -> str:
        return (self.directory / "valkey" / "password").read_text()

    def import_kek(self, kek: bytes) -> None:
        """Put a known key into the token, which then does not return it (CKA_SENSITIVE)."""
        file = write_secret(self.directory / "kek-to-import", kek)
        done = subprocess.run(
            [
                *(program("softhsm2-util", package="softhsm2"), "--import", str(file), "--aes"),
                *("--token", LABEL, "--label", "kek", "--id", "01", "--pin", self.pin),
            ],
            env={"SOFTHSM2_CONF": self.softhsm_variables["SOFTHSM2_CONF"]},
            capture_output=True,
            text=True,
            check=False,
        )
        file.unlink()
        assert done.returncode == 0, done.stderr

    @property
    def pin(self) -> str:
        return (self.directory / "softhsm" / "pin").read_text()

    @property
    def token_uri(self) -> str:
        return self.softhsm_variables["ENGINES_PKCS11"].replace("?", ";object=kek?", 1)

    def dump(self) -> bytes:
        """Return what `pg_dump` writes."""
        places = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")), reverse=True)
        parameters = {**self.superuser, "dbname": DATABASE}
        return subprocess.run(
            [
                program("pg_dump", package="postgresql", also=places),
                *("-d", " ".join(f"{name}={value}" for name, value in parameters.items())),
            ],
            capture_output=True,
            check=True,
        ).stdout

    def flush(self) -> None:
        """Have every engine write what it has in memory to its files."""
        with self.sessions() as client:
            client.save()
        self.postgres.stop()  # writes tables that are not logged, too

    def remove(self) -> None:
        """Stop all of them, and remove their files."""
        for engine in (self.postgres, self.valkey, self.softhsm, self.openbao):
            engine.remove()


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    own = Engines(tmp_path / "engines")
    try:
        own.start()
        yield own
    finally:
        own.remove()


class NotingKey:
    """Port `KeyEncryptionKey` that notes the data keys that another one unwraps."""

    def __init__(
        self, unwrap: Callable[[str, bytes, bytes], Any], own: KeyEncryptionKey | None
    ) -> None:
        self._unwrap = unwrap
        self._own = own
        self.noted: list[bytes] = []

    @property
    def current(self) -> str:
        return ""

    async def wrap(self, data_key: SecretBytes, context: bytes) -> bytes:
        raise AssertionError("the test only reads")

    async def unwrap(self, version: str, wrapped: bytes, context: bytes) -> SecretBytes:
        data_key: SecretBytes = await self._unwrap(version, wrapped, context)
        self.noted.append(data_key.reveal())
        return data_key

    async def check(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        if self._own is not None:
            await self._own.close()


@dataclass
class Relays:
    """Relays of the two brokers to each engine: plain bytes, and TLS."""

    postgres: tuple[Relay, Relay]
    valkey: tuple[Relay, Relay]
    vault: tuple[Relay, Relay]


class WholeSite:
    """Brokers, engines, relays, and the secrets.

    Attributes:
        login: options of the login to Vault.
        transit: key of Transit that wraps image keys.
    """

    def __init__(self, directory: Path, engines: Engines, relays: Relays, seal: str) -> None:
        self.directory = directory
        self.engines = engines
        self.relays = relays
        self.hidden = Hidden()
        self.has_transit = seal == "vault"
        address = engines.openbao
        (directory / "vault").mkdir()
        self.vault = Engine(
            OpenBaoAddress(address.address, address.authority, address.token_file),
            directory / "vault",
        )
        self.transit = self.vault.transit_key()
        self.kek = self.vault.transit_key(exportable=True)
        self._passwords()
        role, secret_id = self.vault.app_role(self._policy())
        self.login = f"role-id={role}&secret-id-file={secret_id}"
        self.hidden.add("secret id", secret_id.read_bytes().strip(), PLAIN_VAULT)
        self._kek()
        self.sites = self._sites()

    def _passwords(self) -> None:
        self.database_password = write_secret(self.directory / "db", self.engines.password)
        self.valkey_password = write_secret(self.directory / "cache", self.engines.valkey_password)
        self.hidden.add("password of the database", self.engines.password.encode())
        places = (PLAIN_VALKEY,) if self.has_transit else ()  # else sessions are in PostgreSQL
        self.hidden.add("password of Valkey", self.engines.valkey_password.encode(), *places)

    def _policy(self) -> str:
        keys = {self.transit, self.kek}
        return self.vault.policy(
            *(f"transit/keys/{key} read" for key in keys),
            *(f"transit/{do}/{key} update" for key in keys for do in ("encrypt", "decrypt")),
            "secret/data/site/* create,read,update,delete",
            "secret/metadata/site/* list",
        )

    def _kek(self) -> None:
        if self.has_transit:
            exported = self.vault.call("GET", f"transit/export/encryption-key/{self.kek}")
            self.hidden.add("KEK", base64.b64decode(exported["data"]["keys"]["1"]))
            return
        # softhsm2-util reads a line, and what is before the first NUL.
        kek = secrets.token_bytes(128).translate(None, b"\0\n")[:32]
        self.engines.import_kek(kek)
        self.hidden.add("KEK", kek)
        self.hidden.add("PIN", self.engines.pin.encode())

    def _sites(self) -> tuple[Site, Site]:
        first = Site.make(self.directory)
        shutil.rmtree(first.data)  # everything is in the database
        return first, dataclasses.replace(first, data=self.directory / "other")

    def configuration(self, number: int) -> Path:
        """Write the settings of a broker: the first one without TLS, the second one with it."""
        address = self.engines.openbao
        vault = (
            f"http://127.0.0.1:{self.relays.vault[0].port}",
            f"https://127.0.0.1:{self.relays.vault[1].port}",
        )[number]
        options = ("", f"&ca={address.authority}")[number]
        authority = self.engines.superuser["sslrootcert"]
        protection = ("sslmode=disable", f"sslmode=verify-full&sslrootcert={authority}")[number]
        port = self.relays.postgres[number].port
        database = f"postgresql://{DATABASE}@127.0.0.1:{port}/{DATABASE}?{protection}"
        authority = self.engines.urls["ENGINES_VALKEY_CA"]
        sessions = (
            f"valkey://127.0.0.1:{self.relays.valkey[0].port}/0?",
            f"valkeys://127.0.0.1:{self.relays.valkey[1].port}/0?ca={authority}&",
        )[number] + f"password_file={self.valkey_password}"
        transit = f"vault:{vault}/transit/{self.kek}?{self.login}{options}"
        settings = {
            "store": database,
            "store_password_file": str(self.database_password),
            "kbs_sessions": sessions if self.has_transit else database,
            "seal": transit if self.has_transit else self.engines.token_uri,
        }
        backend = {
            "prefix": "team/",
            "vault": f"{vault}/secret?{self.login}{options}",
            "path": "site/resources",
            "transit_key": f"transit/{self.transit}",
            "keys_path": "site/keys",
        }
        file = self.directory / f"broker-{number}.toml"
        file.write_text(
            "".join(f"{name} = {json.dumps(text)}\n" for name, text in settings.items())
            + "[[resource_backend]]\nwritable = true\n"
            + "".join(f"{name} = {json.dumps(text)}\n" for name, text in backend.items())
        )
        return file

    @asynccontextmanager
    async def brokers(self) -> AsyncIterator[tuple[Broker, Broker]]:
        """Start both brokers; the first one has two workers. Stop them in good order."""
        environment = {"SOFTHSM2_CONF": self.engines.softhsm_variables["SOFTHSM2_CONF"]}
        running: list[Broker] = []
        try:
            for number, more in enumerate([("--unsafe-store-tls", "--workers", "2"), ()]):
                running.append(
                    await Broker.start(
                        self.sites[number],
                        *("--config", str(self.configuration(number)), *more),
                        environment=environment,
                    )
                )
            yield running[0], running[1]
            assert [await broker.stop() for broker in running] == [0, 0]
        finally:
            for broker in running:
                await broker.kill()

    def noting_key(self) -> NotingKey:
        """Return the KEK, with access of its own: not as the brokers use it."""
        if self.has_transit:
            own = open_key(self.vault.location(f"transit/{self.kek}"))
            return NotingKey(own.unwrap, own)
        cipher = AESGCM(self.hidden.secrets["KEK"])

        async def unwrap(version: str, wrapped: bytes, context: bytes) -> SecretBytes:
            assert version == "pkcs11:01"
            return SecretBytes(cipher.decrypt(wrapped[:12], wrapped[12:], context))

        return NotingKey(unwrap, None)


@asynccontextmanager
async def whole_site(directory: Path, engines: Engines, seal: str) -> AsyncIterator[WholeSite]:
    """Make a site, with the schema in its database."""
    plain = ssl.create_default_context(cafile=str(engines.openbao.authority))
    database = int(engines.superuser["port"])
    cache, cache_tls = (
        int((engines.directory / "valkey" / name).read_text()) for name in ("port", "tls-port")
    )
    vault = int(engines.openbao.address.rpartition(":")[2])
    async with AsyncExitStack() as stack:
        relays = Relays(
            (
                await stack.enter_async_context(recording(database)),
                await stack.enter_async_context(recording(database)),
            ),
            (
                await stack.enter_async_context(recording(cache)),
                await stack.enter_async_context(recording(cache_tls)),
            ),
            (
                await stack.enter_async_context(recording(vault, tls=plain)),
                await stack.enter_async_context(recording(vault)),
            ),
        )
        site = WholeSite(directory, engines, relays, seal)
        owner = await _database(site, OWNER).connect()
        try:
            await schema.migrate(owner, DATABASE)
        finally:
            await owner.close()
        yield site


def _database(site: WholeSite, role: str) -> Database:
    """Return the database without a relay."""
    superuser = site.engines.superuser
    where = f"127.0.0.1:{superuser['port']}/{DATABASE}?sslrootcert={superuser['sslrootcert']}"
    url = f"postgresql://{role}@{where}"
    return Database(Address.parse(url, password_file=site.database_password))


async def administer(site: WholeSite, broker: Broker) -> None:
    """Create keys and resources through a broker, in the database and in Vault."""
    async with grpc.aio.insecure_channel(broker.client_api) as channel:
        keys, resources = v1_grpc.KeyServiceStub(channel), v1_grpc.ResourceServiceStub(channel)
        for name in (KEY, VAULT_KEY):
            await keys.CreateKey(v1.CreateKeyRequest(name=name))
        for name, places in ((RESOURCE, ()), (VAULT_RESOURCE, (PLAIN_VAULT,))):
            content = secrets.token_bytes(40)
            await resources.SetResource(v1.SetResourceRequest(path=name, content=content))
            site.hidden.add(f"resource {name}", content, *places)


async def wrap(site: WholeSite, broker: Broker) -> None:
    """Wrap a layer key under each key, and unwrap it again."""
    async with KeyProviderClient.open(broker.client_api) as client:
        for name in (KEY, VAULT_KEY):
            layer = secrets.token_bytes(32)
            packet = await client.wrap(f"keyid=kbs:///{name}", encoded(layer))
            assert await client.unwrap(packet) == layer
            site.hidden.add(f"layer key {len(site.hidden.secrets)}", layer)


async def fetch(site: WholeSite, brokers: tuple[Broker, Broker]) -> None:
    """A guest attests at each broker, and fetches everything at both of them."""
    guest = tdx_guest(site.sites[0].platform)
    for number in (0, 1):
        here, there = brokers[number], brokers[1 - number]
        async with (
            connected(here.kbs, guest, ca=here.ca) as first,
            connected(there.kbs, guest, ca=there.ca) as second,
        ):
            await first.attest(await first.answer(await first.auth()))
            use_session_id(second, session_id(first))
            site.hidden.add(f"session {number}", bytes.fromhex(session_id(first)))
            site.hidden.add(f"session {number} as text", session_id(first).encode())
            for name in NAMES:
                found = await first.resource(ResourcePath.parse(name))
                assert found == await second.resource(ResourcePath.parse(name))
                if name in (KEY, VAULT_KEY):
                    places = (PLAIN_VAULT,) if name == VAULT_KEY else ()
                    site.hidden.add(f"key {name}", found.reveal(), *places)
                else:
                    assert found.reveal() == site.hidden.secrets[f"resource {name}"]


async def note_stored_secrets(site: WholeSite) -> None:
    """Unseal every object of the database, and note its data key and the keys of tokens."""
    key = site.noting_key()
    objects = Objects(_database(site, DATABASE), EnvelopeSealer(key))
    try:
        state = await objects.confirm()
        contents = {path: await objects.read(path) for path in state.entries}
        assert objects.ledger is not None
        site.hidden.add("key of the ledger", objects.ledger._key.reveal())
    finally:
        await objects.close()
        await key.close()
    assert contents[f"resources/{RESOURCE}"] == site.hidden.secrets[f"resource {RESOURCE}"]
    assert len(key.noted) >= len(contents)
    places = (PLAIN_VAULT,) if site.has_transit else ()
    for number, data_key in enumerate(key.noted):
        site.hidden.add(f"data key {number}", data_key, *places)
    ring = contents["tokens/keys"]
    assert ring is not None
    for number, own in enumerate(tokenring.parse(ring)):
        site.hidden.add(f"token key {number}", own.key.private_numbers().private_value.to_bytes(32))
        site.hidden.add(
            f"token key {number} in DER",
            own.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        )
        site.hidden.add(f"key of challenges {number}", Challenges.of(own.key).key)


def note_vault_tokens(site: WholeSite) -> None:
    """Note the tokens that the brokers got from OpenBao, as the plain bytes have them."""
    plain = site.relays.vault[0].recorded
    tokens = {line.split(b": ")[1] for line in plain.split(b"\r\n") if b"Vault-Token: " in line}
    assert tokens
    for number, token in enumerate(tokens):
        site.hidden.add(f"token for Vault {number}", token, PLAIN_VAULT)


def files_below(*roots: Path) -> dict[str, bytes]:
    """Return the content of every file, by path."""
    files = [path for root in roots for path in ([root] if root.is_file() else root.rglob("*"))]
    return {str(path): path.read_bytes() for path in files if path.is_file()}


def require_places(contents: Mapping[str, bytes], *names: str) -> None:
    """Require that the files are there, and that they have something."""
    for name in names:
        assert any(name in path and content for path, content in contents.items()), name


@pytest.mark.parametrize("seal", ["vault", "pkcs11"])
async def test_no_secret_of_a_site_reaches_an_engine_a_disk_or_the_wire(
    tmp_path: Path, engines: Engines, seal: str
) -> None:
    async with whole_site(tmp_path, engines, seal) as site:
        hidden = site.hidden
        async with site.brokers() as brokers:
            await administer(site, brokers[0])
            await wrap(site, brokers[1])
            await wrap(site, brokers[0])
            await fetch(site, brokers)
            await note_stored_secrets(site)
            dump = engines.dump()
        note_vault_tokens(site)
        cookie_digest = hashlib.sha256(hidden.secrets["session 0 as text"]).hexdigest().encode()
        engines.flush()

        # Each place has what shows that it is the right one, and no secret.
        assert f"resources/{RESOURCE}".encode() in dump
        hidden.require_none("output of pg_dump", dump)
        plain, protected = (relay.recorded for relay in site.relays.postgres)
        assert f"resources/{RESOURCE}".encode() in plain
        assert f"resources/{RESOURCE}".encode() not in protected
        hidden.require_none("plain bytes between a broker and PostgreSQL", plain)
        hidden.require_none("TLS between a broker and PostgreSQL", protected)
        plain, protected = (relay.recorded for relay in site.relays.valkey)
        assert (cookie_digest in plain) == site.has_transit
        hidden.require_none(PLAIN_VALKEY, plain)
        hidden.require_none("TLS between a broker and Valkey", protected)
        plain, protected = (relay.recorded for relay in site.relays.vault)
        assert b"/v1/secret/data/site/resources/creds/db" in plain
        assert b"/v1/" not in protected
        assert len(protected) > 1000
        hidden.require_none(PLAIN_VAULT, plain)
        hidden.require_none("TLS between a broker and OpenBao", protected)

        data = (engines.directory / "postgres" / "data").resolve()
        of_postgres = files_below(data)
        require_places(of_postgres, "/pg_wal/", "/base/", "/log")
        assert any(f"resources/{RESOURCE}".encode() in each for each in of_postgres.values())
        of_valkey = files_below(
            *(engines.directory / "valkey" / name for name in ("dump.rdb", "appendonlydir"))
        )
        require_places(of_valkey, "dump.rdb", "aof")
        assert any(cookie_digest in each for each in of_valkey.values()) == site.has_transit
        of_vault = files_below(engines.directory / "openbao" / "data")
        require_places(of_vault, "vault.db", "raft.db")
        of_token = files_below(engines.directory / "softhsm" / "tokens")
        require_places(of_token, ".object")
        of_brokers = files_below(*(one.data for one in site.sites), *site.sites[0].started)
        require_places(of_brokers, "/data/audit/", "/other/audit/", "daemon-0.log", "daemon-1.log")
        assert any(VAULT_RESOURCE.encode() in each for each in of_brokers.values())
        for files in (of_postgres, of_valkey, of_vault, of_token, of_brokers):
            hidden.require_none_in_files(files)
