"""Registry credentials (containers-auth.json(5)), as guests read them.

image-rs decodes `{"auths": {host: {"auth": text}}}` with serde and ignores other members (its
`auth/mod.rs`). A file that it cannot decode stops every image of the guest. It decodes `auth` when
an image of the host is fetched (`decode_auth` in `auth/auth_config.rs`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, cast

from verdictd_py.encoding import (
    JsonValue,
    decode_base64,
    decode_object,
    decode_value,
    encode_base64,
    quoted,
)
from verdictd_py.errors import RequestError
from verdictd_py.formats.contents import yamlmappings
from verdictd_py.formats.contents.findings import NONE, Finding

_BOM: Final = b"\xef\xbb\xbf"
_FORM: Final = 'write {"auths": {"<registry>": {"auth": "<base64 of user:password>"}}}'
_CONVERTS: Final = "'verdict-py credential set' converts it"
_SECRET_MEMBERS: Final = (".dockerconfigjson", ".dockercfg")
"""Members of Kubernetes Secrets of the types dockerconfigjson and dockercfg."""
_YAML_SECRET: Final = re.compile(rb"^kind:[ \t]*[\"']?Secret\b", re.MULTILINE)
_MAX_YAML_LINE: Final = 65_536
"""Maximum length of a line of a Secret in characters. A Secret has its content in one line."""


@dataclass(frozen=True, slots=True)
class Conversion:
    """A credential in the form of guests.

    Attributes:
        content: the credential, a secret.
        what: the differences, for the operator; empty if the content is as it was.
    """

    content: bytes = field(repr=False)
    what: tuple[str, ...] = ()


def check(content: bytes) -> Iterator[Finding]:
    """Yield the findings about a credential, each with its position and no part of a password.

    Args:
        content: any bytes, whose size the caller has limited.
    """
    if content.startswith(_BOM):
        yield Finding(f"it begins with a byte order mark, which guests cannot read; {_CONVERTS}")
        return
    try:
        value = decode_value(content, "the credential")
    except RequestError as error:
        yield Finding(_not_json(content, error))
        return
    if not isinstance(value, dict):
        yield Finding(f"the credential is not a JSON object; {_FORM}")
        return
    if "auths" not in value:
        yield Finding(_without_auths(value))
        return
    hosts = value["auths"]
    if not isinstance(hosts, dict):
        yield Finding(f"auths: it is not an object, so no guest can fetch an image; {_FORM}")
        return
    for member in ("credHelpers", "credsStore"):
        if member in value:
            yield Finding(f"{member}: guests ignore credential helpers", NONE)
    for host, entry in hosts.items():
        yield from _entry(entry, f"auths.{quoted(host)}")


def _not_json(content: bytes, error: RequestError) -> str:
    """Return why content that is not JSON cannot be used."""
    if _YAML_SECRET.search(content):
        return (
            "it is a Kubernetes Secret in YAML, not its content; give 'verdict-py credential set' "
            "the output of 'kubectl get secret NAME -o json'"
        )
    return f"{error}; store an auth.json, as podman login writes it"


def _without_auths(value: Mapping[str, JsonValue]) -> str:
    """Return why an object without `auths` cannot be used."""
    if "kind" in value and "apiVersion" in value:
        return f"it is a Kubernetes Secret, not its content; {_CONVERTS}"
    if "credHelpers" in value or "credsStore" in value:
        return f"it names credential helpers, which guests do not have, and no auths; {_FORM}"
    if value and all(isinstance(entry, dict) and "auth" in entry for entry in value.values()):
        return f"it is an old .dockercfg without auths; {_CONVERTS}"
    return f"auths is missing, so no guest can fetch an image; {_FORM}"


def _entry(entry: JsonValue, where: str) -> Iterator[Finding]:
    if not isinstance(entry, dict):
        yield Finding(f"{where}: it is not an object, so no guest can fetch an image; {_FORM}")
        return
    if "auth" not in entry:
        yield Finding(f"{where}: auth is missing, so no guest can fetch an image{_instead(entry)}")
        return
    auth = entry["auth"]
    if not isinstance(auth, str):
        yield Finding(f"{where}.auth: it is not text, so no guest can fetch an image; {_FORM}")
        return
    problem = _auth_problem(auth)
    if problem:
        yield Finding(f"{where}.auth: {problem}")
    if "identitytoken" in entry:
        yield Finding(f"{where}: guests ignore identitytoken and use auth", NONE)


def _instead(entry: Mapping[str, JsonValue]) -> str:
    if _is_user_and_password(entry):
        return f"; username and password do not replace it; {_CONVERTS}"
    if "identitytoken" in entry:
        return "; identitytoken does not replace it: use a password or token of the registry"
    return f"; {_FORM}"


def _is_user_and_password(entry: Mapping[str, JsonValue]) -> bool:
    user, password = entry.get("username"), entry.get("password")
    return isinstance(user, str) and isinstance(password, str) and ":" not in user


def _auth_problem(auth: str) -> str:
    try:
        decoded = decode_base64(auth, "it")
    except RequestError:
        wrapped = "".join(auth.split())
        if wrapped != auth and not _auth_problem(wrapped):
            return f"its base64 contains white space; {_CONVERTS}"
        return "it is not padded standard base64; encode 'user:password' with 'base64 -w0'"
    if encode_base64(decoded) != auth:
        return "its base64 has bits after the end; encode 'user:password' with 'base64 -w0'"
    try:
        text = decoded.decode()
    except UnicodeDecodeError:
        return "it does not decode to UTF-8 text; encode 'user:password' with 'base64 -w0'"
    if ":" not in text:
        return "it decodes to text without ':'; encode 'user:password' with 'base64 -w0'"
    return ""


def convert(content: bytes) -> Conversion:
    """Convert a credential of another form, if nothing is lost by it.

    Converted are a byte order mark, a Kubernetes Secret in JSON or YAML, an old .dockercfg,
    `username` with `password`, and base64 with white space. Anything else is returned as it is,
    for `check`.
    """
    what: list[str] = []
    if content.startswith(_BOM):
        content = content.removeprefix(_BOM)
        what.append("the byte order mark is removed")
    try:
        value = _from_secret(_decoded(content), what)
        value = _from_dockercfg(value, what)
    except RequestError:
        return Conversion(content, tuple(what))
    hosts = value.get("auths")
    if isinstance(hosts, dict):
        entries = {host: _converted_entry(host, entry, what) for host, entry in hosts.items()}
        value = {**value, "auths": entries}
    if [text for text in what if "byte order" not in text]:
        content = json.dumps(value, indent=4).encode() + b"\n"
    return Conversion(content, tuple(what))


def _decoded(content: bytes) -> Mapping[str, JsonValue]:
    """Return a JSON object, or the mapping of a Kubernetes Secret in YAML.

    Raises:
        RequestError: it is neither.
    """
    if not _YAML_SECRET.search(content):
        return decode_object(content, "the credential")
    try:
        # Text and mappings are the same in JSON; the reader returns 0 for anything else.
        value = yamlmappings.parse(content, max_line_characters=_MAX_YAML_LINE)
    except (yamlmappings.NotMappings, yamlmappings.Unsupported) as error:
        raise RequestError(str(error)) from None
    return cast("Mapping[str, JsonValue]", value)


def _from_secret(value: Mapping[str, JsonValue], what: list[str]) -> Mapping[str, JsonValue]:
    """Return the content of a Kubernetes Secret, or what is not one."""
    if value.get("kind") != "Secret" or "apiVersion" not in value:
        return value
    for member in _SECRET_MEMBERS:
        data, text = value.get("data"), value.get("stringData")
        if isinstance(text, dict) and isinstance(text.get(member), str):
            content = str(text[member]).encode()
        elif isinstance(data, dict) and isinstance(data.get(member), str):
            content = decode_base64(str(data[member]), "the Secret")
        else:
            continue
        inner = decode_object(content, "the Secret's content")
        what.append(f"{member} is taken out of the Kubernetes Secret")
        return inner
    return value


def _from_dockercfg(value: Mapping[str, JsonValue], what: list[str]) -> Mapping[str, JsonValue]:
    entries = [entry if isinstance(entry, dict) else {} for entry in value.values()]
    if "auths" in value or not entries:
        return value
    if not all("auth" in entry or _is_user_and_password(entry) for entry in entries):
        return value
    what.append("the entries of the old .dockercfg are put below auths")
    return {"auths": dict(value)}


def _converted_entry(host: str, entry: JsonValue, what: list[str]) -> JsonValue:
    if not isinstance(entry, dict):
        return entry
    auth = entry.get("auth")
    if isinstance(auth, str) and auth.split() != [auth]:
        wrapped = "".join(auth.split())
        if _auth_problem(wrapped):
            return entry
        what.append(f"white space is removed from auth of {quoted(host)}")
        return {**entry, "auth": wrapped}
    if "auth" not in entry and _is_user_and_password(entry):
        what.append(f"username and password of {quoted(host)} become auth")
        kept = {name: entry[name] for name in entry if name not in ("username", "password")}
        text = f"{entry['username']}:{entry['password']}"
        return {**kept, "auth": encode_base64(text.encode())}
    return entry
