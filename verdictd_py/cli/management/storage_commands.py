"""Commands for what the broker stores: keys, resources, image files, keyring."""

from __future__ import annotations

import base64
from argparse import Namespace
from collections.abc import Awaitable, Callable
from typing import Any, Final

from verdictd_py._generated import clientapi_pb2 as upstream
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.cli.management import consent, names, storedviews
from verdictd_py.cli.management.client import BrokerClient, read
from verdictd_py.cli.management.command import FILE, NAME, YES, Arguments, Command
from verdictd_py.cli.output.result import CommandOutput
from verdictd_py.domain.names import LEGACY_RESOURCES
from verdictd_py.errors import ConfigError
from verdictd_py.formats import contents

SIGSTORE: Final = str(LEGACY_RESOURCES["Sigstore Config"])
IMAGE_POLICY: Final = str(LEGACY_RESOURCES["Policy"])
COSIGN_KEY: Final = str(LEGACY_RESOURCES["Cosign Key"])
CREDENTIAL: Final = str(LEGACY_RESOURCES["Credential"])


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

    return storedviews.keys(await _pages(page, "keys"))


async def _key_describe(client: BrokerClient, options: Namespace) -> CommandOutput:
    def describe(name: str) -> Awaitable[Any]:
        return client.call(client.keys.DescribeKey, v1.DescribeKeyRequest(name=name))

    _, key = await names.reading(client, options.name, names.keys, "keys", describe)
    return storedviews.key(key)


async def _key_create(client: BrokerClient, options: Namespace) -> CommandOutput:
    if options.name == "":  # an unset variable of a script
        raise ConfigError("the name is empty: give a name, or none for a UUID")
    request = v1.CreateKeyRequest(name=options.name or "")
    key = await client.call(client.keys.CreateKey, request)
    return storedviews.key(key, key.name)


