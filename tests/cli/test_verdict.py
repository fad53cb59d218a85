"""`verdict-py`: upstream's options and acceptance steps, and the commands."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pysequoia import Tsk

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.channel import store
from tests.support.command import Ended
from tests.support.kbs import running_kbs
from tests.support.verdict import only_remarks, verdict
from verdictd_py.cli.store.newkey import create
from verdictd_py.cli.verdict import COMMANDS, build_parser
from verdictd_py.simulator import SimulatedPlatform

UPSTREAM = (  # wire-client-api.md, "verdict options"
    *("--client-api", "--set-opa-policy", "--export-opa-policy", "--set-opa-reference"),
    *("--export-opa-reference", "--test-opa-remote", "--test-opa-local"),
    *("--test-opa-local-policy", "--test-opa-local-reference", "--list-gpg-keys"),
    *("--import-gpg-key", "--delete-gpg-key", "--export-gpg-keyring", "--export-image-sigstore"),
    *("--set-image-sigstore", "--export-image-policy", "--set-image-policy", "--get_resource"),
    *("--set_resource", "--path", "--help", "--version"),
)
SGX_POLICY = """package policy

default allow = false

allow {
    input.productId >= data.productId
    input.svn >= data.svn
}
"""
SGX_DATA = '{"mrEnclave":[],"mrSigner":[],"productId":0,"svn":1}'
CLAIMS = '{"mrEnclave":"a","mrSigner":"b","productId":0,"svn":2}'
OLD_CLAIMS = '{"mrEnclave":"a","mrSigner":"b","productId":0,"svn":0}'


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Create a directory with the files of the operator."""
    directory = tmp_path / "files"
    directory.mkdir()
    for name, content in {
        "policy.rego": SGX_POLICY,
        "data": SGX_DATA,
        "claims": CLAIMS,
        "old": OLD_CLAIMS,
    }.items():
        (directory / name).write_text(content)
    return directory


def public_key_pem() -> bytes:
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def said(ended: Ended) -> str:
    only_remarks(ended)
    return ended.stdout.decode().rstrip("\n")


def test_every_option_of_upstreams_tool_is_in_the_help() -> None:
    help_text = build_parser().format_help()
    for option in UPSTREAM:
        assert f" {option}" in help_text, option
    for short in ("-c", "-p", "-h", "-V"):
        # Python 3.13 shows the value behind the long one only.
        assert re.search(rf"^  {short}( [A-Z]+)?, --", help_text, re.MULTILINE), short


def test_every_command_is_in_the_help() -> None:
    help_text = build_parser().format_help()
    for command in COMMANDS:
        assert f"  {command.words} " in help_text


async def test_upstreams_acceptance_steps_for_policies(broker: RunningBroker, files: Path) -> None:
    """Set, export and compare reference data; then the four forms of a test."""
    path = str(files)
    setting = ("--set-opa-reference", "sgxData", f"{path}/data")
    said(await verdict(broker, *setting))
    said(await verdict(broker, "--export-opa-reference", "sgxData", "-p", path))
    assert (files / "sgxData").read_text() == SGX_DATA
    said(await verdict(broker, "--set-opa-policy", "sgxPolicy.rego", f"{path}/policy.rego"))
    said(await verdict(broker, "--export-opa-policy", "sgxPolicy.rego", "--path", path))
    assert (files / "sgxPolicy.rego").read_text() == SGX_POLICY
    forms = {
        "--test-opa-remote": ("sgxPolicy.rego", "sgxData"),
        "--test-opa-local": (f"{path}/policy.rego", f"{path}/data"),
        "--test-opa-local-policy": (f"{path}/policy.rego", "sgxData"),
        "--test-opa-local-reference": ("sgxPolicy.rego", f"{path}/data"),
    }
    for claims, allow in (("claims", True), ("old", False)):
        answers = await asyncio.gather(
            *(verdict(broker, form, *words, f"{path}/{claims}") for form, words in forms.items())
        )
        word, svn = ("true", 2) if allow else ("false", 0)
        info = f'{{"mrEnclave":["a",[]],"mrSigner":["b",[]],"productId":[0,0],"svn":[{svn},1]}}'
        for answer in answers:
            assert said(answer) == f'{{"allow":{word},"parseInfo":{info}}}'


async def test_upstreams_acceptance_steps_for_the_keyring(
    broker: RunningBroker, files: Path
) -> None:
    certificate = Tsk.generate("Ann <ann@example.org>").extract_certificate()
    (files / "ann.asc").write_text(str(certificate))
    said(await verdict(broker, "--import-gpg-key", str(files / "ann.asc")))
    listed = said(await verdict(broker, "--list-gpg-keys"))
    assert certificate.fingerprint.upper() in listed
    assert "uid   Ann <ann@example.org>" in listed
    printed = said(await verdict(broker, "--export-gpg-keyring"))
    said(await verdict(broker, "--export-gpg-keyring", "-p", str(files)))
    stored = (broker.data / "gpg" / "keyring.gpg").read_bytes()
    assert base64.b64decode(printed) == (files / "keyring.gpg").read_bytes() == stored
    said(await verdict(broker, "--delete-gpg-key", "ann@example.org"))
    assert said(await verdict(broker, "--list-gpg-keys")) == ""


