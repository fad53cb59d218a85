"""Settings of the daemon: defaults < TOML file < environment < command line, frozen.

Every field is a key of the TOML file, `VERDICTD_<FIELD>` in the environment and
`--<field>` on the command line. Unsafe options are in `Unsafe` instead: they are accepted on the
command line only, so that no forgotten file or environment variable enables them.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    field_validator,
)
from pydantic_core import ErrorDetails

from verdictd_py.domain import addresses
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.spelling import did_you_mean
from verdictd_py.encoding import JsonValue
from verdictd_py.engineurls import EngineUrl, is_database, is_engine_url, require_database
from verdictd_py.errors import ConfigError, RequestError
from verdictd_py.formats.servicelinks import service_links
from verdictd_py.protocols.keyprovider.parameter import ExistingKey, KbsKey, NewKey
from verdictd_py.protocols.keyprovider.parameter import parse as parse_parameter
from verdictd_py.secretfiles import CREDENTIAL, credential_file
from verdictd_py.vault.settings import ResourceBackend, require_different

ENVIRONMENT_PREFIX: Final = "VERDICTD_"
GUEST_PREFIX: Final = "VERDICTD_PY_GUEST_"
"""Prefix of the variables of `verdictd-py guest`, which are not settings of the daemon."""
DEFAULT_DATA_DIR: Final = Path("/opt/verdictd")
INTEL_PCS: Final = "https://api.trustedservices.intel.com"
DEFAULT_CLIENT_API: Final = addresses.DEFAULT_CLIENT_API
MAX_GRACE_DAYS: Final = 90
MAX_WORKERS: Final = 128
"""Maximum number of guest workers: each has some 140 MiB of memory."""

# No other installed package may change how settings are read, and pydantic would look for such
# plug-ins in all of them, which takes milliseconds of the start.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

CREDENTIALS: Final = Path("/run/credentials/verdictd-py.service")
"""Where systemd puts the credentials of the unit, for commands outside of it (systemd.exec(5))."""

Address = addresses.Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

Seconds = Annotated[float, Field(gt=0, le=86_400)]


@dataclass(frozen=True, slots=True)
class Unsafe:
    """Options that disable protection: accepted on the command line only, logged at start."""

    insecure_nullverifier: bool = False
    insecure_client_api: bool = False
    insecure_loopback: bool = False
    insecure_kbs_http: bool = False
    insecure_sample_verifier: bool = False
    insecure_sample_data_dir: bool = False
    unsafe_tdx_root_ca: Path | None = None
    unsafe_writable_files: bool = False
    unsafe_store_tls: bool = False

    @property
    def root_ca(self) -> Path | None:
        """Root certificate that is trusted instead of those of the vendors."""
        return self.unsafe_tdx_root_ca

    def chosen(self) -> tuple[str, ...]:
        """Return the unsafe flags that were given, as on the command line."""
        return tuple(
            "--" + field.name.replace("_", "-")
            for field in fields(self)
            if getattr(self, field.name)
        )

    def exported(self) -> dict[str, JsonValue]:
        """Return the options for another process of the broker, see `Unsafe.imported`."""
        chosen = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: str(v) if isinstance(v, Path) else v for name, v in chosen.items()}

    @classmethod
    def imported(cls, members: dict[str, Any]) -> Self:
        """Return the options that another process of the broker has exported."""
        root = members["unsafe_tdx_root_ca"]
        return cls(**{**members, "unsafe_tdx_root_ca": None if root is None else Path(root)})


UNSAFE_ROOT_OPTION: Final = "--unsafe-tdx-root-ca"

OPTION_FOR_OWN_EVIDENCE: Final = "--attester tdx"
"""Option with which the broker presents evidence about itself."""

UNSAFE_NAMES: Final = frozenset(field.name for field in fields(Unsafe))


class Settings(BaseModel):
    """Settings of an operator; see product.md and `verdictd-py --help`."""

    model_config = ConfigDict(
        validate_default=True, extra="forbid", frozen=True, hide_input_in_errors=True
    )

    _file: Path | None = PrivateAttr(default=None)

    listen: str = "127.0.0.1:1234"
    client_api: str = DEFAULT_CLIENT_API
    keyprovider_api: str | None = None
    client_api_cert: Path | None = None
    client_api_key: Path | None = None
    client_api_ca: Path | None = None
    client_api_roles: Path | None = None
    console: str | None = None
    console_read_only: bool = False
    kbs_http: str | None = None
    kbs_tls_cert: Path | None = None
    kbs_tls_key: Path | None = None
    kbs_admins: Path | None = None
    kbs_token_key: Path | None = None
    kbs_token_key_days: Annotated[float, Field(gt=0, le=3650)] = 30
    kbs_sessions: str | None = None
    verifier: tuple[str, ...] = ()
    attester: Literal["nullattester", "tdx"] = "nullattester"
    mutual: bool = True
    tls: Literal["openssl", ""] = "openssl"
    crypto: Literal["openssl", ""] = "openssl"
    data_dir: Path = DEFAULT_DATA_DIR
    seal: str | None = None
    seal_strict: bool = False
    seal_cache_seconds: Seconds | None = None
    collateral: Path | None = None
    collateral_url: tuple[str, ...] = (INTEL_PCS,)
    collateral_ca: Path | None = None
    collateral_pin: tuple[str, ...] = ()
    collateral_proxy: str | None = None
    collateral_api_key_file: Path | None = None
    collateral_update: Literal["standard", "early"] = "standard"
    collateral_grace: Annotated[float, Field(ge=0, le=MAX_GRACE_DAYS)] = 0
    store: str | None = None
    store_password_file: Path | None = None
    refuse_endorsements: bool = False
    min_tcb_evaluation: Annotated[int, Field(ge=0)] = 0
    keyprovider_name: str | None = None
    allow_a256ctr: bool = False
    require_reference_values: bool = False
    allow_rtmr3_mismatch: bool = False
    tee: dict[str, dict[str, Any]] = {}
    resource_backend: tuple[ResourceBackend, ...] = ()
    default_wrap_key: str | None = None
    wrap_key_prefix: str | None = None
    max_new_keys_per_minute: Annotated[int, Field(ge=1)] = 60
    max_connections: Annotated[int, Field(ge=1)] = 4096
    max_unattested_per_address: Annotated[int, Field(ge=1)] | None = None
    max_connections_per_platform: Annotated[int, Field(ge=1)] | None = None
    proxy_protocol_from: tuple[Network, ...] = ()
    forwarded_for_from: tuple[Network, ...] = ()
    max_evidence_age: Seconds | None = None
    handshake_timeout: Seconds = 10
    appraisal_timeout: Seconds = 30
    request_timeout: Seconds = 30
    idle_timeout: Seconds = 300
    drain_timeout: Seconds = 5
    audit_mode: Literal["0600", "0640"] = "0600"
    audit_group: str | None = None
    audit_key: Path | None = None
    audit_rotate_bytes: Annotated[int, Field(ge=4096)] | None = 256 * 1024 * 1024
    audit_rotate_hours: Annotated[float, Field(gt=0)] | None = None
    audit_keep_days: Annotated[float, Field(gt=0)] | None = None
    audit_sink: tuple[str, ...] = ()
    audit_reserve_bytes: Annotated[int, Field(ge=0, le=2**40)] = 16 * 1024 * 1024
    audit_keep_bytes: Annotated[int, Field(ge=4096)] | None = None
    log_format: Literal["text", "json"] = "text"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    status: str | None = None
    traces: str | None = None
    reload_on_change: bool = False
    workers: int | Literal["auto"] = 1

    @field_validator("workers", mode="before")
    @classmethod
    def _check_workers(cls, value: object) -> object:
        text = str(value)
        if text == "auto":
            return value
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= MAX_WORKERS):
            raise ValueError(
                f"{text!r} is not a number of workers: write a number from 1 to {MAX_WORKERS}, or "
                "auto for one per core"
            )
        return int(text)

    @field_validator(
        "store_password_file",
        *("data_dir", "collateral", "collateral_ca", "collateral_api_key_file"),
        *("client_api_cert", "client_api_key", "client_api_ca", "client_api_roles"),
        *("kbs_tls_cert", "kbs_tls_key", "kbs_admins", "kbs_token_key", "kbs_sessions"),
        "audit_key",
        mode="before",
    )
    @classmethod
    def _refuse_empty_path(cls, value: object) -> object:
        if value == "":  # pathlib reads it as the working directory
            raise ValueError("it is empty: write a path, or remove it")
        if isinstance(value, str) and value.startswith(CREDENTIAL):
            return credential_file(value, CREDENTIALS)
        return value

    @field_validator(*("verifier", "collateral_url", "collateral_pin", "audit_sink"), mode="before")
    @classmethod
    def _split_names(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("collateral_pin", mode="before")
    @classmethod
    def _refuse_empty_pin(cls, value: object) -> object:
        # pydantic calls this before `_split_names`, which is defined above
        if isinstance(value, str) and not all(pin.strip() for pin in value.split(",")):
            raise ValueError("it has an empty pin: write one for each URL, or remove it")
        return value

    @field_validator("proxy_protocol_from", "forwarded_for_from", mode="before")
    @classmethod
    def _read_networks(cls, value: object) -> object:
        if isinstance(value, (list, tuple)):  # of the TOML file
            return tuple(network for text in value for network in parse_networks(str(text)))
        return parse_networks(value) if isinstance(value, str) else value

    @field_validator("collateral_url")
    @classmethod
    def _check_urls(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for url in value:
            if not _is_http_url(url):
                shown = re.sub(r"(?<=://)[^/?#]*@", "", url)  # user and password
                raise ValueError(
                    f"{shown!r} is not a URL: write https://host:port, or an empty value for none"
                )
        return value

    @field_validator("collateral_pin")
    @classmethod
    def _check_pins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        pins = tuple(pin.replace(":", "").lower() for pin in value)
        for pin in pins:
            if len(pin) != 64 or not set(pin) <= set("0123456789abcdef"):
                raise ValueError(
                    f"{pin!r} is not a SHA-256: write 64 hex digits, as 'openssl x509 -noout "
                    "-fingerprint -sha256' does"
                )
        return pins

    @field_validator("store")
    @classmethod
    def _check_store(cls, value: str | None) -> str | None:
        if value is not None:
            require_database(value)
        return value

    @field_validator("listen", "kbs_http", "status", "console")
    @classmethod
    def _check_listen(cls, value: str | None) -> str | None:
        if value is not None:
            Address.parse(value)
        return value

    @field_validator("client_api", "keyprovider_api")
    @classmethod
    def _check_client_api(cls, value: str | None) -> str | None:
        if value is not None:
            Address.parse(value, unix_allowed=True)
        return value

    @field_validator("traces")
    @classmethod
    def _check_traces(cls, value: str | None) -> str | None:
        if value is not None and not _is_origin(value):
            raise ValueError(
                "it is not the address of a collector: write http://HOST:PORT or "
                "https://HOST:PORT, usually with port 4317"
            )
        return value

    @field_validator("default_wrap_key")
    @classmethod
    def _check_default_key(cls, value: str | None) -> str | None:
        if value is not None:
            parse_default_key(value)
        return value

    @field_validator("kbs_sessions", mode="before")
    @classmethod
    def _check_sessions(cls, value: object) -> object:
        text = str(value) if isinstance(value, Path) else value
        if isinstance(text, str) and is_engine_url(text):
            if is_database(text):
                require_database(text)
            else:
                EngineUrl.parse(text)
        return text

    @field_validator("wrap_key_prefix")
    @classmethod
    def _check_prefix(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                KeyId.parse("/".join((*_segments(value), "key", "key")[:3]))
            except RequestError:
                raise ValueError(
                    f"{value!r} is not the beginning of a key's name: write one or two segments "
                    "of it, such as images/ or images/keys/"
                ) from None
        return value

    @field_validator("resource_backend")
    @classmethod
    def _check_backends(cls, value: tuple[ResourceBackend, ...]) -> tuple[ResourceBackend, ...]:
        return require_different(value)

    @field_validator("mutual")
    @classmethod
    def _check_mutual(cls, value: bool) -> bool:
        if not value:
            raise ValueError("guests are always attested: remove it, or set it to true")
        return value

    @property
    def file(self) -> Path | None:
        """The TOML file from which some settings were read; None without one."""
        return self._file

    def exported(self) -> dict[str, JsonValue]:
        """Return the settings for another process of the broker, see `Settings.imported`."""
        file = None if self._file is None else str(self._file)
        return {"settings": self.model_dump(mode="json", exclude_unset=True), "file": file}

    @classmethod
    def imported(cls, members: dict[str, Any]) -> Self:
        """Return the settings that another process of the broker has exported."""
        settings = cls(**members["settings"])
        file = members["file"]
        settings._file = None if file is None else Path(file)  # as `load` does
        return settings

    @property
    def attests(self) -> bool:
        """Whether the broker presents evidence about itself."""
        return self.attester != "nullattester"

    @property
    def allow_unlogged(self) -> bool:
        """Whether guests may extend some registers at run time without log entries."""
        return self.allow_rtmr3_mismatch

    @property
    def listen_address(self) -> Address:
        return Address.parse(self.listen)

    @property
    def client_api_addresses(self) -> tuple[Address, ...]:
        """Addresses to try in order. Only the default has a second one, for hosts without IPv6."""
        first = Address.parse(self.client_api, unix_allowed=True)
        if "client_api" in self.model_fields_set:
            return (first,)
        return (first, *addresses.default_client_api()[1:])

    @property
    def keyprovider_api_address(self) -> Address | None:
        if self.keyprovider_api is None:
            return None
        return Address.parse(self.keyprovider_api, unix_allowed=True)

    @property
    def default_wrap_parameter(self) -> ExistingKey | KbsKey | None:
        """Key for requests to wrap that have no parameter; None to create one for each."""
        return None if self.default_wrap_key is None else parse_default_key(self.default_wrap_key)

    @property
    def wrap_key_segments(self) -> tuple[str, ...] | None:
        """First segments of the keys that callers who may only wrap may create."""
        return None if self.wrap_key_prefix is None else _segments(self.wrap_key_prefix)

    @property
    def kbs_sessions_url(self) -> EngineUrl | None:
        """Valkey server that stores the sessions; None if something else does."""
        text = self.kbs_sessions
        if text is None or not is_engine_url(text) or is_database(text):
            return None
        return EngineUrl.parse(text)

    @property
    def kbs_sessions_database(self) -> str | None:
        """URL of the PostgreSQL database that stores the sessions; None if something else does."""
        text = self.kbs_sessions
        return text if text is not None and is_database(text) else None

    @property
    def kbs_sessions_file(self) -> Path | None:
        """File that stores the sessions; None if an engine or the memory does."""
        text = self.kbs_sessions
        return None if text is None or is_engine_url(text) else Path(text)

    @property
    def status_address(self) -> Address | None:
        return None if self.status is None else Address.parse(self.status)

    @property
    def kbs_http_address(self) -> Address | None:
        return None if self.kbs_http is None else Address.parse(self.kbs_http)


def _is_origin(url: str) -> bool:
    """Return whether a URL has a scheme of HTTP, a host and a port, and nothing else."""
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and parts.hostname and parts.port
    except ValueError:  # of the port
        return False
    return bool(is_complete) and url == f"{parts.scheme}://{parts.netloc}" and "@" not in url


def parse_default_key(text: str) -> ExistingKey | KbsKey:
    """Parse the key for requests without a parameter, written as the parameter of a request.

    Raises:
        ValueError: the text names no key; the message has the remedy.
    """
    try:
        parameter = parse_parameter(text.encode())
    except RequestError as error:
        raise ValueError(str(error)) from None
    if isinstance(parameter, NewKey) or (isinstance(parameter, KbsKey) and parameter.keypath):
        raise ValueError("it names no key of the broker: write NAME or keyid=kbs:///default/key/1")
    return parameter


def parse_networks(text: str) -> tuple[Network, ...]:
    """Parse addresses and networks, `10.0.0.5,fd00::/8`.

    Raises:
        ValueError: one of them is neither; the message names it.
    """
    found = []
    for name in (part.strip() for part in text.split(",")):
        if name:
            try:
                found.append(ipaddress.ip_network(name))
            except ValueError:
                raise ValueError(
                    f"{name!r} is not an address or a network: write 10.0.0.5 or 10.0.0.0/24"
                ) from None
    return tuple(found)


def _segments(prefix: str) -> tuple[str, ...]:
    """Split the beginning of a key's name; one that cannot be valid stays in one segment."""
    segments = tuple(prefix.removesuffix("/").split("/"))
    return segments if len(segments) <= 2 else (prefix,)


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port_is_valid = parts.port != 0  # ValueError for a port that is not a number
    except ValueError:
        return False
    is_http = parts.scheme in ("http", "https") and bool(parts.hostname) and port_is_valid
    return is_http and text.isascii() and text.isprintable() and " " not in text