async def _key_adopt(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.AdoptKeyRequest(path=options.resource)
    key = await client.call(client.keys.AdoptKey, request)
    return storedviews.key(key, f"{key.name} is a key now")


async def _key_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    def get(name: str) -> Awaitable[Any]:
        return client.call(client.upstream_keys.GetKey, upstream.GetKeyRequest(uuid=name.encode()))

    name, answer = await names.reading(client, options.name, names.keys, "keys", get)
    return storedviews.key_bytes(name, answer.key.decode("ascii", "replace"))


async def _key_delete(client: BrokerClient, options: Namespace) -> CommandOutput:
    named = await names.find(client, options.name, names.keys, "keys")
    question = f"Delete the key {named.name}? What it wrapped can never be decrypted again."
    if not await consent.consented(options, named, question):
        return consent.declined(named.name)
    await client.call(client.keys.DeleteKey, v1.DeleteKeyRequest(name=named.name))
    return storedviews.confirmation(f"key {named.name} is deleted", named.name)


async def _keyring_list(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.gpg.listGpgKeys, upstream.ListGpgKeysRequest())
    listing = answer.keys.decode(errors="replace").rstrip("\n")
    return storedviews.keyring(listing, names.fingerprints(listing))


async def _keyring_import(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = upstream.ImportGpgKeyRequest(key=read(options.file))
    await client.call(client.gpg.importGpgKey, request)
    return storedviews.confirmation("the keyring holds it")


async def _keyring_delete(client: BrokerClient, options: Namespace) -> CommandOutput:
    named = await names.find(client, options.key, names.certificates, "certificates")
    if not await consent.consented(options, named, f"Delete the certificate {named.name}?"):
        return consent.declined(named.name)
    request = upstream.DeleteGpgKeyRequest(keyid=named.name.encode())
    await client.call(client.gpg.deleteGpgKey, request)
    return storedviews.confirmation(f"the keyring no longer holds {named.name}", named.name)


async def _keyring_export(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.gpg.exportGpgKeyring, upstream.ExportGpgKeyringRequest())
    return storedviews.content("keyring.gpg", base64.b64decode(answer.content))


async def _image_policy_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    request = upstream.ExportImagePolicyRequest()
    answer = await client.call(client.upstream_images.exportImagePolicy, request)
    return storedviews.content("policy.json", answer.content)


async def _image_policy_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.SetImagePolicyRequest(content=read(options.file), force=options.force)
    answer = await client.call(client.images.SetImagePolicy, request)
    return storedviews.stored_content("the image policy is stored", answer, IMAGE_POLICY)


async def _sigstore_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    request = upstream.ExportImageSigstoreRequest()
    answer = await client.call(client.upstream_images.exportImageSigstore, request)
    return storedviews.content("sigstore.yaml", answer.content)


async def _sigstore_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    answer = await _set_resource(client, SIGSTORE, options)
    return storedviews.stored_content("the lookaside configuration is stored", answer, SIGSTORE)


async def _cosign_key_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.images.GetCosignKey, v1.GetCosignKeyRequest())
    return storedviews.content("cosign.key", answer.content)


async def _cosign_key_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    request = v1.SetCosignKeyRequest(content=read(options.file), force=options.force)
    answer = await client.call(client.images.SetCosignKey, request)
    return storedviews.stored_content("the cosign key is stored", answer, COSIGN_KEY)


async def _credential_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options
    answer = await client.call(client.images.GetCredential, v1.GetCredentialRequest())
    return storedviews.content("auth.json", answer.content)


async def _credential_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    converted = contents.convert_credential(read(options.file))
    request = v1.SetCredentialRequest(content=converted.content, force=options.force)
    answer = await client.call(client.images.SetCredential, request)
    return storedviews.stored_content(
        "the credential is stored", answer, CREDENTIAL, converted=converted.what
    )


async def _resource_list(client: BrokerClient, options: Namespace) -> CommandOutput:
    del options

    def page(token: str) -> Awaitable[Any]:
        request = v1.ListResourcesRequest(page_token=token)
        return client.call(client.resources.ListResources, request)

    return storedviews.resources(await _pages(page, "resources"))


async def _resource_show(client: BrokerClient, options: Namespace) -> CommandOutput:
    def get(path: str) -> Awaitable[Any]:
        request = upstream.GetResourceRequest(resource_id=path)
        return client.call(client.upstream_resources.GetResource, request)

    path, answer = await names.reading(client, options.resource, names.resources, "resources", get)
    return storedviews.content(path, answer.content)


async def _resource_set(client: BrokerClient, options: Namespace) -> CommandOutput:
    answer = await _set_resource(client, options.resource, options)
    return storedviews.stored_content(f"{options.resource} is set", answer, options.resource)


async def _set_resource(
    client: BrokerClient, path: str, options: Namespace
) -> v1.SetResourceResponse:
    content = read(options.file)
    request = v1.SetResourceRequest(path=path, content=content, force=options.force)
    answer: v1.SetResourceResponse = await client.call(client.resources.SetResource, request)
    return answer


async def _resource_delete(client: BrokerClient, options: Namespace) -> CommandOutput:
    named = await names.find(client, options.resource, names.resources, "resources")
    if not await consent.consented(options, named, f"Delete the resource {named.name}?"):
        return consent.declined(named.name)
    request = v1.DeleteResourceRequest(path=named.name)
    await client.call(client.resources.DeleteResource, request)
    return storedviews.confirmation(f"{named.name} is deleted", named.name)


_RESOURCE: Final[Arguments] = {"resource": {"metavar": "RESOURCE"}}
_CONTENT: Final[Arguments] = {
    **FILE,
    "--force": {"action": "store_true", "help": "store it although no guest can use it"},
}

_CONTENT_KIND: Final = ("content",)
_STORED: Final = ("stored-content",)

COMMANDS: Final = (
    Command(
        "key list",
        "keys, without their bytes",
        _key_list,
        writes=("key-list",),
        watchable=True,
    ),
    Command("key describe", "one key, without its bytes", _key_describe, NAME, ("key",)),
    Command(
        "key create",
        "a new random key; its default name is a UUID",
        _key_create,
        {"name": {"metavar": "NAME", "nargs": "?"}},
        ("key",),
    ),
    Command(
        "key adopt",
        "make a resource of 32 bytes a key of the same name, to wrap images with",
        _key_adopt,
        _RESOURCE,
        ("key",),
    ),
    Command("key show", "a key's bytes in base64 (role admin)", _key_show, NAME, ("key-bytes",)),
    Command(
        "key delete",
        "delete a key; what it wrapped can never be decrypted again",
        _key_delete,
        {**NAME, **YES},
        ("done",),
    ),
    Command("image-policy show", "the image policy", _image_policy_show, writes=_CONTENT_KIND),
    Command(
        "image-policy set",
        "check and store the image policy",
        _image_policy_set,
        _CONTENT,
        _STORED,
    ),
    Command("sigstore show", "the lookaside configuration", _sigstore_show, writes=_CONTENT_KIND),
    Command("sigstore set", "check and store the lookaside file", _sigstore_set, _CONTENT, _STORED),
    Command(
        "cosign-key show",
        "the public key of image signatures",
        _cosign_key_show,
        writes=_CONTENT_KIND,
    ),
    Command("cosign-key set", "check and store cosign.pub", _cosign_key_set, _CONTENT, _STORED),
    Command(
        "credential show",
        "the registry credential, a secret",
        _credential_show,
        writes=_CONTENT_KIND,
    ),
    Command(
        "credential set",
        "check and store an auth.json; convert other forms if nothing is lost",
        _credential_set,
        _CONTENT,
        _STORED,
    ),
    Command("keyring list", "the OpenPGP certificates", _keyring_list, writes=("keyring",)),
    Command("keyring import", "add certificates", _keyring_import, FILE, ("done",)),
    Command(
        "keyring delete",
        "delete a certificate",
        _keyring_delete,
        {"key": {"metavar": "KEY_ID"}, **YES},
        ("done",),
    ),
    Command("keyring export", "the keyring, binary", _keyring_export, writes=_CONTENT_KIND),
    Command(
        "resource list",
        "resources, without their contents",
        _resource_list,
        writes=("resource-list",),
        watchable=True,
    ),
    Command("resource show", "a resource's content", _resource_show, _RESOURCE, _CONTENT_KIND),
    Command("resource set", "store a resource", _resource_set, {**_RESOURCE, **_CONTENT}, _STORED),
    Command(
        "resource delete", "delete a resource", _resource_delete, {**_RESOURCE, **YES}, ("done",)
    ),
)
