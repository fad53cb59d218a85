"""Commands for what the broker stores: keys, resources, image files, keyring."""

from __future__ import annotations

import base64
from argparse import Namespace
from collections.abc import Awaitable, Callable
from typing import Any, Final

from verdictd_py._generated import clientapi_pb2 as upstream
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import show
from verdictd_py.cli.management.client import BrokerClient, read
from verdictd_py.cli.management.command import FILE, NAME, Arguments, Command
from verdictd_py.cli.management.show import CommandOutput
from verdictd_py.domain.names import LEGACY_RESOURCES
from verdictd_py.errors import ConfigError
from verdictd_py.formats import contents

SIGSTORE: Final = str(LEGACY_RESOURCES["Sigstore Config"])


async def _pages(request_page: Callable[[str], Awaitable[Any]], name: str) -> list[Any]:
    """Return the items of all pages of a list."""
    items: list[Any] = []
    token = ""
    while True:
        answer = await request_page(token)
        items += getattr(answer, name)
        if not answer.next_page_token or answer.next_page_token == token:
            return items
        token = answer.next_page_token


async def _key_list(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options

    def page(token: str) -> Awaitable[Any]:
        return client.call(client.keys.ListKeys, v1.ListKeysRequest(page_token=token))

    return show.keys(await _pages(page, "keys"))


async def _key_describe(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.DescribeKeyRequest(name=options.name)
    return show.keys([await client.call(client.keys.DescribeKey, request)])


async def _key_create(client: BrokerClient, options: Namespace) -> CommandOutput:
    if options.name == "":  # an unset variable of a script
        raise ConfigError("the name is empty: give a name, or none for a UUID")
    request = v1.CreateKeyRequest(name=options.name or "")
    key = await client.call(client.keys.CreateKey, request)
    return CommandOutput(show.message(key), show.cell(key.name))


async def _key_adopt(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.AdoptKeyRequest(path=options.resource)
    key = await client.call(client.keys.AdoptKey, request)
    return CommandOutput(show.message(key), show.cell(f"{key.name} is a key now"))


async def _key_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = upstream.GetKeyRequest(uuid=options.name.encode())
    answer = await client.call(client.upstream_keys.GetKey, request)
    key = answer.key.decode("ascii", "replace")
    return CommandOutput({"name": options.name, "key": key}, show.cell(key))


async def _key_delete(client: BrokerClient, options: Namespace) -> CommandOutput:
    await client.call(client.keys.DeleteKey, v1.DeleteKeyRequest(name=options.name))
    return show.confirmation(f"key {options.name} is deleted", name=options.name)


async def _keyring_list(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.gpg.listGpgKeys, upstream.ListGpgKeysRequest())
    text = answer.keys.decode(errors="replace").rstrip("\n")
    return CommandOutput({"keyring": text}, show.cell(text))


async def _keyring_import(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = upstream.ImportGpgKeyRequest(key=read(options.file))
    await client.call(client.gpg.importGpgKey, request)
    return show.confirmation("the keyring holds it")


async def _keyring_delete(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = upstream.DeleteGpgKeyRequest(keyid=options.key.encode())
    await client.call(client.gpg.deleteGpgKey, request)
    return show.confirmation(f"the keyring no longer holds {options.key}", key=options.key)


async def _keyring_export(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.gpg.exportGpgKeyring, upstream.ExportGpgKeyringRequest())
    return show.content("keyring.gpg", base64.b64decode(answer.content))


async def _image_policy_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    request = upstream.ExportImagePolicyRequest()
    answer = await client.call(client.upstream_images.exportImagePolicy, request)
    return show.content("policy.json", answer.content)


async def _image_policy_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.SetImagePolicyRequest(content=read(options.file), force=options.force)
    answer = await client.call(client.images.SetImagePolicy, request)
    return show.stored_content("the image policy is stored", answer)


async def _sigstore_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    request = upstream.ExportImageSigstoreRequest()
    answer = await client.call(client.upstream_images.exportImageSigstore, request)
    return show.content("sigstore.yaml", answer.content)


async def _sigstore_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    answer = await _set_resource(client, SIGSTORE, options)
    return show.stored_content("the lookaside configuration is stored", answer)


async def _cosign_key_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.images.GetCosignKey, v1.GetCosignKeyRequest())
    return show.content("cosign.key", answer.content)


async def _cosign_key_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.SetCosignKeyRequest(content=read(options.file), force=options.force)
    answer = await client.call(client.images.SetCosignKey, request)
    return show.stored_content("the cosign key is stored", answer)


async def _credential_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.images.GetCredential, v1.GetCredentialRequest())
    return show.content("auth.json", answer.content)


async def _credential_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    converted = contents.convert_credential(read(options.file))
    request = v1.SetCredentialRequest(content=converted.content, force=options.force)
    answer = await client.call(client.images.SetCredential, request)
    return show.stored_content("the credential is stored", answer, converted=converted.what)


async def _resource_list(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options

    def page(token: str) -> Awaitable[Any]:
        request = v1.ListResourcesRequest(page_token=token)
        return client.call(client.resources.ListResources, request)

    return show.resources(await _pages(page, "resources"))


async def _resource_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = upstream.GetResourceRequest(resource_id=options.resource)
    answer = await client.call(client.upstream_resources.GetResource, request)
    return show.content(options.resource, answer.content)


async def _resource_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    answer = await _set_resource(client, options.resource, options)
    return show.stored_content(f"{options.resource} is set", answer, resource=options.resource)


async def _set_resource(
    client: BrokerClient, path: str, options: Namespace
) -> v1.SetResourceResponse:
    content = read(options.file)
    request = v1.SetResourceRequest(path=path, content=content, force=options.force)
    answer: v1.SetResourceResponse = await client.call(client.resources.SetResource, request)
    return answer


async def _resource_delete(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.DeleteResourceRequest(path=options.resource)
    await client.call(client.resources.DeleteResource, request)
    return show.confirmation(f"{options.resource} is deleted", resource=options.resource)


_RESOURCE: Final[Arguments] = {"resource": {"metavar": "RESOURCE"}}
_CONTENT: Final[Arguments] = {
    **FILE,
    "--force": {"action": "store_true", "help": "store it although no guest can use it"},
}

COMMANDS: Final = (
    Command("key list", "keys, without their bytes", _key_list),
    Command("key describe", "one key, without its bytes", _key_describe, NAME),
    Command(
        "key create",
        "a new random key; its default name is a UUID",
        _key_create,
        {"name": {"metavar": "NAME", "nargs": "?"}},
    ),
    Command(
        "key adopt",
        "make a resource of 32 bytes a key of the same name, to wrap images with",
        _key_adopt,
        _RESOURCE,
    ),
    Command("key show", "a key's bytes in base64 (role admin)", _key_show, NAME),
    Command(
        "key delete",
        "delete a key; what it wrapped can never be decrypted again",
        _key_delete,
        NAME,
    ),
    Command("image-policy show", "the image policy", _image_policy_show),
    Command(
        "image-policy set",
        "check and store the image policy",
        _image_policy_set,
        _CONTENT,
    ),
    Command("sigstore show", "the lookaside configuration", _sigstore_show),
    Command("sigstore set", "check and store the lookaside file", _sigstore_set, _CONTENT),
    Command("cosign-key show", "the public key of image signatures", _cosign_key_show),
    Command("cosign-key set", "check and store cosign.pub", _cosign_key_set, _CONTENT),
    Command("credential show", "the registry credential, a secret", _credential_show),
    Command(
        "credential set",
        "check and store an auth.json; convert other forms if nothing is lost",
        _credential_set,
        _CONTENT,
    ),
    Command("keyring list", "the OpenPGP certificates", _keyring_list),
    Command("keyring import", "add certificates", _keyring_import, FILE),
    Command(
        "keyring delete", "delete a certificate", _keyring_delete, {"key": {"metavar": "KEY_ID"}}
    ),
    Command("keyring export", "the keyring, binary", _keyring_export),
    Command("resource list", "resources, without their contents", _resource_list),
    Command("resource show", "a resource's content", _resource_show, _RESOURCE),
    Command("resource set", "store a resource", _resource_set, {**_RESOURCE, **_CONTENT}),
    Command("resource delete", "delete a resource", _resource_delete, _RESOURCE),
)