def load(flags: dict[str, Any], *, file: Path | None) -> Settings:
    """Load the settings from every source.

    Args:
        flags: values from the command line, by field name.
        file: the TOML file of `--config` or `VERDICTD_CONFIG`, or None.

    Raises:
        ConfigError: a setting is wrong; the message gives the key and the remedy.
    """
    _refuse_unknown_environment()
    if file is None and (named := os.environ.get(ENVIRONMENT_PREFIX + "CONFIG")):
        file = Path(named)
    table = {} if file is None else _read_toml(file)
    environment = environment_values()
    values = {**table, **environment, **flags}
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(_one_line(error, flags, set(environment), file, values)) from None
    settings._file = file  # noqa: SLF001  # not a setting of any source
    return settings


def environment_values() -> dict[str, Any]:
    """Return the settings of the environment, whose names may have any case; tables are JSON."""
    variables = {name.upper(): value for name, value in os.environ.items()}
    values: dict[str, Any] = {}
    for name in Settings.model_fields:
        if (text := variables.get(ENVIRONMENT_PREFIX + name.upper())) is not None:
            values[name] = text
    for name in ("tee", "resource_backend"):
        with suppress(KeyError, ValueError):  # what is no JSON is no table: the model refuses it
            values[name] = json.loads(values[name])
    return values


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            table = tomllib.load(stream)
    except OSError as error:
        raise ConfigError(
            f"cannot read the configuration {file}: {error.strerror}; check --config"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"the configuration {file} is not valid TOML: {error}; fix that line"
        ) from None
    for key in table:
        if is_unsafe(key):
            raise ConfigError(unsafe_in_file(key, f"{key} in {file}"))
    return table


