"""Registry credentials: forms that no file of `tests/inputs` has, and their conversion."""

from __future__ import annotations

import base64
import json

import pytest

from verdictd_py.domain.names import ResourcePath
from verdictd_py.encoding import JsonValue
from verdictd_py.formats import contents

PATH = ResourcePath.parse("team/credential/a")
AUTH = base64.b64encode(b"user:pass").decode()
GOOD: JsonValue = {"auths": {"a.example": {"auth": AUTH}}}


def problems(content: bytes) -> tuple[str, ...]:
    return contents.check(PATH, content).problems


def entry(value: JsonValue) -> bytes:
    return json.dumps({"auths": {"a.example": value}}).encode()


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "not valid JSON"),
        (b"null", "is not a JSON object"),
        (b"[]", "is not a JSON object"),
        (b'{"auths":null}', "auths: it is not an object"),
        (b'{"auths":[]}', "auths: it is not an object"),
        (b'{"auths":{},}', "not valid JSON"),
        (b'{"auths":{},"auths":{}}', "twice"),
        ('{"auths":{}}'.encode("utf-16"), "not UTF-8"),
        (entry(None), "it is not an object"),
        (entry({"auth": None}), "auth: it is not text"),
        (entry({"auth": 1}), "auth: it is not text"),
        (entry({}), "auth is missing"),
        (entry({"auth": ""}), "without ':'"),
        (entry({"auth": AUTH + "\n"}), "contains white space"),
        (entry({"auth": AUTH.rstrip("=") + "MQ"}), "not padded"),
        (entry({"auth": base64.b64encode(b"us\xe9r:p").decode()}), "UTF-8"),
        (entry({"auth": "dXNlcjpwYXNzMR=="}), "bits after the end"),
        (b'{"apiVersion":"v1","kind":"Secret"}', "a Kubernetes Secret"),
        (b"apiVersion: v1\nkind: Secret\n", "a Kubernetes Secret in YAML"),
        (b'{"credsStore":"desktop"}', "credential helpers"),
    ],
)
def test_a_credential_that_stops_guests_is_refused(content: bytes, part: str) -> None:
    (problem,) = problems(content)
    assert part in problem


@pytest.mark.parametrize(
    "content",
    [
        entry({"auth": base64.b64encode(b":").decode()}),
        entry({"auth": base64.b64encode(b"user:pa:ss").decode()}),
        entry({"auth": AUTH, "email": None}),
        b'{"auths":{}, "HttpHeaders": {"a": 1}}',
    ],
)
def test_a_credential_that_guests_read(content: bytes) -> None:
    found = contents.check(PATH, content)
    assert (found.problems, found.warnings) == ((), ())


def test_helpers_in_addition_to_auths_are_a_remark() -> None:
    found = contents.check(PATH, json.dumps({"auths": {}, "credHelpers": {"a": "b"}}).encode())
    assert found.problems == ()
    assert found.warnings == ("credHelpers: guests ignore credential helpers",)


def secret(member: str, value: bytes, *, plain: bool = False) -> bytes:
    data = {member: value.decode() if plain else base64.b64encode(value).decode()}
    return json.dumps(
        {"apiVersion": "v1", "kind": "Secret", "stringData" if plain else "data": data}
    ).encode()


def yaml_secret(member: str, value: bytes, *, more: str = "") -> bytes:
    """Return a Secret as `kubectl get secret -o yaml` writes it."""
    text = base64.b64encode(value).decode()
    return (
        f"apiVersion: v1\ndata:\n  {member}: {text}\nkind: Secret\nmetadata:\n"
        f'  creationTimestamp: "2026-01-01T00:00:00Z"\n  name: pull\n{more}'
        "type: kubernetes.io/dockerconfigjson\n"
    ).encode()


LONG = {"registry.example": {"auth": AUTH}, "other.example": {"auth": AUTH, "email": "x" * 6000}}


def test_a_secret_in_yaml_with_a_long_token_is_converted() -> None:
    """Tokens of cloud registries have some thousand characters, in one line of the Secret."""
    content = yaml_secret(".dockerconfigjson", json.dumps({"auths": LONG}).encode())
    assert json.loads(contents.convert_credential(content).content) == {"auths": LONG}


@pytest.mark.parametrize(
    "content",
    [
        b"\xef\xbb\xbf" + entry({"auth": AUTH}),
        json.dumps({"a.example": {"auth": AUTH}}).encode(),
        entry({"username": "user", "password": "pass"}),
        json.dumps({"a.example": {"username": "user", "password": "pass"}}).encode(),
        entry({"auth": f"{AUTH[:4]}\n{AUTH[4:]}\n"}),
        secret(".dockerconfigjson", entry({"auth": AUTH})),
        secret(".dockerconfigjson", entry({"auth": AUTH}), plain=True),
        secret(".dockercfg", json.dumps({"a.example": {"auth": AUTH}}).encode()),
        yaml_secret(".dockerconfigjson", entry({"auth": AUTH})),
        yaml_secret(".dockercfg", json.dumps({"a.example": {"auth": AUTH}}).encode()),
        b"---\nkind: 'Secret'\napiVersion: v1\nstringData:\n  .dockerconfigjson: '"
        + entry({"auth": AUTH})
        + b"'\n",
    ],
)
def test_a_form_without_loss_is_converted(content: bytes) -> None:
    assert problems(content)
    converted = contents.convert_credential(content)
    assert json.loads(converted.content) == GOOD
    assert converted.what
    assert problems(converted.content) == ()
    assert AUTH not in repr(converted)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"{}",
        entry({"auth": AUTH}),
        entry({"auth": "not base64!"}),
        entry({"identitytoken": "x"}),
        entry({"username": "us:er", "password": "pass"}),
        entry({"username": "user"}),
        b'{"credHelpers":{"a.example":"ecr-login"}}',
        secret(".dockerconfigjson", b"not JSON"),
        b'{"apiVersion":"v1","kind":"Secret","data":{".dockerconfigjson":"?"}}',
        b'{"apiVersion":"v1","kind":"Secret","data":{"other":"e30="}}',
        yaml_secret("other", b"{}"),
        yaml_secret(".dockerconfigjson", b"{}", more="  finalizers:\n  - a\n"),
        yaml_secret(".dockerconfigjson", b"{}") + b"---\n" + yaml_secret(".dockercfg", b"{}"),
    ],
)
def test_anything_else_is_not_converted(content: bytes) -> None:
    assert contents.convert_credential(content) == contents.Conversion(content)
