"""`verdictd-py config`: the commented file, every fault at once, the values in force."""

from __future__ import annotations

import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command import Ended, run_here
from verdictd_py import config
from verdictd_py.cli.config.effective import redacted
from verdictd_py.cli.config.example import example
from verdictd_py.cli.config.explained import Explained, settings
from verdictd_py.cli.config.faults import MAX_BYTES, faults
from verdictd_py.cli.config.statements import read
from verdictd_py.config import Settings

Command = Callable[..., Ended]


@pytest.fixture
def command(capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runner of the command in this process, without settings in the environment."""
    monkeypatch.delenv("VERDICTD_CONFIG", raising=False)
    return lambda *words: run_here(["config", *map(str, words)], capfdbinary)


def found(text: str) -> list[tuple[int | None, str]]:
    """Line and setting of each fault of a document."""
    return [(fault.line, fault.setting) for fault in faults(read(text))]


class TestInit:
    def test_the_file_sets_nothing_and_has_no_fault(self, command: Command, tmp_path: Path) -> None:
        file = tmp_path / "config.toml"
        assert command("init", file).status == 0
        assert tomllib.loads(file.read_text()) == {}
        assert file.stat().st_mode & 0o777 == 0o640
        assert command("validate", file).stdout == f"{file}: no fault\n".encode()

    def test_it_explains_every_setting(self) -> None:
        """A new setting needs an entry in cli/config/explained.py, or an option in OPTIONS."""
        explained = {setting.name: setting for setting in settings()}
        assert explained.keys() == Settings.model_fields.keys() - {"tee", "resource_backend"}
        text = example()
        for setting in explained.values():
            assert setting.sentence[0].isupper(), setting
            assert setting.sentence.endswith("."), setting
            assert f"\n# {setting.sentence.split()[0]}" in text
            assert f"\n#{setting.name} = {setting.example}\n" in text

    def test_each_default_is_that_of_the_settings(self) -> None:
        for setting in settings():
            default = Settings.model_fields[setting.name].default
            if setting.default:
                value = tomllib.loads(f"value = {setting.default}")["value"]
                expected = list(default) if isinstance(default, tuple) else default
                assert value == (str(expected) if isinstance(expected, Path) else expected)
            else:
                assert default in (None, ())

    @pytest.mark.parametrize("setting", [*settings()], ids=lambda setting: setting.name)
    def test_each_example_is_a_value(self, setting: Explained, tmp_path: Path) -> None:
        """A new setting whose example is refused needs one in cli/config/explained.py."""
        file = tmp_path / "config.toml"
        file.write_text(f"{setting.name} = {setting.example}\n")
        config.load({}, file=file)

    def test_a_file_that_exists_stays(self, command: Command, tmp_path: Path) -> None:
        file = tmp_path / "config.toml"
        file.write_text("listen = 'x'")
        line = command("init", file).complaint(2, "verdictd-py config")
        assert line == f"{file} exists; name another file, or move it away"
        assert file.read_text() == "listen = 'x'"

    def test_without_a_file_it_is_written_to_standard_output(self, command: Command) -> None:
        assert command("init").stdout.decode() == example()


class TestValidate:
    def test_every_fault_is_listed_with_its_line(self, command: Command, tmp_path: Path) -> None:
        file = tmp_path / "config.toml"
        file.write_text(
            'listen = "0.0.0.0"\n'  # 1
            "idle_timeout = 0\n"
            "insecure_nullverifier = true\n"  # 3
            "lisen = 5\n"
            'collateral_url = ["https://a.example",\n'  # 5
            '  "ftp://b.example"]\n'
            "this is wrong\n"  # 7
            'kbs_tls_cert = "/x"\n'
            'kbs_http = "127.0.0.1:8443"\n'  # 9
            "idle_timeout = 7\n"
            'log_level = "loud"\n'  # 11
        )
        ended = command("validate", file)
        lines = ended.stdout.decode().splitlines()
        assert ended.status == 2
        assert [line.split(": ")[0] for line in lines] == [
            f"{file}:{number}" for number in (1, 2, 3, 4, 5, 7, 8, 10, 11)
        ]
        for cause, line in zip(
            (
                "'0.0.0.0' is not an address: write host:port",
                "greater than 0; write seconds, such as idle_timeout = 300",
                "on the command line only; remove it from the file",
                "did you mean 'listen'?",
                "'ftp://b.example' is not a URL: write",
                "not valid TOML (Expected '=' after a key",
                "go together; give both, or neither",
                "set a second time; remove one of the two",
                "'loud' is not one of debug, info, warning, error",
            ),
            lines,
            strict=True,
        ):
            assert cause in line

    def test_as_json(self, command: Command, tmp_path: Path) -> None:
        file = tmp_path / "config.toml"
        file.write_text("\nworkers = 0\n")
        document = command("validate", file, "--json").json
        assert (document["schema"], document["valid"]) == ("verdictd.v1/config-validation", False)
        (fault,) = document["faults"]
        assert (fault["line"], fault["setting"]) == (2, "workers")
        assert "write a number from 1 to 128" in fault["message"]

    def test_a_byte_order_mark_is_named(self) -> None:
        (fault,) = faults(read("\ufefflisten = '127.0.0.1:20002'\n"))
        assert (fault.line, "a byte order mark precedes it" in fault.message) == (1, True)

    def test_a_fault_does_not_quote_a_password(self) -> None:
        (fault,) = faults(read('collateral_url = "ftp://user:SECRET@pccs.example"'))
        assert "'ftp://pccs.example' is not a URL" in fault.message

    @pytest.mark.timing
    def test_a_long_file_takes_seconds(self) -> None:
        """Statements are parsed alone, and only those that may continue each other together."""
        number = MAX_BYTES // 12
        started = time.process_time()
        assert faults(read("\n".join(f"[tee.a{n}]" for n in range(number)))) == ()
        broken = read("listen = [\n" * (MAX_BYTES // 11))
        assert len(broken.faults) == MAX_BYTES // 11
        assert time.process_time() - started < 60

    @pytest.mark.parametrize("content", [b"listen = '\xff'\n", b"#" * (MAX_BYTES + 1)])
    def test_what_is_no_text(self, command: Command, tmp_path: Path, content: bytes) -> None:
        file = tmp_path / "config.toml"
        file.write_bytes(content)
        assert str(file) in command("validate", file).complaint(2, "verdictd-py config")

    def test_a_missing_file(self, command: Command, tmp_path: Path) -> None:
        line = command("validate", tmp_path / "none").complaint(2, "verdictd-py config")
        assert line.endswith("check its name")

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('data_dir = """\nb = 5\n"""\nlisten = 5', [(4, "listen")]),
            ('verifier = [\n  # sgx = x\n  "tdx",\n]\nworkers = 0', [(5, "workers")]),
            ('[tee.x\nurl = "a"\nlisten = "b"\n', [(1, "")]),
            ('[tee.x]\nurl = "a"\n[tee.x]\nb = 1\n[tee.y]\nc = 2', [(3, "")]),
            ('verifier = ["tdx"\nworkers = 0', [(1, ""), (2, "workers")]),
            ('kbs_http =\nkbs_admins = "/x"', [(1, "")]),
            ('kbs_htp = "127.0.0.1:1"\nkbs_admins = "/x"', [(1, "kbs_htp")]),
            ('kbs_http = 5\nkbs_admins = "/x"', [(1, "kbs_http")]),
            ('kbs_admins = "/x"\nkbs_sessions = "/y"', [(1, "kbs_admins"), (2, "kbs_sessions")]),
            ("listen x\nverifier y\n\nworkers = 1", [(1, ""), (2, "")]),
            ("", []),
            ("# listen = 5\n\n", []),
            ("tee = 5", [(1, "tee")]),
            ("[tee.tdx]\n[tee]\nsgx = 5\n", [(3, "tee")]),
        ],
    )
    def test_no_fault_is_invented(self, text: str, expected: list[tuple[int, str]]) -> None:
        assert found(text) == expected

    @pytest.mark.parametrize(
        ("text", "setting"),
        [
            ('verifier = "snp"', "verifier"),
            ('verifier = "nullverifier"', "verifier"),
            ('verifier = "sample"', "verifier"),
            ('client_api_cert = "/x"', "client_api_cert"),
            ('client_api = "0.0.0.0:1"', "client_api"),
            ('keyprovider_api = "0.0.0.0:1"', "keyprovider_api"),
            ('console = "0.0.0.0:1"', "console"),
            ('forwarded_for_from = "10.0.0.1"', "forwarded_for_from"),
            ('kbs_http = "127.0.0.1:1"\nkbs_tls_key = "/x"', "kbs_tls_key"),
            ('kbs_http = "127.0.0.1:1"\nkbs_sessions = "/x"', "kbs_sessions"),
            ('collateral_url = ""\nrefuse_endorsements = true', "refuse_endorsements"),
            (f'collateral_pin = ["{"a" * 64}", "{"b" * 64}"]', "collateral_pin"),
            ('collateral_proxy = "socks9://x"', "collateral_proxy"),
            ('audit_group = "adm"', "audit_group"),
            ('audit_sink = "nowhere"', "audit_sink"),
            ("seal_strict = true", "seal_strict"),
            ('store = "postgresql://a@b/c"', "store"),
            ('store_password_file = "/x"', "store_password_file"),
            ('store = "postgresql:///c"\nseal = "file:/x"', "store"),
            ('store = "postgresql://a@b/c?sslmode=require"\nseal = "file:/x"', "store"),
            (
                'kbs_http = "127.0.0.1:1"\nkbs_sessions = "postgresql://a:SECRET@b/c"',
                "kbs_sessions",
            ),
        ],
    )
    def test_settings_that_contradict_each_other(self, text: str, setting: str) -> None:
        (fault,) = faults(read(text))
        assert fault.setting == setting
        assert fault.line is not None
        assert "SECRET" not in fault.message


class TestShow:
    def test_each_value_has_its_source(
        self, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "config.toml"
        file.write_text('# x\nlisten = "127.0.0.1:1"\nidle_timeout = 17\nworkers = 2\n')
        monkeypatch.setenv("VERDICTD_WORKERS", "3")
        ended = command("show", "--config", file, "--idle-timeout", "18", "--json")
        items = {item["name"]: item for item in ended.items}
        assert items.keys() == Settings.model_fields.keys()
        assert [
            (items[name]["value"], items[name]["source"], items[name]["where"])
            for name in ("listen", "idle_timeout", "workers", "status")
        ] == [
            ("127.0.0.1:1", "file", f"{file}:2"),
            (18, "command line", "--idle-timeout"),
            (3, "environment", "VERDICTD_WORKERS"),
            (None, "default", ""),
        ]
        assert "--idle-timeout" in command("show", "--idle-timeout", "18").stdout.decode()

    def test_no_secret_is_displayed(self, command: Command, tmp_path: Path) -> None:
        file = tmp_path / "config.toml"
        file.write_text(
            'collateral_proxy = "http://user:SECRET1@proxy.example:3128"\n'
            'collateral_url = ["https://SECRET2@a.example/?api_key=SECRET3&x=1"]\n'
            'audit_sink = ["syslog+tcp://user:SECRET4@log.example"]\n'
            '[tee.tdx]\npassword = "SECRET5"\nurl = "https://u:SECRET6@b.example"\n'
            'nested = { token = "SECRET7", api_key_file = "/etc/key" }\n'
        )
        for more in ((), ("--json",)):
            ended = command("show", "--config", file, *more)
            text = ended.stdout.decode()
            assert ended.status == 0, ended
            assert "SECRET" not in text + ended.stderr
            assert "user" not in text
            for part in ("proxy.example:3128", "a.example", "x=1", "log.example", "/etc/key"):
                assert part in text

    @pytest.mark.parametrize(
        ("value", "displayed"),
        [
            ("user:pw@proxy.example:3128", "(redacted)@proxy.example:3128"),
            ("https://pw@h/?a=1&token=pw#x", "https://(redacted)@h/?a=1&token=(redacted)#x"),
            ("valkeys://:pw@h:6379/0", "valkeys://(redacted)@h:6379/0"),
            ("host=h password='p w' user=u", "host=h password=(redacted) user=u"),
            ("pkcs11:object=kek?pin-value=pw", "pkcs11:object=kek?pin-value=(redacted)"),
            ("[::1]:60000", "[::1]:60000"),
            ("unix:/run/a@b.sock", "unix:/run/a@b.sock"),
            ("/etc/secret=1/token.key", "/etc/secret=1/token.key"),
        ],
    )
    def test_addresses_without_their_secrets(self, value: str, displayed: str) -> None:
        assert redacted(value, "any") == displayed

    def test_a_wrong_setting(self, command: Command) -> None:
        assert "--listen" in command("show", "--listen", "x").complaint(2, "verdictd-py config")
