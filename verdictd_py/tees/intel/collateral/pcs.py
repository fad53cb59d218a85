"""Collateral from Intel's Provisioning Certification Service, or a PCCS that repeats it.

Only what to ask and how to read the answers; the HTTP client is given, and what verifies the
answers (`collateral_check`): a service whose answer does not verify has none.

Sources: Intel "API documentation of the Provisioning Certification Service", version 4;
"Design Guide for Intel SGX PCCS" for `rootcacrl`, which Intel itself does not serve.
"""

from __future__ import annotations

from collections.abc import Callable
from hmac import compare_digest
from typing import Final, Literal
from urllib.parse import unquote, urlencode, urlsplit

from cryptography import x509

from verdictd_py.errors import AttestationError, CollateralUnavailable, VerdictdError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.ports.tees import HttpAnswer, HttpGet
from verdictd_py.tees.intel.collateral.check import Validity
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.dcap import CollateralRejected
from verdictd_py.tees.intel.pck import UNUSABLE, key_digest, load_chain
from verdictd_py.tees.intel.quote import SGX, TDX

MAX_ANSWER_BYTES: Final = 1024 * 1024
"""TCB info is about 20 KiB, a CRL of a whole generation below 200 KiB."""

_TCB_CHAINS: Final = ("TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain")
_CRL_CHAIN: Final = "SGX-PCK-CRL-Issuer-Chain"
_QE_CHAIN: Final = "SGX-Enclave-Identity-Issuer-Chain"
_SERVED: Final = (TDX, SGX)

Update = Literal["standard", "early"]


Check = Callable[[Collateral], Validity]
"""Verifies what a service answered; `AttestationError` or `CollateralUnavailable` where it is
nothing to keep."""


class Pcs:
    """Fetches collateral from the first of several services that has it.

    Args:
        get: the HTTP client.
        base_urls: without the path that all share, `https://pccs.example:8081`.
        root_key: SHA-256 of the trusted root's SubjectPublicKeyInfo. Only that root may say
            where its revocation list is: a service that lies must not choose what we ask.
        update: which TCB recovery: Intel publishes it `early` for those who can update at once.
    """

    def __init__(
        self,
        get: HttpGet,
        base_urls: tuple[str, ...],
        *,
        root_key: bytes,
        update: Update = "standard",
    ) -> None:
        self._get = get
        self._base_urls = tuple(url.rstrip("/") for url in base_urls)
        self._root_key = root_key
        self._update = update

    async def fetch(self, request: CollateralRequest, check: Check) -> tuple[Collateral, Validity]:
        """Collateral for one platform type, of the first service whose answer `check` passes.

        Raises:
            CollateralRejected: none has it, and one answered what does not verify.
            CollateralUnavailable: no service has it now; what each said.
        """
        problems: list[str] = []
        failure: type[VerdictdError] = CollateralUnavailable
        for base in self._base_urls:
            try:
                collateral = await self._fetch(base, request)
                return collateral, check(collateral)
            except (AttestationError, CollateralUnavailable) as error:
                problems.append(f"{_without_password(base)}: {error}")
                if isinstance(error, AttestationError):
                    failure = CollateralRejected
        raise failure("; ".join(problems) or "no collateral service is set")

    async def _fetch(self, base: str, request: CollateralRequest) -> Collateral:
        """1. PCK CRL. 2. TCB info. 3. QE identity. 4. Root CRL."""
        if request.tee not in _SERVED:
            raise CollateralUnavailable(f"there is none for {request.tee}")
        sgx = f"{base}/sgx/certification/v4"
        own = f"{base}/{request.tee}/certification/v4"
        update = {} if self._update == "standard" else {"update": self._update}
        crl = await self._ok(  # 1
            f"{sgx}/pckcrl?{urlencode({'ca': request.ca, 'encoding': 'der'})}"
        )
        tcb = await self._ok(f"{own}/tcb?{urlencode({'fmspc': request.fmspc, **update})}")  # 2
        qe = await self._ok(f"{own}/qe/identity?{urlencode(update)}".rstrip("?"))  # 3
        tcb_info, tcb_info_signature = _signed(tcb.body, "tcbInfo")
        qe_identity, qe_identity_signature = _signed(qe.body, "enclaveIdentity")
        chain = _header(crl, _CRL_CHAIN)
        return Collateral(
            pck_crl_issuer_chain=chain,
            root_ca_crl=await self._root_crl(sgx, chain),  # 4
            pck_crl=crl.body,
            tcb_info_issuer_chain=_header(tcb, *_TCB_CHAINS),
            tcb_info=tcb_info,
            tcb_info_signature=tcb_info_signature,
            qe_identity_issuer_chain=_header(qe, _QE_CHAIN),
            qe_identity=qe_identity,
            qe_identity_signature=qe_identity_signature,
        )

    async def _root_crl(self, sgx: str, chain: str) -> bytes:
        """From the PCCS, or where the root certificate says (Intel's own service)."""
        answer = await self._get(f"{sgx}/rootcacrl")
        if answer.status == 200:
            return _hex_or_der(answer.body)
        return (await self._ok(_distribution_point(chain, self._root_key))).body

    async def _ok(self, url: str) -> HttpAnswer:
        answer = await self._get(url)
        if answer.status != 200:
            path = urlsplit(url)._replace(scheme="", netloc="").geturl()
            raise CollateralUnavailable(f"status {answer.status} for {path}")
        return answer


def _without_password(url: str) -> str:
    """A base URL for logs: it may hold a name and a password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _signed(body: bytes, member: str) -> tuple[str, bytes]:
    """The text that was signed, byte for byte, and its signature, out of their envelope.

    Decoding and encoding the JSON again would not give the same text.
    """
    try:
        text = body.decode("utf-8")
        start = text.index(f'"{member}":') + len(member) + 3
        end = text.rindex(',"signature":"')
        signature = text[end + len(',"signature":"') : text.rindex('"')]
        return text[start:end], bytes.fromhex(signature)
    except ValueError as error:  # UnicodeDecodeError among them
        raise CollateralUnavailable(f"the answer has no {member} with a signature") from error


def _header(answer: HttpAnswer, *names: str) -> str:
    for name in names:
        value = answer.headers.get(name.lower())
        if value:
            return unquote(value)
    raise CollateralUnavailable(f"the answer has no header {names[0]}")


def _hex_or_der(body: bytes) -> bytes:
    """A PCCS answers in hex; some in DER."""
    try:
        return bytes.fromhex(body.decode("ascii").strip().strip('"'))
    except ValueError:
        return body


def _distribution_point(chain: str, root_key: bytes) -> str:
    """Where the root's CRL is, said by the trusted root and nobody else.

    Its key alone would not do: anybody can write a certificate around a public key. So it
    must have signed itself too.
    """
    try:
        root = load_chain(chain.encode())[-1]
        if not compare_digest(key_digest(root), root_key):
            raise CollateralUnavailable("its issuer chain does not end at the trusted root")
        root.verify_directly_issued_by(root)
        points = root.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except UNUSABLE as error:
        raise CollateralUnavailable("its root certificate cannot be read") from error
    for name in (name.value for point in points for name in point.full_name or ()):
        if str(name).startswith(("https://", "http://")):
            return str(name)
    raise CollateralUnavailable("its root certificate does not say where its CRL is")
