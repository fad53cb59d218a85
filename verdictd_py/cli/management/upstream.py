"""The options of upstream's `verdict`, spelled as there: one action for each call."""

from __future__ import annotations

import base64
import json
from argparse import Namespace
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from verdictd_py._generated import clientapi_pb2 as messages
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management.client import BrokerClient, BrokerFailed, read, write
from verdictd_py.domain.names import Name
from verdictd_py.errors import ConfigError, RequestError

Action = Callable[[BrokerClient, Namespace, list[str]], Awaitable[str]]


@dataclass(frozen=True, slots=True)
class Option:
    """An option: placeholders of its values, its help, and its action.

    Attributes:
        changes: as for a `Command`.
    """

    values: tuple[str, ...]
    help: str
    act: Action
    changes: bool = False


def _export(name: str, options: Namespace, content: bytes) -> str:
    """Write an export into a file of the given name in the directory `--path`."""
    target = Path(options.path or "./") / name
    write(target, content)
    return f"written to {target}"


def _file_name(name: str) -> str:
    """Return the last segment of a valid name, which is safe as a file name.

    Raises:
        ConfigError: the name is not valid.
    """
    try:
        return Name.parse(name).segments[-1]
    except RequestError as error:
        raise ConfigError(f"{name!r} is not a name: {error}") from None


async def _stored(client: BrokerClient, name: str) -> str:
    """Return whether a stored document is in force, which upstream's answer does not report.

    Upstream's broker does not have this service.
    """
    try:
        request = v1.DescribeDocumentRequest(name=name)
        document = await client.call(client.documents.DescribeDocument, request)
    except BrokerFailed:
        return f"{name} is stored"
    if document.in_force:
        return f"{name} is in force"
    return f"{name} is stored, and not in force: {document.remark}"


