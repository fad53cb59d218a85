"""Settings that contradict each other, all of them at once; nothing is opened or started.

The parts of the daemon refuse the same contradictions when they are built, by the same functions,
but only the first one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial

from verdictd_py.config import DEFAULT_DATA_DIR, UNSAFE_ROOT_OPTION, Address, Settings, Unsafe
from verdictd_py.daemon import database, kbs, sealing
from verdictd_py.daemon.collateral import collateral_source
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import protection
from verdictd_py.storage.layout import refuse_group_without_effect
from verdictd_py.tees.registry import known_tees, require_allowed

_Check = Callable[[Settings, Unsafe], object]


def contradictions(
    settings: Settings, unsafe: Unsafe, *, unknown: Collection[str] = ()
) -> Iterator[tuple[str, str]]:
    """Yield the name of a setting for each contradiction, and its cause with the remedy.

    The name is that of the first setting of the contradiction which the operator has set.

    Args:
        unknown: names of settings whose values are not known, because they cannot be read; what
            depends on one of them is not checked.
    """
    for names, check in _CHECKS:
        if not set(unknown).isdisjoint(names):
            continue
        try:
            check(settings, unsafe)
        except ConfigError as error:
            given = (name for name in names if name in settings.model_fields_set)
            yield next(given, names[0]), str(error)


def refuse_disclosure(settings: Settings, unsafe: Unsafe) -> None:
    """Refuse unsafe options that would disclose the secrets of a real data directory.

    Raises:
        ConfigError: refused; the message has the cause and the remedy.
    """
    if unsafe.root_ca and "data_dir" not in settings.model_fields_set:
        raise ConfigError(
            f"{UNSAFE_ROOT_OPTION} needs an explicit --data-dir, "
            f"so that a rehearsal never uses {DEFAULT_DATA_DIR}"
        )
    if unsafe.insecure_sample_verifier and not unsafe.insecure_sample_data_dir:
        raise ConfigError(
            f"--insecure-sample-verifier would release every secret in {settings.data_dir} to "
            "any client; try it with `verdictd-py demo`, or add --insecure-sample-data-dir"
        )
    if unsafe.insecure_sample_data_dir and not unsafe.insecure_sample_verifier:
        raise ConfigError(
            "--insecure-sample-data-dir has no effect without --insecure-sample-verifier; remove it"
        )


def _verifiers(settings: Settings, unsafe: Unsafe) -> None:
    tees = known_tees(settings.verifier)
    require_allowed(
        settings.verifier or None,
        tees,
        insecure_nullverifier=unsafe.insecure_nullverifier,
        insecure_sample_verifier=unsafe.insecure_sample_verifier,
    )


def _console(settings: Settings, unsafe: Unsafe) -> None:
    del unsafe
    if settings.console is None:
        if settings.console_read_only:
            raise ConfigError("--console-read-only has no effect without --console; give both")
        return
    address = Address.parse(settings.console)
    if not address.local and settings.client_api_cert is None:
        raise ConfigError(
            f"--console {address} can be reached from other hosts and has no TLS; give "
            "--client-api-cert, -key, -ca and -roles, or a loopback address"
        )


def _collateral(settings: Settings, unsafe: Unsafe) -> None:
    del unsafe
    if settings.collateral is None and not settings.collateral_url:
        collateral_source(None, refuse_endorsements=settings.refuse_endorsements)


def _pins(settings: Settings, unsafe: Unsafe) -> None:
    del unsafe
    from verdictd_py.daemon.http import pinned  # noqa: PLC0415  # httpx takes a tenth of a second

    pinned(settings)


def _proxy(settings: Settings, unsafe: Unsafe) -> None:
    del unsafe
    from verdictd_py.daemon.http import site_proxies  # noqa: PLC0415  # as above

    site_proxies(settings, {})


def _sinks(settings: Settings, unsafe: Unsafe) -> None:
    del unsafe
    if settings.audit_sink:
        from verdictd_py.events.sinks.choice import sink_of  # noqa: PLC0415  # rare, and slow

        for text in settings.audit_sink:
            sink_of(text)


def _database(name: str, settings: Settings, unsafe: Unsafe) -> None:
    url = getattr(settings, name)
    if url is not None:
        database.database_address(settings, unsafe, url)


_TLS = ("client_api_cert", "client_api_key", "client_api_ca", "client_api_roles")

_CHECKS: tuple[tuple[tuple[str, ...], _Check], ...] = (
    (("data_dir",), refuse_disclosure),
    (("verifier",), _verifiers),
    (_TLS, lambda settings, _: protection.require_complete(settings)),
    (("client_api", "keyprovider_api", *_TLS), protection.require_protected),
    (("console", "console_read_only", *_TLS), _console),
    ((*kbs.OF_LISTENER, "kbs_http"), kbs.refuse_settings_without_effect),
    (("kbs_tls_cert", "kbs_tls_key"), kbs.require_consistent_tls),
    (("kbs_sessions", "kbs_token_key"), lambda settings, _: kbs.require_token_key(settings)),
    (("refuse_endorsements", "collateral_url", "collateral"), _collateral),
    (("collateral_pin", "collateral_url"), _pins),
    (("collateral_proxy",), _proxy),
    (
        ("audit_group", "audit_mode"),
        lambda settings, _: refuse_group_without_effect(settings.audit_mode, settings.audit_group),
    ),
    (("audit_sink",), _sinks),
    (
        ("seal_strict", "seal_cache_seconds", "seal"),
        lambda settings, _: sealing.refuse_settings_without_effect(settings),
    ),
    (("store", "seal"), lambda settings, _: database.require_seal(settings)),
    (
        ("store_password_file", "store", "kbs_sessions"),
        lambda settings, _: database.refuse_password_without_effect(settings),
    ),
    (("store",), partial(_database, "store")),
    (("kbs_sessions",), partial(_database, "kbs_sessions_database")),
)
"""Settings that each check depends on, and the function that refuses a contradiction."""
