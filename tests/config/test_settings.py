"""Settings: which source wins, and one clear line for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from verdictd_py import config
from verdictd_py.cli import daemon
from verdictd_py.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


class TestPrecedence:
    def test_the_defaults_are_the_documented_ones(self) -> None:
        settings = config.load({}, file=None)
        assert settings.listen == "127.0.0.1:1234"
        assert [str(a) for a in settings.client_api_addresses] == ["[::1]:60000", "127.0.0.1:60000"]
        assert settings.verifier == ()
        assert settings.attester == "nullattester"
        assert settings.data_dir == Path("/opt/verdictd")
        assert not settings.allow_a256ctr
        assert config.Unsafe().chosen() == ()

    def test_flags_beat_environment_beats_file(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_text('listen = "127.0.0.1:1"\nattester = "nullattester"\nidle_timeout = 7\n')
        monkeypatch.setenv("VERDICTD_LISTEN", "127.0.0.1:2")
        monkeypatch.setenv("VERDICTD_VERIFIER", "tdx,sgx")
        assert config.load({}, file=file).listen == "127.0.0.1:2"
        assert config.load({}, file=file).verifier == ("tdx", "sgx")
        assert config.load({}, file=file).idle_timeout == 7
        assert config.load({"listen": "127.0.0.1:3"}, file=file).listen == "127.0.0.1:3"

    def test_the_environment_can_name_the_file(
        self, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_text('listen = "127.0.0.1:1"\n')
        monkeypatch.setenv("VERDICTD_CONFIG", str(file))
        assert config.load({}, file=None).listen == "127.0.0.1:1"

    def test_only_the_default_client_api_has_a_fallback(self) -> None:
        settings = config.load({"client_api": "[::1]:60000"}, file=None)
        assert len(settings.client_api_addresses) == 1

    def test_settings_cannot_be_changed(self) -> None:
        settings = config.load({}, file=None)
        with pytest.raises(ValueError, match="frozen"):
            settings.listen = "127.0.0.1:1"


class TestMistakes:
    @pytest.mark.parametrize("key", ["data_dir", "collateral", "client_api_ca", "kbs_sessions"])
    def test_an_empty_path_is_not_the_working_directory(
        self, key: str, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(ConfigError, match="it is empty: write a path"):
            config.load({key: ""}, file=None)
        file.write_text(f'{key} = ""\n')
        with pytest.raises(ConfigError, match=f"{key} in .*: it is empty"):
            config.load({}, file=file)
        monkeypatch.setenv(f"VERDICTD_{key.upper()}", "")
        with pytest.raises(ConfigError, match=f"VERDICTD_{key.upper()}: it is empty"):
            config.load({}, file=None)

    def test_no_path_setting_is_forgotten(self) -> None:
        for name, field in config.Settings.model_fields.items():
            if "Path" in str(field.annotation):
                with pytest.raises(ConfigError, match="it is empty"):
                    config.load({name: ""}, file=None)

    @pytest.mark.parametrize("key", ["kbs_token_key", "audit_key", "client_api_roles"])
    def test_a_credential_of_systemd(
        self, key: str, file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file.write_text(f'{key} = "credential:some.key"\n')
        monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
        outside = Path("/run/credentials/verdictd-py.service/some.key")
        assert getattr(config.load({}, file=file), key) == outside
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials/other.service")
        inside = Path("/run/credentials/other.service/some.key")
        assert getattr(config.load({}, file=file), key) == inside
        assert getattr(config.load({key: "credential:some.key"}, file=None), key) == inside

    @pytest.mark.parametrize("name", ["", "..", "a/b", "/etc/shadow"])
    def test_a_credential_is_a_name(self, name: str) -> None:
        with pytest.raises(ConfigError, match=r"is not the name of a credential"):
            config.load({"audit_key": f"credential:{name}"}, file=None)

    @pytest.mark.parametrize("pins", ["", " ", f",{'a' * 64}", f"{'a' * 64},"])
    def test_an_empty_pin_is_neither_ignored_nor_skipped(self, pins: str) -> None:
        """Otherwise nothing would be pinned, or the next pin would be that of another URL."""
        urls = ("https://a.example", "https://b.example")
        with pytest.raises(ConfigError, match="--collateral-pin: it has an empty pin"):
            config.load({"collateral_url": urls, "collateral_pin": pins}, file=None)

    @pytest.mark.parametrize(
        ("text", "cause"),
        [
            ('listn = "x"', "listn in .* is not a setting"),
            ('listen = "x"', "listen in .*: 'x' is not an address"),
            ("listen = 5", "listen in "),
            ("listen =", "is not valid TOML"),
            ('listen = "::1:5"', "brackets"),
            ('listen = "unix:/x"', "not served here"),
            ('listen = "h:99999"', "is not an address"),
            ('listen = "h:"', "is not an address"),
            ('listen = ":5"', "is not an address"),
            ("idle_timeout = 0", "idle_timeout in "),
            ("idle_timeout = -1", "idle_timeout in "),
            ('tls = "mbedtls"', "tls in .*openssl"),
            ('attester = "snp"', "'snp' is not one of nullattester, tdx"),
            ("insecure_nullverifier = true", "command line only"),
            ('unsafe_tdx_root_ca = "x"', "--unsafe-tdx-root-ca"),
            ("[listen]", "listen in "),
            ("mutual = false", "guests are always attested"),
        ],
    )
    def test_in_the_file(self, file: Path, text: str, cause: str) -> None:
        file.write_text(text)
        with pytest.raises(ConfigError, match=cause) as caught:
            config.load({}, file=file)
        assert "\n" not in str(caught.value)

    def test_in_the_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VERDICTD_IDLE_TIMEOUT", "soon")
        with pytest.raises(ConfigError, match=r"^VERDICTD_IDLE_TIMEOUT: "):
            config.load({}, file=None)

    @pytest.mark.parametrize("name", ["VERDICTD_LISTN", "VERDICTD_INSECURE_NULLVERIFIER"])
    def test_unknown_in_the_environment(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(name, "1")
        with pytest.raises(ConfigError, match=f"^{name} in the environment is not a setting"):
            config.load({}, file=None)

    def test_unless_kubernetes_has_set_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in {
            "VERDICTD_SERVICE_HOST": "10.96.0.7",
            "VERDICTD_SERVICE_PORT_KBS": "8080",
            "VERDICTD_PORT": "tcp://10.96.0.7:8080",
            "VERDICTD_PORT_8080_TCP_PROTO": "tcp",
            "VERDICTD_PY_GUEST_CONNECT": "broker:20002",
            "VERDICTD_LISTEN": "127.0.0.1:4321",
        }.items():
            monkeypatch.setenv(name, value)

        assert config.load({}, file=None).listen == "127.0.0.1:4321"

        monkeypatch.setenv("VERDICTD_LISTEN_PORT", "1234")
        with pytest.raises(ConfigError, match=r"^VERDICTD_LISTEN_PORT in the environment"):
            config.load({}, file=None)

    def test_on_the_command_line(self) -> None:
        with pytest.raises(ConfigError, match=r"^--listen: "):
            config.load({"listen": "nowhere"}, file=None)

    def test_a_missing_file(self, file: Path) -> None:
        with pytest.raises(ConfigError, match="check --config"):
            config.load({}, file=file)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("0.0.0.0:20002", "0.0.0.0:20002"),
        ("[::]:20002", "[::]:20002"),
        ("broker.example:1", "broker.example:1"),
    ],
)
def test_addresses_are_shown_as_they_are_written(text: str, shown: str) -> None:
    assert str(config.Address.parse(text)) == shown


@pytest.mark.parametrize(
    ("text", "local"),
    [
        ("127.0.0.1:1", True),
        ("127.9.9.9:1", True),
        ("[::1]:1", True),
        ("localhost:1", True),
        ("unix:/x", True),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("192.0.2.1:1", False),
        ("localhost.example:1", False),
    ],
)
def test_only_loopback_is_local(text: str, local: bool) -> None:
    assert config.Address.parse(text, unix_allowed=True).local is local


def test_every_setting_has_an_option_and_every_option_a_setting() -> None:
    options = {
        action.dest
        for action in daemon.build_parser()._actions
        if action.dest not in {"help", "version", "config"}
    }
    tables = {"tee", "resource_backend"}  # of the configuration file alone
    settings = set(config.Settings.model_fields) - tables
    assert options == settings | set(config.UNSAFE_NAMES)