async def _set_opa_policy(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del options
    name, path = values
    request = messages.SetOpaPolicyRequest(name=name.encode(), content=read(Path(path)))
    await client.call(client.opa.SetOpaPolicy, request)
    return await _stored(client, name)


async def _export_opa_policy(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    request = messages.ExportOpaPolicyRequest(name=values[0].encode())
    answer = await client.call(client.opa.exportOpaPolicy, request)
    return _export(_file_name(values[0]), options, answer.content)


async def _set_opa_reference(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del options
    name, path = values
    request = messages.SetOpaReferenceRequest(name=name.encode(), content=read(Path(path)))
    await client.call(client.opa.setOpaReference, request)
    return await _stored(client, name)


async def _export_opa_reference(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    request = messages.ExportOpaReferenceRequest(name=values[0].encode())
    answer = await client.call(client.opa.exportOpaReference, request)
    return _export(_file_name(values[0]), options, answer.content)


async def _evaluate(
    client: BrokerClient, *, policy: str | Path, reference: str | Path, claims: Path
) -> str:
    """Test a policy and return the broker's JSON with `allow` and `parseInfo`.

    Args:
        policy: a local file (`Path`), or the name of a stored policy (`str`).
        reference: as `policy`.

    Raises:
        BrokerFailed: the answer has no verdict.
        ConfigError: a file cannot be read.
    """
    request = messages.TestOpaRequest(input=read(claims))
    if isinstance(policy, Path):
        request.policylocal, request.policycontent = True, read(policy)
    else:
        request.policyname = bytes(policy, "utf-8")
    if isinstance(reference, Path):
        request.referencelocal, request.referencecontent = True, read(reference)
    else:
        request.referencename = bytes(reference, "utf-8")
    answer = await client.call(client.opa.TestOpa, request)
    try:
        text = str(answer.status.decode())
        report = json.loads(text)
    except (ValueError, RecursionError):
        report = None
    if (
        not isinstance(report, dict)
        or not isinstance(report.get("allow"), bool)
        or not isinstance(report.get("parseInfo"), dict)
    ):
        raise BrokerFailed("the broker's answer has no verdict: is -c right?", answered=False)
    return text


def _test_opa(
    policy_kind: Callable[[str], str | Path], reference_kind: Callable[[str], str | Path]
) -> Action:
    async def act(client: BrokerClient, options: Namespace, values: list[str]) -> str:
        del options
        policy, reference, claims = values
        return await _evaluate(
            client,
            policy=policy_kind(policy),
            reference=reference_kind(reference),
            claims=Path(claims),
        )

    return act


async def _list_gpg_keys(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del options, values
    answer = await client.call(client.gpg.listGpgKeys, messages.ListGpgKeysRequest())
    return str(answer.keys.decode(errors="replace")).rstrip("\n")


async def _import_gpg_key(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del options
    request = messages.ImportGpgKeyRequest(key=read(Path(values[0])))
    await client.call(client.gpg.importGpgKey, request)
    return "the keyring holds it"


async def _delete_gpg_key(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del options
    request = messages.DeleteGpgKeyRequest(keyid=values[0].encode())
    await client.call(client.gpg.deleteGpgKey, request)
    return f"the keyring no longer holds {values[0]}"


async def _export_gpg_keyring(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    """Return the keyring as base64, or write it to `--path` in the binary form for guests."""
    del values
    answer = await client.call(client.gpg.exportGpgKeyring, messages.ExportGpgKeyringRequest())
    if options.path is None:
        return str(answer.content.decode("ascii", "replace"))
    return _export("keyring.gpg", options, base64.b64decode(answer.content))


async def _export_sigstore(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del values
    request = messages.ExportImageSigstoreRequest()
    answer = await client.call(client.upstream_images.exportImageSigstore, request)
    return _export("image_sigstore.yaml", options, answer.content)


async def _set_sigstore(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del options
    request = messages.SetImageSigstoreRequest(content=read(Path(values[0])))
    await client.call(client.upstream_images.setImageSigstore, request)
    return "the lookaside configuration is stored"


async def _export_image_policy(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del values
    request = messages.ExportImagePolicyRequest()
    answer = await client.call(client.upstream_images.exportImagePolicy, request)
    return _export("image_policy.json", options, answer.content)


async def _set_image_policy(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del options
    request = messages.SetImagePolicyRequest(content=read(Path(values[0])))
    await client.call(client.upstream_images.setImagePolicy, request)
    return "the image policy is stored"


async def _get_resource(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    request = messages.GetResourceRequest(resource_id=values[0])
    answer = await client.call(client.upstream_resources.GetResource, request)
    return _export(_file_name(values[0]), options, answer.content)


async def _set_resource(client: BrokerClient, options: Namespace, values: list[str]) -> str:
    del options
    path, file = values
    request = messages.SetResourceRequest(resource_id=path, content=read(Path(file)))
    await client.call(client.upstream_resources.SetResource, request)
    return f"{path} is set"


OPTIONS: Final = {
    "--set-opa-policy": Option(
        ("NAME", "PATH"), "check and store a policy", _set_opa_policy, changes=True
    ),
    "--export-opa-policy": Option(("NAME",), "write a policy to --path", _export_opa_policy),
    "--set-opa-reference": Option(
        ("NAME", "PATH"), "check and store data", _set_opa_reference, changes=True
    ),
    "--export-opa-reference": Option(("NAME",), "write data to --path", _export_opa_reference),
    "--test-opa-remote": Option(
        ("POLICY", "REFERENCE", "INPUT_PATH"),
        "test the stored policy with the stored data",
        _test_opa(str, str),
    ),
    "--test-opa-local": Option(
        ("POLICY_PATH", "REFERENCE_PATH", "INPUT_PATH"),
        "test a policy and data from files",
        _test_opa(Path, Path),
    ),
    "--test-opa-local-policy": Option(
        ("POLICY_PATH", "REFERENCE", "INPUT_PATH"),
        "test a policy from a file with the stored data",
        _test_opa(Path, str),
    ),
    "--test-opa-local-reference": Option(
        ("POLICY", "REFERENCE_PATH", "INPUT_PATH"),
        "test the stored policy with data from a file",
        _test_opa(str, Path),
    ),
    "--list-gpg-keys": Option((), "list the keyring", _list_gpg_keys),
    "--import-gpg-key": Option(("FILE",), "add certificates to the keyring", _import_gpg_key),
    "--delete-gpg-key": Option(("KEY_ID",), "fingerprint, key id or e-mail", _delete_gpg_key),
    "--export-gpg-keyring": Option((), "print the keyring, or write it", _export_gpg_keyring),
    "--export-image-sigstore": Option((), "write image_sigstore.yaml", _export_sigstore),
    "--set-image-sigstore": Option(("PATH",), "store the lookaside file", _set_sigstore),
    "--export-image-policy": Option((), "write image_policy.json", _export_image_policy),
    "--set-image-policy": Option(("PATH",), "check and store the image policy", _set_image_policy),
    "--get_resource": Option(("RESOURCE",), "write a resource to --path", _get_resource),
    "--set_resource": Option(("RESOURCE", "FILE"), "store a resource", _set_resource),
}