async def test_upstreams_image_files_and_resources(broker: RunningBroker, files: Path) -> None:
    said(await verdict(broker, "--export-image-policy", cwd=str(files)))  # to ./
    assert (files / "image_policy.json").read_text() == (
        '{"default":[{"type":"reject"}],"transports":{}}\n'
    )
    said(await verdict(broker, "--export-image-sigstore", "-p", str(files)))
    text = (files / "image_sigstore.yaml").read_text()
    assert text.startswith("default-docker:")
    (files / "sigstore").write_text(text + "# mine\n")
    said(await verdict(broker, "--set-image-sigstore", str(files / "sigstore")))
    assert (broker.data / "image" / "sigstore.yaml").read_text().endswith("# mine\n")
    (files / "policy.json").write_text(
        '{"default":[{"type":"insecureAcceptAnything"}],"transports":{}}'
    )
    said(await verdict(broker, "--set-image-policy", str(files / "policy.json")))
    (files / "secret").write_bytes(b"\x00\xff")
    said(await verdict(broker, "--set_resource", "my/secret/1", str(files / "secret")))
    said(await verdict(broker, "--get_resource", "my/secret/1", "-p", str(files)))
    assert (files / "1").read_bytes() == b"\x00\xff"
    assert (files / "1").stat().st_mode & 0o077 == 0


async def test_invalid_documents_of_upstreams_options_are_refused_with_the_cause(
    broker: RunningBroker, files: Path
) -> None:
    (files / "guide.json").write_text('{"default":[{"type":" insecureAcceptAnything"}]}')
    ended = await verdict(broker, "--set-image-policy", str(files / "guide.json"))
    line = ended.complaint(1, "verdict-py")
    assert "has white space around it" in line
    (files / "policy.rego").write_text("package policy\nallow {")
    ended = await verdict(broker, "--set-opa-policy", "tdxPolicy.rego", str(files / "policy.rego"))
    assert "line 2" in ended.complaint(1, "verdict-py")
    ended = await verdict(broker, "--export-opa-policy", "none", "-p", str(files))
    assert ended.complaint(1, "verdict-py") == "the broker refused: opa/none is missing"


async def test_keys_are_managed_without_disclosing_their_bytes(broker: RunningBroker) -> None:
    assert said(await verdict(broker, "key", "create", "default/key/1")) == "default/key/1"
    made = said(await verdict(broker, "key", "create"))
    (broker.data / "keys" / "short").write_bytes(b"x")
    ended = await verdict(broker, "key", "list", "--json")
    listed = ended.stdout
    found = {key["name"]: key for key in ended.items}
    assert set(found) == {KID, "default/key/1", made, "short"}
    assert found["short"]["problem"] == "a key has 32 bytes"
    assert found[KID]["size"] == 32
    for answer in (listed, (await verdict(broker, "key", "describe", KID)).stdout):
        assert KEY.strip() not in answer
        assert base64.b64encode(KEY) not in answer
    assert base64.b64decode(said(await verdict(broker, "key", "show", KID))) == KEY
    said(await verdict(broker, "key", "delete", KID))
    assert not (broker.data / "keys" / KID).exists()
    ended = await verdict(broker, "key", "describe", KID)
    assert ended.complaint(1, "verdict-py") == (
        f"the broker refused: there is no key {KID}; see verdict-py key list"
    )


async def test_lists_longer_than_a_page_are_complete(broker: RunningBroker) -> None:
    for number in range(1005):
        (broker.data / "keys" / f"k{number:04}").write_bytes(KEY)
    names = [key["name"] for key in (await verdict(broker, "key", "list", "--json")).items]
    assert names == [KID, *(f"k{number:04}" for number in range(1005))]


async def test_image_files_are_managed_by_commands(broker: RunningBroker, files: Path) -> None:
    cosign = public_key_pem()
    auth = b'{"auths":{"registry.example":{"auth":"dXNlcjpwYXNz"}}}'
    for name, content in (("cosign-key", cosign), ("credential", auth)):
        (files / name).write_bytes(content)
        ended = await verdict(broker, name, "show")
        assert "there is no resource" in ended.complaint(1, "verdict-py")
        said(await verdict(broker, name, "set", str(files / name)))
        assert (await verdict(broker, name, "show")).stdout == content
    assert (broker.data / "image" / "cosign.key").read_bytes() == cosign
    (files / "bad").write_bytes(b"{")
    for name, cause in (("cosign-key", "not a PEM public key"), ("credential", "not valid JSON")):
        ended = await verdict(broker, name, "set", str(files / "bad"))
        assert cause in ended.complaint(1, "verdict-py")
    listed = (await verdict(broker, "resource", "list", "--json")).items
    assert {each["file"] for each in listed} == {
        *("image/policy.json", "image/sigstore.yaml", "image/cosign.key", "image/auth.json"),
    }
    said(await verdict(broker, "resource", "delete", "default/credential/test"))
    assert not (broker.data / "image" / "auth.json").exists()


