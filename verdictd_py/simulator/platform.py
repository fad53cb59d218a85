"""The simulated platform: its keys, collateral and quotes."""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec

from verdictd_py.errors import ConfigError
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import pki, store, tdreport
from verdictd_py.simulator.collateral import (
    CURRENT_TEE_TCB_SVN,
    OLDER_TEE_TCB_SVN,
    PLATFORM_CPU_SVN,
    PLATFORM_PCE_SVN,
    RELAUNCH_STATUSES,
    qe_identity,
    tcb_info,
)
from verdictd_py.simulator.options import PlatformOptions
from verdictd_py.simulator.tdreport import QuotingEnclave, TdBody, TdMeasurements, TdxModule

CERTIFICATE_LIFETIME: Final = timedelta(days=30 * 365)
"""Lifetime of all certificates: longer than any test or demo."""

BACKDATE: Final = timedelta(days=1)
"""Time from notBefore of certificates and collateral to `now`: a verifier's clock may lag."""

_QE_AUTH_DATA: Final = bytes(range(32))  # 32 bytes are what verifiers of TDX quotes accept
_PCK_CHAIN: Final = 5  # certification data type: PEM chain (appendix A.3.9)
_QE_REPORT: Final = 6  # certification data type: QE report with its own certification data


_FORMAT: Final = 1  # of the saved document
_SIGNERS: Final = ("root", "pck_ca", "pck", "tcb_signer")  # fields, and members when saved


class Flaw(Enum):
    """Flaw of a quote whose platform is genuine."""

    CHANGED_AFTER_SIGNING = "one bit of RTMR1 changed after the quote was signed"
    WRONG_SIGNATURE = "signed by another key than the attestation key it names"
    FOREIGN_KEY = "names and is signed by an attestation key that the QE never reported"
    FORGED_QE_REPORT = "the QE's report is not signed by the platform's PCK"


