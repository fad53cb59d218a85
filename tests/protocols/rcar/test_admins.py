"""Administrators over HTTP: only tokens of configured keys, with the rights of the key."""

from __future__ import annotations

import hmac
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tests.support.rcar import NOW, POLICY, attested, b64url, tokens
from verdictd_py.domain.callers import Right
from verdictd_py.errors import NotAuthorized, TokenInvalid, TokenNotValidNow, VerdictdError
from verdictd_py.protocols.rcar import admins, jose
from verdictd_py.protocols.rcar.admins import Administrator, AdminKey, AdminKeys, Role

ED = ed25519.Ed25519PrivateKey.generate()
P256 = ec.generate_private_key(ec.SECP256R1())
OTHER = ed25519.Ed25519PrivateKey.generate()
BEGINS = int(NOW.timestamp())
EVERYTHING = frozenset(Role)


def token(key: Any = ED, *, header: dict[str, Any] | None = None, **said: Any) -> str:
    """Return a token as kbs-client and coco_keyprovider create it; `...` omits a claim."""
    claims = {"iat": BEGINS, "nbf": BEGINS, "exp": BEGINS + 7200, **said}
    claims = {name: value for name, value in claims.items() if value is not ...}
    algorithm = "EdDSA" if isinstance(key, ed25519.Ed25519PrivateKey) else "ES256"
    head = {"alg": algorithm, "typ": "JWT", **(header or {})}
    text = ".".join(b64url(json.dumps(part).encode()) for part in (head, claims))
    return f"{text}.{b64url(_signature(key, text.encode()))}"