async def test_force_stores_a_policy_with_problems_unchanged(
    broker: RunningBroker, files: Path
) -> None:
    guide = b'{"default":[{"type":" insecureAcceptAnything"}]}'
    (files / "guide.json").write_bytes(guide)
    ended = await verdict(broker, "image-policy", "set", str(files / "guide.json"))
    assert "white space" in ended.complaint(1, "verdict-py")
    forced = await verdict(broker, "image-policy", "set", "--force", str(files / "guide.json"))
    assert "no guest can use it: default[0].type" in said(forced)
    assert (broker.data / "image" / "policy.json").read_bytes() == guide
    assert (await verdict(broker, "image-policy", "show")).stdout == guide


async def test_a_tested_policy_that_refuses_is_status_1(broker: RunningBroker, files: Path) -> None:
    signer = base64.b64encode(bytes(32)).decode()
    (files / "pinned").write_text(json.dumps({**json.loads(SGX_DATA), "mrSigner": [signer]}))
    for name, claims in (("claims", CLAIMS), ("old", OLD_CLAIMS)):
        (files / name).write_text(json.dumps({**json.loads(claims), "mrSigner": signer}))
    words = ("policy", "test", "--policy-file", str(files / "policy.rego"), "--reference-file")
    pinned = str(files / "pinned")
    assert said(await verdict(broker, *words, pinned, str(files / "claims"))).startswith(
        "verdict  accepted\nallow    true\nTEE      sgx\n"
    )
    ended = await verdict(broker, *words, pinned, str(files / "old"), "--json")
    assert (ended.status, ended.json["allow"], ended.json["verdict"]) == (1, False, "refused")
    ended = await verdict(broker, *words, str(files / "data"), str(files / "claims"), "--json")
    assert (ended.status, ended.json["allow"]) == (1, True)
    assert "no measurement of sgx is pinned" in ended.json["reasons"][0]["text"]


async def test_status_reports_unsafe_options_and_the_caller(broker: RunningBroker) -> None:
    found = (await verdict(broker, "status", "--json")).json
    assert found["unsafe"] == ["--unsafe-tdx-root-ca"]
    assert found["client_api"] == broker.client_api
    assert found["rights"] == ["manage", "read-keys", "unwrap", "wrap"]
    assert "tdx rtmr1" in found["unpinned"]
    shown = said(await verdict(broker, "status"))
    assert "UNSAFE" in shown
    assert [line for line in shown.splitlines() if line != line.rstrip()] == []
    assert "UNPINNED" in shown
    store(broker, "opa/tdxData", json.dumps({"rtmr1": ["ab" * 48]}).encode())
    assert "tdx rtmr1" not in (await verdict(broker, "status", "--json")).json["unpinned"]


async def test_status_reports_where_objects_and_sessions_are(
    tmp_path: Path, platform: SimulatedPlatform
) -> None:
    create(tmp_path / "kek")
    token_key = tmp_path / "token.key"
    private = ec.generate_private_key(ec.SECP256R1())
    token_key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    settings = {
        "seal": f"file:{tmp_path / 'kek'}",
        "kbs_sessions": str(tmp_path / "sessions"),
        "kbs_token_key": token_key,
    }
    async with running_kbs(tmp_path, platform, **settings) as broker:
        found = (await verdict(broker, "status", "--json")).json
        shown = said(await verdict(broker, "status"))
    assert (found["store"], found["seal"]) == ("", "file")
    assert found["kbs_sessions"] == settings["kbs_sessions"]
    assert "a key of the type file" in shown
    assert str(tmp_path / "kek") not in shown


async def test_policies_and_reference_data_are_managed_by_commands(
    broker: RunningBroker, files: Path
) -> None:
    said(await verdict(broker, "policy", "set", "sgxPolicy.rego", str(files / "policy.rego")))
    assert (await verdict(broker, "policy", "show", "sgxPolicy.rego")).stdout.decode() == SGX_POLICY
    said(await verdict(broker, "reference", "set", "sgxData", str(files / "data")))
    shown = (await verdict(broker, "reference", "show", "sgx", "--json")).json
    assert shown["values"] == json.loads(SGX_DATA)
    assert shown["unpinned"] == ["mrEnclave", "mrSigner"]
    ended = await verdict(broker, "reference", "set", "sgxPolicy.rego", str(files / "data"))
    assert "is the name of a policy" in ended.complaint(1, "verdict-py")