@dataclass(frozen=True, slots=True)
class SimulatedPlatform:
    """A TDX machine in software, with a root of trust of its own.

    `create` generates one; `save` and `load` share it between processes. Its quotes verify
    with `collateral` and `root_ca_der`, and with no other root.
    """

    options: PlatformOptions
    root: pki.Signer = field(repr=False)
    pck_ca: pki.Signer = field(repr=False)
    pck: pki.Signer = field(repr=False)
    tcb_signer: pki.Signer = field(repr=False)
    attestation_key: ec.EllipticCurvePrivateKey = field(repr=False)
    identity: pki.PckIdentity = field(repr=False)

    @classmethod
    def create(cls, *, now: datetime, options: PlatformOptions | None = None) -> Self:
        """Generate a platform with random keys and certificates valid from a day before `now`.

        Args:
            now: aware time.
            options: default: those of an honest, up-to-date platform.
        """
        chosen = options or PlatformOptions()
        valid = pki.Validity(now - BACKDATE, now + CERTIFICATE_LIFETIME)
        identity = _identity(
            chosen, os.urandom(16), os.urandom(16) if chosen.ca == "platform" else None
        )
        root = pki.new_root(valid, chosen.root_crl_url)
        pck_ca = pki.new_pck_ca(root, chosen.ca, valid, chosen.root_crl_url)
        return cls(
            options=chosen,
            root=root,
            pck_ca=pck_ca,
            pck=pki.new_pck(pck_ca, identity, valid, chosen.pck_crl_url),
            tcb_signer=pki.new_tcb_signer(root, valid, chosen.root_crl_url),
            attestation_key=pki.new_key(),
            identity=identity,
        )

    def save(self, directory: Path) -> None:
        """Write keys and certificates, for `load` in other processes.

        The directory is created with mode 0700; the files in it have mode 0600.

        Raises:
            ConfigError: the directory cannot be written, or others can read it.
        """
        document = {
            "format": _FORMAT,
            "options": self.options.as_json(),
            "ppid": self.identity.ppid.hex(),
            "platform_instance_id": (self.identity.platform_instance_id or b"").hex(),
            "attestation_key": pki.key_to_pem(self.attestation_key),
            **{name: getattr(self, name).as_json() for name in _SIGNERS},
        }
        store.write(directory, document, self.root_ca_pem)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Load the platform that `save` wrote.

        Raises:
            ConfigError: it is missing, unreadable or malformed.
        """
        document = store.read(directory)
        try:
            if document["format"] != _FORMAT:
                raise ValueError
            options = PlatformOptions.from_json(document["options"])
            return cls(
                options=options,
                identity=_identity(
                    options,
                    bytes.fromhex(document["ppid"]),
                    bytes.fromhex(document["platform_instance_id"]) or None,
                ),
                attestation_key=pki.key_from_pem(document["attestation_key"]),
                **{name: pki.Signer.from_json(document[name]) for name in _SIGNERS},
            )
        except (ValueError, TypeError, KeyError, AttributeError):
            # The library's text could contain a part of a key.
            raise ConfigError(f"{directory}: not a simulated platform of this version") from None

    @property
    def root_ca_der(self) -> bytes:
        """The root certificate, the last argument but one of dcap-qvl's verification."""
        return self.root.der

    @property
    def root_ca_pem(self) -> str:
        return self.root.pem

    def with_options(self, options: PlatformOptions) -> Self:
        """Return the same machine with other options for its collateral.

        Raises:
            ValueError: `fmspc`, `ca` or `pcs_url` differ, which are in certificates.
        """
        if options.fixed != self.options.fixed:
            raise ValueError("fmspc, ca and pcs_url are in certificates and cannot change")
        return replace(self, options=options)

    def collateral(self, now: datetime) -> Collateral:
        """Return freshly signed collateral, issued a day before `now`.

        It expires `options.collateral_lifetime` after `now`: pass an earlier `now` for
        expired collateral.
        """
        options = self.options
        valid = pki.Validity(now - BACKDATE, now + options.collateral_lifetime)
        info = tcb_info(
            self.identity,
            self._module(),
            options.tcb_status,
            options.advisory_ids,
            options.tcb_evaluation_number,
            valid,
        )
        enclave = qe_identity(QuotingEnclave(), options.tcb_evaluation_number, valid)
        signing_chain = self.tcb_signer.pem + self.root.pem
        revoked_cas = (self.pck_ca.certificate,) if options.pck_ca_revoked else ()
        revoked_pcks = (self.pck.certificate,) if options.pck_revoked else ()
        return Collateral(
            pck_crl_issuer_chain=self.pck_ca.pem + self.root.pem,
            root_ca_crl=pki.new_crl(self.root, revoked_cas, valid),
            pck_crl=pki.new_crl(self.pck_ca, revoked_pcks, valid),
            tcb_info_issuer_chain=signing_chain,
            tcb_info=info,
            tcb_info_signature=pki.sign_raw(self.tcb_signer.key, info.encode()),
            qe_identity_issuer_chain=signing_chain,
            qe_identity=enclave,
            qe_identity_signature=pki.sign_raw(self.tcb_signer.key, enclave.encode()),
        )

    def quote(
        self,
        report_data: bytes,
        measurements: TdMeasurements | None = None,
        *,
        version: int | None = None,
        body: TdBody | None = None,
        flaw: Flaw | None = None,
    ) -> bytes:
        """Return a quote over `report_data`, signed as by hardware.

        Args:
            report_data: 64 bytes.
            measurements: default: those of an honest TD.
            version: 4 or 5; default: 4, unless the body or the TCB status needs 5.
            body: default: TD 1.0 in version 4, TD 1.5 in version 5.
            flaw: an intentional flaw of the quote, or None.

        Raises:
            ValueError: a combination that hardware never produces, as a TD 1.5 body in version 4.
        """
        version, body = self._form(version, body)
        content = tdreport.body(measurements or TdMeasurements(), self._module(), report_data, body)
        descriptor = b"" if version == 4 else tdreport.body_descriptor(body, content)
        signed = tdreport.header(version) + descriptor + content
        signature_data = self._signature_data(signed, flaw)
        if flaw is Flaw.CHANGED_AFTER_SIGNING:
            signed = _flip(signed, tdreport.HEADER_BYTES + len(descriptor) + tdreport.RTMR1_OFFSET)
        return signed + struct.pack("<I", len(signature_data)) + signature_data

    def _form(self, version: int | None, body: TdBody | None) -> tuple[int, TdBody]:
        """Return version and body of a quote, with defaults for those that are None."""
        relaunch = self.options.tcb_status in RELAUNCH_STATUSES
        if version is None:
            version = 5 if relaunch or (body or TdBody.TD10) is not TdBody.TD10 else 4
        if body is None:
            body = TdBody.TD10 if version == 4 else TdBody.TD15
        if version not in (4, 5):
            raise ValueError("quotes of TDs have version 4 or 5")
        if version == 4 and body is not TdBody.TD10:
            raise ValueError("TD 1.5 bodies need a quote of version 5")
        if relaunch and body is TdBody.TD10:
            raise ValueError(f"{self.options.tcb_status} needs a TD 1.5 body, so version 5")
        return version, body

    def _module(self) -> TdxModule:
        relaunch = self.options.tcb_status in RELAUNCH_STATUSES
        return TdxModule(
            launch_svn=OLDER_TEE_TCB_SVN if relaunch else CURRENT_TEE_TCB_SVN,
            current_svn=CURRENT_TEE_TCB_SVN,
        )

    def _signature_data(self, signed: bytes, flaw: Flaw | None) -> bytes:
        """Return ECDSA signature data (appendix A.3.8): signature, key, the key's certification."""
        named = pki.new_key() if flaw is Flaw.FOREIGN_KEY else self.attestation_key
        signing = pki.new_key() if flaw is Flaw.WRONG_SIGNATURE else named
        reported = pki.raw_public_key(self.attestation_key)
        report = QuotingEnclave().report(
            self.identity.cpu_svn,
            hashlib.sha256(reported + _QE_AUTH_DATA).digest() + bytes(32),
        )
        pck_key = pki.new_key() if flaw is Flaw.FORGED_QE_REPORT else self.pck.key
        chain = (self.pck.pem + self.pck_ca.pem + self.root.pem).encode("ascii")
        certification = (
            report
            + _certified(pck_key, report)
            + struct.pack("<H", len(_QE_AUTH_DATA))
            + _QE_AUTH_DATA
            + struct.pack("<HI", _PCK_CHAIN, len(chain))
            + chain
        )
        return (
            pki.sign_raw(signing, signed)
            + pki.raw_public_key(named)
            + struct.pack("<HI", _QE_REPORT, len(certification))
            + certification
        )


def _identity(
    options: PlatformOptions, ppid: bytes, platform_instance_id: bytes | None
) -> pki.PckIdentity:
    """Return the identity in the PCK certificate; all simulated platforms have the same SVNs."""
    return pki.PckIdentity(
        ppid=ppid,
        cpu_svn=PLATFORM_CPU_SVN,
        pce_svn=PLATFORM_PCE_SVN,
        pce_id=bytes(2),
        fmspc=bytes.fromhex(options.fmspc),
        platform_instance_id=platform_instance_id,
    )


@lru_cache(maxsize=64)
def _certified(pck: ec.EllipticCurvePrivateKey, report: bytes) -> bytes:
    """Return the PCK's signature over a report of the quoting enclave.

    A machine certifies an attestation key once, so that all of its quotes have the same one.
    """
    return pki.sign_raw(pck, report)


def _flip(data: bytes, offset: int) -> bytes:
    """Return `data` with one bit of the byte at `offset` changed."""
    return data[:offset] + bytes([data[offset] ^ 1]) + data[offset + 1 :]