def _signature(key: Any, text: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(text)
    r, s = decode_dss_signature(key.sign(text, ec.ECDSA(hashes.SHA256())))
    return r.to_bytes(32) + s.to_bytes(32)


def keys(
    *,
    key: Any = ED,
    roles: frozenset[Role] = EVERYTHING,
    default: Role | None = None,
    prefix: str = "",
) -> AdminKeys:
    return AdminKeys((AdminKey("ops", key.public_key(), roles, default, prefix),))


def admin(text: str | None, known: AdminKeys | None = None) -> Administrator:
    return (known or keys()).authenticate(text, now=NOW)


def refused(text: str | None, known: AdminKeys | None = None) -> VerdictdError:
    with pytest.raises((TokenInvalid, NotAuthorized)) as caught:
        admin(text, known)
    return caught.value


@pytest.mark.parametrize("key", [ED, P256], ids=["Ed25519", "P-256"])
@pytest.mark.parametrize("role", Role)
def test_a_token_of_a_configured_key_is_accepted(key: Any, role: Role) -> None:
    found = admin(token(key, role=role.value), keys(key=key))
    assert (found.role, found.prefix) == (role, "")
    assert found.caller.name == "kbs admin ops"
    assert found.caller.rights == frozenset({Right.MANAGE})


@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
def test_both_names_of_the_ed25519_algorithm_are_accepted(algorithm: str) -> None:
    """RFC 9864 renamed EdDSA to Ed25519."""
    assert admin(token(header={"alg": algorithm}, role="admin")).role is Role.ADMIN


def test_without_configured_keys_every_token_is_refused() -> None:
    for text in (None, "", token(role="admin"), token()):
        error = refused(text, AdminKeys())
        assert isinstance(error, NotAuthorized)
        assert "off" in str(error)


def test_a_request_without_a_token_is_refused() -> None:
    assert isinstance(refused(None), TokenInvalid)
    assert isinstance(refused(""), TokenInvalid)


ROLES = [
    # what the key may give, its default, what the token says; the role, or None for a refusal
    *((EVERYTHING, None, role.value, role) for role in Role),
    *((frozenset({Role.OPERATOR}), None, role.value, None) for role in (Role.ADMIN, Role.REGISTER)),
    (frozenset({Role.OPERATOR}), None, "operator", Role.OPERATOR),
    (frozenset({Role.OPERATOR}), Role.REGISTER, ..., Role.REGISTER),
    (frozenset({Role.OPERATOR}), Role.REGISTER, "register", None),  # only where none is said
    (frozenset(), Role.REGISTER, ..., Role.REGISTER),
    (frozenset(), Role.REGISTER, "admin", None),
    (frozenset(), Role.REGISTER, "operator", None),
    (EVERYTHING, None, ..., None),
    (EVERYTHING, None, None, None),
    (EVERYTHING, Role.ADMIN, "root", None),  # never the default for a role that there is not
    (EVERYTHING, Role.ADMIN, "", None),
    (EVERYTHING, Role.ADMIN, "Admin", None),
    (EVERYTHING, Role.ADMIN, "admin ", None),
    (EVERYTHING, Role.ADMIN, ["admin"], None),
    (EVERYTHING, Role.ADMIN, [], None),
    (EVERYTHING, Role.ADMIN, {"admin": True}, None),
    (EVERYTHING, Role.ADMIN, True, None),
    (EVERYTHING, Role.ADMIN, 0, None),
]


@pytest.mark.parametrize(("roles", "default", "said", "expected"), ROLES)
def test_the_role_of_a_token_is_limited_by_its_key(
    roles: frozenset[Role], default: Role | None, said: object, expected: Role | None
) -> None:
    text = token(role=said)
    known = keys(roles=roles, default=default)
    if expected is None:
        assert isinstance(refused(text, known), NotAuthorized)
    else:
        assert admin(text, known).role is expected


def test_each_role_has_its_rights() -> None:
    for role, policies, sets, deletes in (
        (Role.REGISTER, False, True, False),
        (Role.OPERATOR, False, True, True),
        (Role.ADMIN, True, True, True),
    ):
        found = admin(token(role=role.value))
        for may, ask in (
            (policies, found.require_policies),
            (sets, lambda found=found: found.require_resource("a/b/c")),
            (deletes, lambda found=found: found.require_resource("a/b/c", deleting=True)),
        ):
            if may:
                assert ask() == found.caller
            else:
                with pytest.raises(NotAuthorized, match="kbs admin ops"):
                    ask()


@pytest.mark.parametrize("role", Role)
def test_a_prefix_limits_the_resources(role: Role) -> None:
    """A key with a prefix sets no policies, because a policy could release every path."""
    found = admin(token(role=role.value), keys(prefix="default/kek/"))
    assert found.require_resource("default/kek/1")
    for path in (
        "default/key/1",
        "default/kekx/1",
        "default/kek",
        "x/default/kek/1",
        "",
        "Default/kek/1",
    ):
        with pytest.raises(NotAuthorized, match=f"below default/kek/, not {path}$"):
            found.require_resource(path)
    with pytest.raises(NotAuthorized):
        found.require_policies()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"exp": BEGINS}, "expired"),
        ({"exp": BEGINS - 1}, "expired"),
        ({"exp": BEGINS + 0.5}, None),
        ({"exp": ...}, "no exp"),
        ({"exp": None}, "no exp"),
        ({"exp": str(BEGINS + 60)}, "not a valid time"),
        ({"exp": float("inf")}, "not a valid time"),
        ({"exp": float("nan")}, "not a valid time"),
        ({"exp": 10**400}, "not a valid time"),
        ({"nbf": BEGINS + 60}, None),  # clocks differ, and tools say the second they run in
        ({"nbf": BEGINS + 61}, "not valid yet"),
        ({"iat": BEGINS + 60}, None),
        ({"iat": BEGINS + 61}, "not valid yet"),
        ({"nbf": ..., "iat": ...}, None),
        ({"exp": BEGINS + 315_360_000}, None),  # upstream's own example: ten years
    ],
)
def test_a_token_is_accepted_during_its_validity_only(
    said: dict[str, Any], told: str | None
) -> None:
    text = token(role="admin", **said)
    if told is None:
        assert admin(text).role is Role.ADMIN
    else:
        error = refused(text)
        assert isinstance(error, TokenInvalid)
        assert told in str(error)


def test_the_leeway_does_not_apply_to_the_expiry() -> None:
    text = token(role="admin", exp=BEGINS + 10)
    with pytest.raises(TokenInvalid, match="expired"):
        keys().authenticate(text, now=NOW + timedelta(seconds=10))


