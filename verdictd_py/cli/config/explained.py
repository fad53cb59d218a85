"""What each setting means: one sentence, its unit, its default, an example.

The names, the defaults and the limits are those of `config.Settings`. A setting without a text here
is explained by its line in `verdictd-py --help`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from verdictd_py.cli.daemon import OPTIONS, SETTINGS_OF_TEES
from verdictd_py.config import Settings

ADDRESS: Final = "host:port, or [v6]:port"
GRPC_ADDRESS: Final = "host:port, [v6]:port, or unix:/path"
FILE: Final = "path"
SWITCH: Final = "true or false"
SECONDS: Final = "seconds"
BYTES: Final = "bytes"
NETWORKS: Final = "list of addresses and networks"

HEADINGS: Final = {
    "listen": "Listeners",
    "client_api_cert": "TLS of the client API",
    "console": "Web console",
    "kbs_http": "HTTP listener of guests",
    "verifier": "TEEs and storage",
    "collateral": "Collateral of Intel's TEEs",
    "min_tcb_evaluation": "What guests must prove",
    "keyprovider_name": "Keys of images",
    "max_connections": "Limits and times",
    "audit_mode": "Audit trail",
    "log_format": "Log and status",
}
"""Heading before a setting, in the order of `Settings`."""

_ETC: Final = "/etc/verdictd-py"

_TEXTS: Final[dict[str, tuple[str, str, Any]]] = {
    "listen": ("Address at which guests attest over RATS-TLS.", ADDRESS, "0.0.0.0:20002"),
    "client_api": (
        "Address of the gRPC API for operators and image tools.",
        GRPC_ADDRESS,
        "unix:/run/verdictd-py/client-api.sock",
    ),
    "keyprovider_api": (
        "Address of a gRPC listener that only wraps and unwraps image keys.",
        GRPC_ADDRESS,
        "unix:/run/verdictd-py/keyprovider.sock",
    ),
    "client_api_cert": ("Server certificate of the gRPC listeners, PEM.", FILE, f"{_ETC}/tls.crt"),
    "client_api_key": (
        "Private key of that certificate, PEM without a password.",
        FILE,
        f"{_ETC}/tls.key",
    ),
    "client_api_ca": ("CA that issues the certificates of clients, PEM.", FILE, f"{_ETC}/ca.crt"),
    "client_api_roles": (
        "TOML file with the role (wrap, operator or admin) of each certificate name.",
        FILE,
        f"{_ETC}/roles.toml",
    ),
    "console": (
        "Address of the web console; off loopback it needs the TLS files of the client API.",
        ADDRESS,
        "127.0.0.1:8088",
    ),
    "console_read_only": ("Whether the console refuses every change.", SWITCH, True),
    "kbs_http": ("Address at which guests attest over HTTP.", ADDRESS, "0.0.0.0:8443"),
    "kbs_tls_cert": (
        "Certificate and chain of the HTTP listener, PEM; else self-signed, or HTTP on loopback.",
        FILE,
        f"{_ETC}/kbs.crt",
    ),
    "kbs_tls_key": (
        "Private key of that certificate, PEM without a password.",
        FILE,
        f"{_ETC}/kbs.key",
    ),
    "kbs_admins": (
        "TOML file with the public keys of administrators over HTTP.",
        FILE,
        f"{_ETC}/admins.toml",
    ),
    "kbs_token_key": (
        "Key on P-256 that signs attestation tokens, PEM; without it, each start makes a new one.",
        FILE,
        f"{_ETC}/token.key",
    ),
    "kbs_token_key_days": (
        "Age at which brokers that share an engine add a new key of tokens.",
        "days",
        30,
    ),
    "kbs_sessions": (
        "HTTP sessions that brokers share: a SQLite file of this host, or an engine.",
        "path, or valkeys://HOST",
        "/var/lib/verdictd-py/sessions.sqlite",
    ),
    "mutual": ("Accepted for upstream's command lines: guests are always attested.", "true", True),
    "tls": ("Accepted for upstream's command lines.", "openssl", "openssl"),
    "crypto": ("Accepted for upstream's command lines.", "openssl", "openssl"),
    "data_dir": (
        "Directory of keys, policies, resources and the audit trail.",
        FILE,
        "/var/lib/verdictd-py",
    ),
    "store": (
        "Database that brokers share instead of a data directory; it needs seal.",
        "URL of PostgreSQL, without a password",
        "postgresql://verdictd@db.example/verdictd",
    ),
    "store_password_file": (
        "File with the password of that user of the database.",
        FILE,
        f"{_ETC}/db-password",
    ),
    "seal": (
        "Key that seals stored keys and resources: file:/path, credential:NAME or pkcs11:...",
        "URI",
        "credential:kek",
    ),
    "seal_strict": ("Whether objects that are not sealed are refused.", SWITCH, True),
    "seal_cache_seconds": (
        "How long unwrapped data keys are used again, also while the key's provider fails.",
        SECONDS,
        60,
    ),
    "collateral": (
        "JSON file or directory of collateral, used instead of fetching it.",
        FILE,
        f"{_ETC}/collateral.json",
    ),
    "collateral_url": (
        "PCS or PCCS from which collateral is fetched, tried in order; empty for none.",
        "list of URLs",
        ["https://pccs.example:8081"],
    ),
    "collateral_ca": ("CAs of the PCCS, PEM, instead of the system's.", FILE, f"{_ETC}/pccs.crt"),
    "collateral_pin": (
        "SHA-256 of the certificate or key of the first (second) URL.",
        "list of 64 hex digits",
        ["5c" * 32],
    ),
    "collateral_proxy": (
        "HTTP proxy to the PCS or PCCS, instead of HTTPS_PROXY of the environment.",
        "URL",
        "http://proxy.example:3128",
    ),
    "collateral_api_key_file": (
        "File with the subscription key, which is sent to the first URL only.",
        FILE,
        f"{_ETC}/pcs-api-key",
    ),
    "collateral_update": (
        "Which of Intel's TCB data is used during a TCB recovery.",
        "standard or early",
        "early",
    ),
    "collateral_grace": ("How long expired collateral is still accepted.", "days, 0 to 90", 7),
    "refuse_endorsements": ("Whether collateral that guests sent is never used.", SWITCH, True),
    "min_tcb_evaluation": ("Lowest TCB evaluation number that is accepted.", "number", 17),
    "keyprovider_name": (
        "Name of this provider in requests of image tools, if requests name several.",
        "name",
        "attestation-agent",
    ),
    "allow_a256ctr": (
        "Whether packets without a tag are decrypted, which an attacker can change unnoticed.",
        SWITCH,
        True,
    ),
    "require_reference_values": (
        "Whether guests are refused while a measurement of their TEE is not pinned.",
        SWITCH,
        True,
    ),
    "default_wrap_key": (
        "Key for encryption without a parameter; without it, one new key for each layer.",
        "name, or keyid=kbs:///default/key/1",
        "keyid=kbs:///default/key/1",
    ),
    "wrap_key_prefix": (
        "Beginning of the names of new keys of callers who may only wrap.",
        "one or two segments of a name",
        "images/",
    ),
    "max_new_keys_per_minute": (
        "Maximum number of keys that a caller creates by wrapping.",
        "keys per minute",
        10,
    ),
    "max_connections": ("Maximum number of guests at once, per listener.", "connections", 1000),
    "max_unattested_per_address": (
        "Maximum number of unattested guests of one address or IPv6 /64; else a quarter of all.",
        "connections",
        64,
    ),
    "max_connections_per_platform": (
        "Maximum number of attested guests of one machine; else a quarter of all.",
        "connections",
        256,
    ),
    "proxy_protocol_from": (
        "Proxies that send the PROXY protocol, version 2, to the listeners of guests.",
        NETWORKS,
        ["10.0.0.0/24"],
    ),
    "forwarded_for_from": (
        "Proxies whose X-Forwarded-For the HTTP listener believes.",
        NETWORKS,
        ["10.0.0.5"],
    ),
    "max_evidence_age": ("Maximum age of a guest's certificate.", SECONDS, 3600),
    "handshake_timeout": ("Time limit of a TLS handshake.", SECONDS, 10),
    "appraisal_timeout": ("Time limit of the appraisal of a guest.", SECONDS, 30),
    "request_timeout": ("Time limit from a request's first byte to its last.", SECONDS, 30),
    "idle_timeout": (
        "Time limit between HTTP requests, and for a client to read an answer.",
        SECONDS,
        300,
    ),
    "drain_timeout": ("Time for requests in flight when the broker stops.", SECONDS, 5),
    "audit_mode": ("Mode of audit files; 0640 lets a group read them.", "0600 or 0640", "0640"),
    "audit_group": ("Group that may read audit files of mode 0640.", "name of a group", "adm"),
    "audit_key": (
        "Ed25519 key that signs the heads of audit files, PEM.",
        FILE,
        f"{_ETC}/audit.key",
    ),
    "audit_rotate_bytes": (
        "Size at which an audit file is followed by another one.",
        BYTES,
        64 * 1024 * 1024,
    ),
    "audit_rotate_hours": ("Age at which an audit file is followed by another one.", "hours", 24),
    "audit_keep_days": (
        "Age at which audit files are removed, with a proof; without it, never.",
        "days",
        400,
    ),
    "audit_sink": (
        "Where audit records are also sent.",
        "list of journald, syslog:/dev/log, syslog+tcp://HOST, syslog+tls://HOST",
        ["journald"],
    ),
    "audit_reserve_bytes": ("Disk space reserved for audit records.", BYTES, 16 * 1024 * 1024),
    "audit_keep_bytes": (
        "Total size of audit files beyond which the oldest ones are removed.",
        BYTES,
        10 * 1024**3,
    ),
    "log_format": ("Format of the log on standard error.", "text or json", "json"),
    "log_level": (
        "Least urgent level of the log.",
        "debug, info, warning or error",
        "warning",
    ),
    "status": ("Address of /metrics, /livez and /readyz over HTTP.", ADDRESS, "127.0.0.1:9090"),
    "traces": (
        "OpenTelemetry collector that receives traces, OTLP over gRPC.",
        "URL with a port",
        "http://127.0.0.1:4317",
    ),
    "reload_on_change": (
        "Whether the broker reloads, as on SIGHUP, when a file of the settings has changed.",
        SWITCH,
        True,
    ),
    "workers": (
        "Processes that serve guests; auto for one per core.",
        "1 to 128, or auto",
        "auto",
    ),
}
"""Sentence, unit and example of each setting; `cli.daemon` has those that name TEEs."""

_BY_PLACEHOLDER: Final[dict[str, tuple[str, Any]]] = {
    "FILE": (FILE, f"{_ETC}/file"),
    "PATH": (FILE, f"{_ETC}/file"),
    "DIR": (FILE, "/var/lib/verdictd-py"),
    "ADDR": (ADDRESS, "127.0.0.1:1234"),
    "URL": ("URL", "https://host.example"),
    "S": (SECONDS, 30),
    "N": ("number", 1),
    "DAYS": ("days", 1),
    "H": ("hours", 1),
    "": (SWITCH, True),
}


@dataclass(frozen=True, slots=True)
class Explained:
    """A setting for people.

    Attributes:
        sentence: what it means.
        unit: which values it has.
        default: the default, as in TOML; empty if there is none.
        example: a value, as in TOML.
    """

    name: str
    sentence: str
    unit: str
    default: str
    example: str

    @property
    def remedy(self) -> str:
        """What to write instead of a wrong value."""
        return f"write {self.unit}, such as {self.name} = {self.example}"


def settings() -> Iterator[Explained]:
    """Yield every setting that has an option, in the order of `Settings`."""
    helps = {names[-1][2:].replace("-", "_"): (kind, text) for names, kind, text in OPTIONS}
    texts = {**_TEXTS, **SETTINGS_OF_TEES}
    for name, field in Settings.model_fields.items():
        if name not in helps:  # tables, which only the file has
            continue
        placeholder, text = helps[name]
        unit, example = _BY_PLACEHOLDER.get(placeholder, ("text", "NAME"))
        sentence = text[:1].upper() + text[1:] + "."
        sentence, unit, example = texts.get(name, (sentence, unit, example))
        default = field.default
        shown = "" if default in (None, ()) else as_toml(default)
        yield Explained(name, sentence, unit, shown, as_toml(example))


def as_toml(value: object) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(as_toml(one) for one in value) + "]"
    if isinstance(value, (int, float)):
        return str(value)
    return json.dumps(str(value), ensure_ascii=False)
