"""Files that URLs and locations of engines name: passwords, tokens, keys, and what TLS trusts.

The settings of the session store, the database, the seal and the backends are texts in which files
are named. One list of them exists, so that each rule for files of the settings covers all of them.
A provider of another package (`--seal acme:...`) verifies its own files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.database import database_address
from verdictd_py.errors import ConfigError
from verdictd_py.formats.pkcs11uri import Pkcs11Uri
from verdictd_py.secretfiles import CREDENTIAL, NamedFile, credential_file


def engine_files(settings: Settings, unsafe: Unsafe) -> Iterator[NamedFile]:
    """Yield each file; none of a text that cannot be used.

    What reads such a text refuses the start, and reports its cause.
    """
    for files_of in _sources(settings, unsafe):
        files: tuple[NamedFile, ...] = ()
        with suppress(ConfigError, ValueError):
            files = files_of()
        yield from files


def _sources(settings: Settings, unsafe: Unsafe) -> Iterator[Callable[[], tuple[NamedFile, ...]]]:
    sessions = settings.kbs_sessions_url
    if sessions is not None:
        yield lambda: sessions.files
    for url in (settings.store, settings.kbs_sessions_database):
        if url is not None:
            yield partial(_of_database, settings, unsafe, url)
    if (password := settings.store_password_file) is not None:
        yield lambda: (NamedFile(password, "password"),)
    if settings.seal is not None:
        yield partial(_of_seal, settings.seal)
    yield from (partial(_of_vault, backend.vault) for backend in settings.resource_backend)
    yield from (partial(_of_sink, text) for text in settings.audit_sink)


def _of_database(settings: Settings, unsafe: Unsafe, url: str) -> tuple[NamedFile, ...]:
    return database_address(settings, unsafe, url).files


def _of_vault(text: str) -> tuple[NamedFile, ...]:
    from verdictd_py.vault.location import Location  # noqa: PLC0415  # rare

    return Location.parse(text, "").files


def _of_seal(text: str) -> tuple[NamedFile, ...]:
    scheme = text.partition(":")[0]
    return _OF_SEALS[scheme](text) if scheme in _OF_SEALS else ()


def _of_key_file(text: str) -> tuple[NamedFile, ...]:
    return (NamedFile(Path(text.removeprefix("file:")), "key"),)


def _of_credential(text: str) -> tuple[NamedFile, ...]:
    return (NamedFile(credential_file(text), "key"),)


def _of_token(text: str) -> tuple[NamedFile, ...]:
    """Return the library, which the broker runs, and the file of the PIN."""
    uri = Pkcs11Uri.parse(text)
    files = [NamedFile(Path(uri.module))] if uri.module.startswith("/") else []
    source = uri.pin_source
    if source is not None and source.startswith(CREDENTIAL):
        files.append(NamedFile(credential_file(source), "PIN"))
    elif source is not None:
        files.append(NamedFile(Path(source.removeprefix("file:")), "PIN"))
    return tuple(files)


_OF_SEALS: Final[Mapping[str, Callable[[str], tuple[NamedFile, ...]]]] = {
    "file": _of_key_file,
    "credential": _of_credential,
    "pkcs11": _of_token,
    "vault": _of_vault,
}


def _of_sink(text: str) -> tuple[NamedFile, ...]:
    url = urlsplit(text)
    if url.scheme != "syslog+tls":
        return ()
    return tuple(NamedFile(Path(path)) for path in parse_qs(url.query).get("ca", ()))