@pytest.mark.parametrize("key", [ED, P256])
@pytest.mark.parametrize("role", [None, *Role])
def test_an_issued_token_has_its_role_until_it_expires(key: Any, role: Role | None) -> None:
    lifetime = timedelta(minutes=3)
    text = admins.token(key, role=role, now=NOW, lifetime=lifetime)
    known = keys(key=key, default=Role.REGISTER)
    assert admin(text, known).role is (role or Role.REGISTER)
    claims = jose.verify(text, key.public_key(), now=NOW)
    assert (claims["iat"], claims["exp"]) == (BEGINS, BEGINS + 180)
    with pytest.raises(TokenNotValidNow):
        known.authenticate(text, now=NOW + lifetime)


def test_tokens_of_other_keys_are_refused() -> None:
    """The header of a token cannot select the key that verifies it."""
    own = jose.public_jwk(OTHER.public_key())
    for header in (
        {},
        {"jwk": own},
        {"kid": jose.public_jwk(ED.public_key())["kid"]},
        {"jku": "https://example.com"},
    ):
        error = refused(token(OTHER, role="admin", header=header))
        assert isinstance(error, TokenInvalid)
        assert "not signed by a trusted key" in str(error)
    assert isinstance(refused(token(P256, role="admin")), TokenInvalid)


def test_other_algorithms_are_refused() -> None:
    claims = {"exp": BEGINS + 60, "role": "admin"}
    public = json.dumps(jose.public_jwk(ED.public_key())).encode()
    text = ".".join(b64url(json.dumps(part).encode()) for part in ({"alg": "HS256"}, claims))
    mac = f"{text}.{b64url(hmac.digest(public, text.encode(), 'sha256'))}"
    head = b64url(b'{"alg":"none"}')
    none = f"{head}.{b64url(json.dumps(claims).encode())}."
    for text in (mac, none, none + "AA", token(role="admin").rpartition(".")[0] + "."):
        for known in (keys(), keys(key=P256)):
            assert isinstance(refused(text, known), TokenInvalid)


def test_each_key_has_its_own_rights() -> None:
    """A key with the role register does not get the rights of another key."""
    register = AdminKey("coco", OTHER.public_key(), frozenset(), Role.REGISTER, "default/kek/")
    known = AdminKeys((register, *keys().keys))
    found = admin(token(OTHER), known)
    assert (found.caller.name, found.role, found.prefix) == (
        "kbs admin coco",
        Role.REGISTER,
        "default/kek/",
    )
    assert isinstance(refused(token(OTHER, role="admin"), known), NotAuthorized)
    assert admin(token(role="admin"), known).caller.name == "kbs admin ops"
    # An expired token is reported as such, in whatever order the keys are tried.
    for order in (known, AdminKeys(known.keys[::-1])):
        assert "expired" in str(refused(token(OTHER, exp=BEGINS), order))
        assert "expired" in str(refused(token(exp=BEGINS), order))


def test_an_attestation_token_is_not_an_administrators() -> None:
    """It is refused even if one key signs both, and tokens without a role have a default one."""
    made = tokens().issue(attested(), now=NOW, policy=POLICY).token
    assert isinstance(refused(made), TokenInvalid)
    public = tokens().key.public_key()
    for default in (None, Role.ADMIN):
        both = AdminKeys((AdminKey("ops", public, frozenset({Role.ADMIN}), default),))
        assert isinstance(refused(made, both), NotAuthorized)
        assert admin(token(tokens().key, role="admin"), both).role is Role.ADMIN


def test_an_administrators_token_is_not_an_attestation_token() -> None:
    with pytest.raises(TokenInvalid):
        tokens().read(token(tokens().key, role="admin"), now=NOW)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()).public_key(), b"", None])
def test_unsupported_types_of_keys_are_refused(key: object) -> None:
    with pytest.raises(ValueError, match="neither Ed25519 nor P-256"):
        jose.require_verification_key(key)
    assert jose.require_verification_key(ED.public_key()) == ED.public_key()
    assert jose.require_verification_key(P256.public_key()) == P256.public_key()
