"""URLs of engines: what is accepted, and what is refused with a remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.secretfiles import write_secret
from verdictd_py.config import Settings
from verdictd_py.engineurls import EngineUrl
from verdictd_py.errors import StorageError

SECRET = "hunter2-9c1"


def test_a_url_is_read() -> None:
    url = EngineUrl.parse(
        "valkeys://kbs@cache.example:7000/3?password_file=/p&ca=/ca&cert=/c&key=/k"
    )
    assert str(url.address) == "cache.example:7000"
    assert (url.user, url.database, url.tls) == ("kbs", "3", True)
    assert {(str(file.path), file.secret) for file in url.files} == {
        *(("/p", "password"), ("/k", "key"), ("/ca", ""), ("/c", "")),
    }
    assert str(url) == "valkeys://cache.example:7000/3"


def test_default_ports_and_tls() -> None:
    assert EngineUrl.parse("valkey://localhost").address.port == 6379
    assert EngineUrl.parse("valkey:///run/valkey.sock").address.unix == "/run/valkey.sock"


@pytest.mark.parametrize(
    ("text", "remedy"),
    [
        (f"valkeys://:{SECRET}@h", "password_file=PATH"),
        (f"valkeys://u:{SECRET}@h", "password_file=PATH"),
        (f"valkeys://h?password={SECRET}", "password_file=PATH"),
        ("valkey://cache.example", "write valkeys://"),
        ("valkey://10.0.0.1:6379", "write valkeys://"),
        ("valkeys://h?insecure_plaintext=yes", "remove one"),
        ("valkey://localhost?ca=/ca", "use valkeys://"),
        ("valkeys://h?cert=/c", "write both"),
        ("valkeys://h?ca=/1&ca=/2", "write each once"),
        ("valkeys://h?sslmode=disable", "the options are"),
        ("valkey://h?insecure_plaintext=no", "insecure_plaintext=yes"),
        ("valkeys://h/name", "write a number"),
        ("valkeys://", "SCHEME://HOST"),
        ("valkeys://h:99999", "SCHEME://HOST"),
        ("valkeys://[::1", "SCHEME://HOST"),
        ("memcached://h", "valkeys://"),
    ],
)
def test_an_unusable_url_is_refused_with_a_remedy(text: str, remedy: str) -> None:
    with pytest.raises(ValueError) as raised:  # noqa: PT011  # the remedy is compared
        EngineUrl.parse(text)
    assert remedy in str(raised.value)
    assert SECRET not in str(raised.value)
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # of the settings
        Settings(kbs_sessions=text)
    assert SECRET not in str(refused.value)


def test_a_password_is_read_from_a_file_or_a_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_secret(tmp_path / "valkey", SECRET + "\n")
    assert EngineUrl.parse(f"valkeys://h?password_file={tmp_path}/valkey").password() == SECRET
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    credential = EngineUrl.parse("valkeys://h?password_file=credential:valkey")
    assert credential.password() == SECRET
    assert credential.files == ()
    monkeypatch.delenv("CREDENTIALS_DIRECTORY")
    with pytest.raises(StorageError, match="LoadCredential="):
        credential.password()
