"""Collateral from Intel's Provisioning Certification Service, or from a PCCS that caches it.

This module defines the requests and reads the answers. The caller provides the HTTP client and
the check of the answers (`check`): an answer that does not verify counts as none.

Sources: Intel "API documentation of the Provisioning Certification Service", version 4;
"Design Guide for Intel SGX PCCS" for `rootcacrl`, which Intel itself does not serve.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
from email.utils import parsedate_to_datetime
from hmac import compare_digest
from typing import Final, Literal
from urllib.parse import urlencode, urlsplit

from cryptography import x509

from verdictd_py.errors import AttestationError, CollateralUnavailable, VerdictdError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.ports.tees import HttpAnswer, HttpGet
from verdictd_py.tees.intel.chains import UNUSABLE, key_digest, load_chain
from verdictd_py.tees.intel.collateral.answers import crl, header, signed
from verdictd_py.tees.intel.collateral.check import Validity
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.dcap import CollateralRejected
from verdictd_py.tees.intel.quote import SGX, TDX

MAX_ANSWER_BYTES: Final = 1024 * 1024
"""Maximum size of an answer. TCB info has about 20 KiB, the CRL of a generation below 200 KiB."""

MAX_RETRY_AFTER_SECONDS: Final = 3600.0
"""Longest pause that a service can request."""

_BUSY: Final = (429, 503)
_TCB_CHAINS: Final = ("TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain")
_CRL_CHAIN: Final = "SGX-PCK-CRL-Issuer-Chain"
_QE_CHAIN: Final = "SGX-Enclave-Identity-Issuer-Chain"
_SERVED: Final = (TDX, SGX)
_COMMON_PATHS: Final = ("/sgx/certification/v4", "/tdx/certification/v4")
_PCK_CRL, _ROOT_CRL = "PCK CRL", "root CA CRL"
_TCB_INFO, _QE_IDENTITY = "TCB info", "QE identity"

Update = Literal["standard", "early"]


Check = Callable[[Collateral], Validity]
"""Verifier of a service's answer. It raises `AttestationError` or `CollateralUnavailable` if the
answer cannot be used."""


class ServiceBusy(CollateralUnavailable):
    """A service requests a pause (`Retry-After`).

    Attributes:
        seconds: the rest of the pause.
    """

    def __init__(self, message: str, seconds: float) -> None:
        super().__init__(message)
        self.seconds = seconds


class Pcs:
    """Client that fetches collateral from the first of several services that has it.

    Args:
        get: the HTTP client.
        base_urls: URLs, `https://pccs.example:8081`; the common path `/sgx/certification/v4/`, with
            which PCCS's own configuration files name a service, may follow.
        root_key: SHA-256 of the trusted root's SubjectPublicKeyInfo. Only that root may name
            the address of its revocation list: a malicious service must not choose which
            addresses the broker requests.
        update: which TCB recovery to fetch; Intel publishes the `early` one sooner.
        monotonic: monotonic clock in seconds, for pauses that a service requests.
    """

    def __init__(
        self,
        get: HttpGet,
        base_urls: tuple[str, ...],
        *,
        root_key: bytes,
        update: Update = "standard",
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._get = get
        self._base_urls = tuple(map(_base_url, base_urls))
        self._root_key = root_key
        self._update = update
        self._monotonic = monotonic
        self._busy_until: dict[str, float] = {}

    async def fetch(self, request: CollateralRequest, check: Check) -> tuple[Collateral, Validity]:
        """Fetch collateral for a platform type from the first service whose answer verifies.

        Raises:
            CollateralRejected: no service has it, and the answer of one did not verify.
            ServiceBusy: every service has requested a pause.
            CollateralUnavailable: no service has it now; the text has the reason of each.
        """
        problems: list[str] = []
        pauses: list[float] = []
        failure: type[VerdictdError] = CollateralUnavailable
        for base in self._base_urls:
            try:
                collateral = await self._unless_busy(base, request)
            except ServiceBusy as error:
                problems.append(str(error))
                pauses.append(error.seconds)
                continue
            except CollateralUnavailable as error:
                problems.append(str(error))
                continue
            try:
                return collateral, check(collateral)
            except (AttestationError, CollateralUnavailable) as error:
                problems.append(f"{_without_password(base)}: {error}")
                if isinstance(error, AttestationError):
                    failure = CollateralRejected
        text = "; ".join(problems) or "no collateral service is set"
        if pauses and len(pauses) == len(self._base_urls):
            raise ServiceBusy(text, min(pauses))
        raise failure(text)

    async def _unless_busy(self, base: str, request: CollateralRequest) -> Collateral:
        """Fetch from one service, unless the pause that it requested is not over.

        Raises:
            ServiceBusy: it has requested a pause, now or before.
        """
        remaining = self._busy_until.get(base, 0) - self._monotonic()
        if base in self._busy_until and remaining > 0:
            text = f"{_without_password(base)}: it requested a pause, {remaining:.0f} s remain"
            raise ServiceBusy(text, remaining)
        try:
            return await self._fetch(base, request)
        except ServiceBusy as error:
            self._busy_until[base] = self._monotonic() + error.seconds
            raise

    async def _fetch(self, base: str, request: CollateralRequest) -> Collateral:
        """Fetch the PCK CRL, TCB info, QE identity and the root CRL, all at the same time.

        Only the root CRL of Intel's own service needs a second request, after the PCK CRL.
        """
        if request.tee not in _SERVED:
            name = _without_password(base)
            raise CollateralUnavailable(f"{name}: it has no collateral for {request.tee}")
        sgx = f"{base}/sgx/certification/v4"
        own = f"{base}/{request.tee}/certification/v4"
        update = {} if self._update == "standard" else {"update": self._update}
        crl_url = f"{sgx}/pckcrl?{urlencode({'ca': request.ca, 'encoding': 'der'})}"
        tcb_url = f"{own}/tcb?{urlencode({'fmspc': request.fmspc, **update})}"
        qe_url = f"{own}/qe/identity?{urlencode(update)}".rstrip("?")
        root_url = f"{sgx}/rootcacrl"
        pck, tcb, qe, root = await _concurrently(
            self._ok(_PCK_CRL, crl_url),
            self._ok(_TCB_INFO, tcb_url),
            self._ok(_QE_IDENTITY, qe_url),
            self._answer(_ROOT_CRL, root_url),
        )
        with _about(_TCB_INFO, tcb_url):
            tcb_info, tcb_info_signature = signed(tcb.body, "tcbInfo")
            tcb_info_chain = header(tcb, *_TCB_CHAINS)
        with _about(_QE_IDENTITY, qe_url):
            qe_identity, qe_identity_signature = signed(qe.body, "enclaveIdentity")
            qe_identity_chain = header(qe, _QE_CHAIN)
        with _about(_PCK_CRL, crl_url):
            pck_crl, chain = crl(pck.body), header(pck, _CRL_CHAIN)
            root_point = "" if root.status == 200 else _distribution_point(chain, self._root_key)
        if root_point:
            root_url, root = root_point, await self._ok(_ROOT_CRL, root_point)
        with _about(_ROOT_CRL, root_url):
            root_crl = crl(root.body)
        return Collateral(
            pck_crl_issuer_chain=chain,
            root_ca_crl=root_crl,
            pck_crl=pck_crl,
            tcb_info_issuer_chain=tcb_info_chain,
            tcb_info=tcb_info,
            tcb_info_signature=tcb_info_signature,
            qe_identity_issuer_chain=qe_identity_chain,
            qe_identity=qe_identity,
            qe_identity_signature=qe_identity_signature,
        )

    async def _ok(self, document: str, url: str) -> HttpAnswer:
        answer = await self._answer(document, url)
        with _about(document, url):
            if answer.status != 200:
                raise CollateralUnavailable(f"HTTP status {answer.status}")
        return answer

    async def _answer(self, document: str, url: str) -> HttpAnswer:
        """GET a URL.

        Raises:
            CollateralUnavailable: there is no answer.
            ServiceBusy: the service requests a pause.
        """
        with _about(document, url):
            answer = await self._get(url)
            if answer.status in _BUSY and (seconds := retry_after(answer.headers)) > 0:
                pause = f"the service requests a pause of {seconds:.0f} s"
                raise ServiceBusy(f"HTTP status {answer.status}, {pause}", seconds)
        return answer


@contextmanager
def _about(document: str, url: str) -> Iterator[None]:
    """Add document and URL to the text of an error.

    Raises:
        CollateralUnavailable: the error.
    """
    try:
        yield
    except ServiceBusy as error:
        text = f"{document} from {_without_password(url)}: {error}"
        raise ServiceBusy(text, error.seconds) from error.__cause__
    except CollateralUnavailable as error:
        text = f"{document} from {_without_password(url)}: {error}"
        raise CollateralUnavailable(text) from error.__cause__


def _base_url(url: str) -> str:
    """Return a service's URL without the common path."""
    base = url.rstrip("/")
    for path in _COMMON_PATHS:
        base = base.removesuffix(path)
    return base.rstrip("/")


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the pause in seconds that an answer requests; 0 if it requests none.

    A date is relative to the service's own clock, which is in the same answer.

    Args:
        headers: names in lower case.

    Returns:
        At most `MAX_RETRY_AFTER_SECONDS`: a service must not stop fetches for longer.
    """
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), MAX_RETRY_AFTER_SECONDS)
    try:
        until = parsedate_to_datetime(text)
        seconds = (until - parsedate_to_datetime(headers.get("date", ""))).total_seconds()
    except (TypeError, ValueError):  # no date, or one of both without a time zone
        return 0
    return min(max(seconds, 0), MAX_RETRY_AFTER_SECONDS)


async def _concurrently(*requests: Coroutine[None, None, HttpAnswer]) -> list[HttpAnswer]:
    """Await all requests at the same time; the first failure cancels the others.

    Raises:
        CollateralUnavailable: one of them failed.
    """
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(request) for request in requests]
    except BaseExceptionGroup as failed:
        busy = (error for error in failed.exceptions if isinstance(error, ServiceBusy))
        raise next(busy, failed.exceptions[0]) from None
    return [task.result() for task in tasks]


def _without_password(url: str) -> str:
    """Return a URL without the user name and password that it may contain, for logs."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _distribution_point(chain: str, root_key: bytes) -> str:
    """Return the address of the root's CRL from the certificate of the trusted root.

    Comparing its key is not enough, because an attacker can put a known public key into another
    certificate. The root must therefore also have signed its own certificate.
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