def _refuse_unknown_environment() -> None:
    """Refuse a variable that looks like a setting and is none, because it is misspelled.

    Variables that Kubernetes sets for a Service `verdictd` or `verdictd-...` are ignored, and so
    are those of `verdictd-py guest`.
    """
    known = {ENVIRONMENT_PREFIX + name.upper() for name in (*Settings.model_fields, "config")}
    names = {name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX)}
    for name in sorted(names - service_links(os.environ)):
        if name.upper() not in known and not name.startswith(GUEST_PREFIX):
            raise ConfigError(
                f"{name} in the environment is not a setting: unset it, or correct it"
                f"{did_you_mean(name.upper(), known)}"
            )


def _one_line(
    error: ValidationError,
    flags: dict[str, Any],
    environment: set[str],
    file: Path | None,
    values: dict[str, Any],
) -> str:
    first = error.errors(include_url=False, include_input=False)[0]
    key = str(first["loc"][0]) if first["loc"] else "settings"
    if key in flags:
        where = "--" + key.replace("_", "-")
    elif key in environment:
        where = ENVIRONMENT_PREFIX + key.upper()
    else:
        where = f"{key} in {file}"
    return describe(first, where, values, dashed=key in flags)


def describe(
    fault: ErrorDetails, where: str, values: Mapping[str, Any], *, dashed: bool = False
) -> str:
    """Describe a setting that the model refuses: where it is, the cause, and a remedy if known.

    Args:
        where: the name of the setting in its source.
        values: all values that the model received, by field name.
        dashed: whether near misses are written as on the command line.
    """
    key = str(fault["loc"][0]) if fault["loc"] else "settings"
    if fault["type"] == "extra_forbidden":
        known = [name.replace("_", "-") if dashed else name for name in Settings.model_fields]
        hint = did_you_mean(key, known) or " (see verdictd-py --help)"
        return f"{where} is not a setting: remove it, or correct its name{hint}"
    if fault["type"] == "literal_error":
        choices = [str(one) for one in get_args(Settings.model_fields[key].annotation) if one]
        value = str(values[key])
        hint = did_you_mean(value, choices)
        return f"{where}: {value!r} is not one of {', '.join(choices)}{hint}"
    return f"{where}: {fault['msg'].removeprefix('Value error, ')}"


def is_unsafe(key: str) -> bool:
    """Return whether a key of a file is an unsafe option, which no file may enable."""
    return key.startswith(("insecure_", "unsafe_"))


def unsafe_in_file(key: str, where: str) -> str:
    """Describe an unsafe option in a file, with the remedy.

    Args:
        where: the key and its file.
    """
    flag = "--" + key.replace("_", "-")
    return (
        f"{where}: unsafe options are accepted on the command line only; "
        f"remove it from the file, and start with {flag} if you need it"
    )
