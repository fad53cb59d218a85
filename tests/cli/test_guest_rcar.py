"""`verdictd-py guest --protocol rcar`: requests and options, against a simulated KBS."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from jwcrypto import jwk

from tests.support.command import Ended, run_here
from tests.support.stand_in import StandIn, quote_in, standing_in
from verdictd_py.cli.guest.tokens import read_token
from verdictd_py.guest.rcar.messages import Version, init_data_digest

KEK = bytes(range(32))
LAYER = b'{"symkey":"of a layer"}'
PROGRAM = "verdictd-py guest"
INIT_DATA = 'version = "0.1.0"\nalgorithm = "sha384"\n[data]\n'
MR_CONFIG_ID = slice(184 + 48, 184 + 96)  # tdx.md, "Quote v4"
KID = "kbs:///default/key/1"


def packet(algorithm: str = "A256GCM", kid: str = KID) -> str:
    """Return an annotation of a layer as coco_keyprovider writes it."""
    iv = bytes(12 if algorithm == "A256GCM" else 16)
    if algorithm == "A256GCM":
        sealed = AESGCM(KEK).encrypt(iv, LAYER, None)
    else:
        encryptor = Cipher(algorithms.AES(KEK), modes.CTR(iv)).encryptor()
        sealed = encryptor.update(LAYER) + encryptor.finalize()
    found = {"kid": kid, "wrapped_data": b64(sealed), "iv": b64(iv), "wrap_type": algorithm}
    return json.dumps(found)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def kbs() -> Iterator[StandIn]:
    secrets = {
        "default__key__1": KEK,
        "default__security-policy__test": b"{}",
        "my__secret__1": b"\x00\xff",
    }
    with standing_in(**secrets) as found:
        yield found


Ask = Callable[..., Ended]


@pytest.fixture
def ask(kbs: StandIn, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Ask:
    place = ("--platform", str(tmp_path / "platform"))

    def asking(*words: str) -> Ended:
        start = ("guest", "--protocol", "rcar", "--connect", kbs.address, *place)
        return run_here((*start, *words), capfdbinary)

    return asking


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["resource", "my/secret/1"], b"\x00\xff"),
        (["resource", "kbs:///my/secret/1"], b"\x00\xff"),
        (["--base64", "resource", "my/secret/1"], b"AP8=\n"),
        (["policy"], b"{}"),
        (["key", "default/key/1"], KEK),
        (["key", KID], KEK),
        (["decrypt", packet()], LAYER),
        (["--allow-a256ctr", "decrypt", packet("A256CTR")], LAYER),
        (["--tee-key", "ec-p521", "policy"], b"{}"),
        (["--tee-key", "rsa", "--kbs-version", "0.2.0", "policy"], b"{}"),
        (["--attester", "sample", "policy"], b"{}"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_guest_prints_only_the_bytes_of_the_secret(
    ask: Ask, words: list[str], answer: bytes
) -> None:
    assert ask(*words) == Ended(0, answer, "")


def test_the_options_decide_about_the_messages(ask: Ask, kbs: StandIn, tmp_path: Path) -> None:
    (tmp_path / "init.toml").write_text(INIT_DATA)
    assert ask("--init-data", str(tmp_path / "init.toml"), "policy").status == 0
    assert ask("--kbs-version", "0.2.0", "--tee-key", "rsa", "policy").status == 0
    assert ask("--attester", "sample", "--tee-key", "ec-p521", "policy").status == 0
    auth, attest, older_auth, older_attest, sample_auth, sample_attest = kbs.bodies
    assert (auth["version"], auth["tee"]) == ("0.4.0", "tdx")
    assert attest["init-data"] == {"format": "toml", "body": INIT_DATA}
    assert quote_in(attest)[MR_CONFIG_ID] == init_data_digest(INIT_DATA)
    assert attest["runtime-data"]["tee-pubkey"]["crv"] == "P-256"
    assert older_auth["version"] == "0.2.0"
    assert older_attest["tee-pubkey"]["alg"] == "RSA-OAEP-256"
    assert sample_auth["tee"] == "sample"
    assert sample_attest["runtime-data"]["tee-pubkey"]["crv"] == "P-521"


class TestAttest:
    def test_it_prints_the_claims_of_the_token_rather_than_the_token(
        self, ask: Ask, kbs: StandIn
    ) -> None:
        done = ask("attest")
        assert (done.status, done.stderr) == (0, "")
        assert done.json == {"customized_claims": {"runtime_data": {"tee-pubkey": kbs.key}}}

    def test_it_prints_the_token_if_requested(self, ask: Ask) -> None:
        done = ask("--show-token", "attest")
        assert done.status == 0
        assert done.stdout.count(b".") == 2
        assert done.stdout.endswith(b"c2ln\n")

    def test_a_saved_token_replaces_evidence(self, ask: Ask, kbs: StandIn, tmp_path: Path) -> None:
        file = tmp_path / "token.json"
        assert ask("--token-file", str(file), "attest").status == 0
        assert file.stat().st_mode & 0o777 == 0o600
        saved = json.loads(file.read_bytes())
        assert set(saved) == {"token", "tee_keypair"}  # as attestation-agent gives them
        shown = jwk.JWK.from_pem(saved["tee_keypair"].encode()).export_public(as_dict=True)
        assert shown["x"] == kbs.key["x"]
        kbs.asked.clear()
        done = ask("--token-file", str(file), "--attester", "none", "key", "default/key/1")
        assert done == Ended(0, KEK, "")
        assert kbs.asked == [("GET", "resource/default/key/1", saved["token"])]

    def test_attest_replaces_a_saved_token(self, ask: Ask, tmp_path: Path) -> None:
        file = tmp_path / "token.json"
        file.write_text("anything")
        assert ask("--token-file", str(file), "attest").status == 0
        token, _ = read_token(file, Version.V0_4_0)
        assert "customized_claims" in token.claims
        assert [found.name for found in tmp_path.glob("*token*")] == ["token.json"]


@pytest.mark.parametrize(
    ("words", "status", "cause"),
    [
        (["resource", "no/such/one"], 1, "answered GET of no/such/one with 404, PluginInternalErr"),
        (["decrypt", packet(kid="kbs:///no/key/1")], 1, "404"),
        (
            ["decrypt", packet().replace("AAAAAAAAAAAAAAAA", "AAAAAAAAAAAAAAAB")],
            1,
            "cannot decrypt the packet",
        ),
        (["decrypt", packet(kid="kbs:///my/secret/1")], 1, "not a key"),
        (["decrypt", packet("A256CTR")], 2, "--allow-a256ctr"),
        (["decrypt", packet(kid="84688df7")], 2, "--protocol ratstls"),
        (["decrypt", "nothing like it"], 2, "give its JSON, its base64, or its file"),
        (["key", "84688df7"], 2, "--protocol ratstls"),
        (["resource", "one"], 2, "<repository>/<type>/<tag>"),
        (["resource", "../../etc"], 2, "must not begin with '.'"),
        (["version"], 2, "version is a request of --protocol ratstls"),
        (["echo", "hello"], 2, "echo is a request of --protocol ratstls"),
        (["--endorse", "policy"], 2, "--endorse is an option of --protocol ratstls"),
        (["--form", "legacy", "policy"], 2, "--form is an option of --protocol ratstls"),
        (["--attester", "none", "policy"], 2, "a KBS requires evidence"),
        (["--kbs-version", "0.1.0", "policy"], 2, f"{PROGRAM} --help"),
        (["--kbs-version", "0.1.1", "--tee-key", "ec-p256", "policy"], 2, "--tee-key rsa"),
        (
            ["--kbs-version", "0.2.0", "--tee-key", "ec-p521", "policy"],
            2,
            "needs --kbs-version 0.4.0",
        ),
        (["resource", "kbs+sample:///a/b/c"], 2, "write kbs:///"),
        (["--init-data", "/none", "policy"], 2, "cannot read /none: No such file"),
        (["--init-data", "/dev/null", "policy"], 2, "lacks algorithm"),
        (["--init-data", "/dev/zero", "policy"], 2, "/dev/zero is larger than"),
        (["--event-log", "/dev/null", "policy"], 2, "/dev/null: "),
        (["--event-log", "/dev/null", "--attester", "sample", "policy"], 2, "is evidence of TDX"),
        (["--token-file", "/none", "policy"], 2, "cannot read a token from /none: No such file"),
        (["--token-file", "/dev/null", "policy"], 2, "/dev/null does not contain"),
        (
            ["--token-file", "/none/token", "attest"],
            2,
            "cannot write the token to /none/token: No such file",
        ),
        (["--ca", "/none", "policy"], 2, "/none: cannot read a CA in PEM"),
        (["--connect", "nowhere", "policy"], 2, "write host:port or [ipv6]:port, or a URL"),
        (["--connect", "http://kbs:8080", "policy"], 2, "--connect: http://kbs"),
        (["--connect", "ftp://kbs", "policy"], 2, "is not http://host:port or https://host:port"),
        (["--connect", "https://kbs/kbs/v0", "policy"], 2, "is not http://host:port"),
        (["--protocol", "ratstls", "--show-token", "policy"], 2, "option of --protocol rcar"),
        (["--protocol", "ratstls", "--tee-key", "rsa", "policy"], 2, "option of --protocol rcar"),
        (["--protocol", "ratstls", "attest"], 2, "attest is a request of --protocol rcar"),
        (["--protocol", "ratstls", "--attester", "sample", "policy"], 2, "--attester sample"),
        (["--protocol", "http", "policy"], 2, f"{PROGRAM} --help"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_an_error_is_one_line_with_its_cause(
    ask: Ask, words: list[str], status: int, cause: str
) -> None:
    assert cause in ask(*words).complaint(status, PROGRAM)


def test_init_data_needs_version_0_4_0(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "init.toml").write_text(INIT_DATA)
    words = ("--init-data", str(tmp_path / "init.toml"), "--kbs-version", "0.2.0", "policy")
    assert "--init-data needs --kbs-version 0.4.0" in ask(*words).complaint(2, PROGRAM)


def test_a_refusal_is_printed_with_the_text_of_the_broker(ask: Ask, kbs: StandIn) -> None:
    kbs.refusal = ("AttestationError", "refused: policy-refused; ask the operator about 1")
    line = ask("policy").complaint(1, PROGRAM)
    assert line == (
        "the KBS answered /attest with 401, AttestationError: refused: policy-refused; "
        "ask the operator about 1"
    )


def test_an_error_contains_no_secret(ask: Ask, kbs: StandIn, tmp_path: Path) -> None:
    file = tmp_path / "token.json"
    assert ask("--token-file", str(file), "attest").status == 0
    members = json.loads(file.read_bytes())
    file.write_text(json.dumps({**members, "token": members["token"][:-4]}))  # another signature
    kbs.secrets["default/key/1"] = b"hush"
    for words in (
        ("--token-file", str(file), "resource", "no/such/one"),
        ("decrypt", packet()),
    ):
        line = ask(*words).complaint(1, PROGRAM)
        for part in (*members["token"].split("."), "hush", b64(b"hush")):
            assert part not in line


def test_https_is_used_if_requested(ask: Ask, kbs: StandIn) -> None:
    """The port answers in plain text, so that the connection fails and no request is sent."""
    port = kbs.address.rpartition(":")[2]
    for words in (
        ("--connect", f"https://127.0.0.1:{port}"),
        ("--insecure-no-tls-verification",),
    ):
        line = ask(*words, "policy").complaint(3, PROGRAM)
        assert (
            line == f"the server at 127.0.0.1:{port} does not use TLS: write http:// in --connect"
        )
    assert not kbs.asked


def test_the_log_has_requests_and_no_secret(ask: Ask, kbs: StandIn) -> None:
    done = ask("--log-level", "info", "key", KID)
    assert (done.status, done.stdout) == (0, KEK)
    lines = [line.partition(" INFO ")[2] for line in done.stderr.splitlines()]
    paths = [" ".join(line.split()[:2]) for line in lines]
    assert paths == [
        "GET /kbs/v0/resource/default/key/1:",
        "POST /kbs/v0/auth:",
        "POST /kbs/v0/attest:",
        "GET /kbs/v0/resource/default/key/1:",
    ]
    assert b64(KEK) not in done.stderr


def test_options_may_follow_the_request(ask: Ask, kbs: StandIn) -> None:
    assert ask("resource", "my/secret/1", "--base64", "--attester", "sample").stdout == b"AP8=\n"
    assert kbs.bodies[0]["tee"] == "sample"
