"""One TLS connection as a state machine over bytes, without a socket.

The standard `ssl` module cannot request a self-signed client certificate; OpenSSL can, with
a verify callback that accepts any single certificate. This does not authenticate the peer: the
caller appraises the evidence in its certificate after the handshake and before it reads the first
byte of plaintext (wire-rats-tls.md, "Session"). A resumed session would have no certificate
and so no evidence; therefore sessions cannot be resumed.

No peer is trusted yet, so the work that its certificate can cause is bounded: one certificate, and
a key of a type that real peers use.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL, crypto

from verdictd_py.errors import EvidenceFormat, RequestError
from verdictd_py.formats import der

RECORD_BYTES: Final = 16_384
"""Largest plaintext of one TLS record (RFC 8446, 5.1)."""

_CIPHERTEXT_CHUNK: Final = 65_536

_SMALL_BYTES: Final = 1024
"""Length of a message whose memory is not worth the time to release it."""

_RSA_BITS: Final = (2048, 4096)
_RSA_EXPONENT: Final = 65_537
"""Source of the bounds: real peers have P-256, and RSA-3072 with this exponent (wire-rats-tls.md).
A longer key or exponent makes the signature of the handshake expensive to verify."""

_OTHER_KEY: Final = (
    "the key of the peer's certificate is not accepted; use P-256, P-384, or RSA with "
    f"{_RSA_BITS[0]} to {_RSA_BITS[1]} bits and the exponent {_RSA_EXPONENT}"
)
_LIB: Final = SSL._lib  # type: ignore[attr-defined]  # noqa: SLF001  # see `release_buffers`
_CONTENT: Final = SSL._ffi.new("char **")  # type: ignore[attr-defined]  # noqa: SLF001
"""Receives the address of a buffer, which is not used."""

_P256: Final = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""Begin of a SubjectPublicKeyInfo of P-256 with an uncompressed point (RFC 5480, 2.1.1, 2.2)."""
_P256_BYTES: Final = len(_P256) + 64

_ACCEPTED: Final = "accepted"
"""Data of a connection whose peer has a certificate with an accepted key."""
_ONE_CERTIFICATE: Final = "the peer sent more than one certificate; rats-tls peers send one"


class TlsFailed(RequestError):
    """The peer violated TLS, refused our certificate, or sent none."""

    code = "tls"


class TlsClosed(RequestError):
    """The peer closed the connection."""

    code = "tls-closed"


def server_context(
    certificate: bytes, private_key: bytes, *, require_certificate: bool = True
) -> SSL.Context:
    """Return the settings of the attested listener, TLS 1.2 and 1.3.

    Args:
        certificate: the listener's certificate, DER.
        private_key: its key, PKCS#8 DER.
        require_certificate: fail the handshake of a client that sends no certificate.
    """
    context = _context(SSL.TLS_SERVER_METHOD, private_key)
    context.use_certificate(x509.load_der_x509_certificate(certificate))
    required = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if require_certificate else 0
    context.set_verify(SSL.VERIFY_PEER | required, _accept_one_certificate)
    return context


def client_context(private_key: bytes) -> SSL.Context:
    """Return the settings of the reference guest, which like real ones accepts any server.

    The caller loads the certificate: those of old guests can only be loaded from a file,
    because `cryptography` refuses their version.

    Args:
        private_key: the key of the guest's certificate, PKCS#8 DER.
    """
    context = _context(SSL.TLS_CLIENT_METHOD, private_key)
    context.set_verify(SSL.VERIFY_PEER, _accept_one_certificate)
    return context


def _context(method: int, private_key: bytes) -> SSL.Context:
    key = load_der_private_key(private_key, password=None)
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise TypeError("rats-tls has certificates with EC and RSA keys only")
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # Both settings are needed: TLS 1.3 always sends two tickets, and pyOpenSSL has no call to
    # disable them. With NO_TICKET they only name a session, and the cache stores no session.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_verify_depth(0)
    # OpenSSL otherwise retains 32 KiB of buffers for each connection that is idle.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.use_privatekey(key)
    return context


def _accept_one_certificate(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
) -> bool:
    """Accept a certificate that stands alone; OpenSSL calls this before it verifies a chain.

    OpenSSL calls this twice for a self-signed certificate: for the error, and at the end. A
    connection has one handshake, so that its certificate is the same.

    pyOpenSSL raises the exceptions of this function from `do_handshake`.

    Raises:
        TlsFailed: there is another certificate, or the key has an unexpected type or size.
    """
    del error, ok
    if depth > 0:
        raise TlsFailed(_ONE_CERTIFICATE)
    if connection.get_app_data() is not _ACCEPTED:
        if not _is_accepted_key(certificate):
            raise TlsFailed(_OTHER_KEY)
        connection.set_app_data(_ACCEPTED)
    return True


def _is_accepted_key(certificate: crypto.X509) -> bool:
    return _has_p256_key(certificate) or _has_other_accepted_key(certificate)


def _has_p256_key(certificate: crypto.X509) -> bool:
    """Return whether the key is one of P-256 in the usual form, as those of nearly all guests.

    OpenSSL has read the key already; only its type is in question.
    """
    try:
        certificate.get_pubkey()
        spki = der.read_certificate(_der_of(certificate)).spki
    except (crypto.Error, EvidenceFormat):
        return False
    return spki.startswith(_P256) and len(spki) == _P256_BYTES


def _has_other_accepted_key(certificate: crypto.X509) -> bool:
    try:
        public = certificate.get_pubkey().to_cryptography_key()
    except (crypto.Error, ValueError, UnsupportedAlgorithm):  # explicit curves, unknown types
        return False
    if isinstance(public, ec.EllipticCurvePublicKey):
        return isinstance(public.curve, (ec.SECP256R1, ec.SECP384R1))
    least, most = _RSA_BITS
    return (
        isinstance(public, rsa.RSAPublicKey)
        and least <= public.key_size <= most
        and public.public_numbers().e == _RSA_EXPONENT
    )


class TlsSession:
    """TLS in memory: `receive` takes ciphertext, `read` returns plaintext, `outgoing` ciphertext.

    After every call the result of `outgoing` must be sent, also after a failure, because it
    contains the alert with the cause for the peer.
    """

    def __init__(self, context: SSL.Context, *, server: bool) -> None:
        self._connection = SSL.Connection(context, None)
        self._largest = 0
        self._server = server
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()

    def receive(self, data: bytes) -> None:
        """Accept ciphertext from the network; `b""` means that the peer closed it."""
        if not data:
            self._connection.bio_shutdown()
            return
        self._largest = max(self._largest, len(data))
        while data:
            taken = self._connection.bio_write(data)  # a BIO in memory takes everything
            data = data[taken:]

    def outgoing(self) -> bytes:
        """Return the ciphertext to send now, in order; empty if there is none."""
        chunks: list[bytes] = []
        try:
            while True:
                chunk: bytes = self._connection.bio_read(_CIPHERTEXT_CHUNK)
                self._largest = max(self._largest, len(chunk))
                if len(chunk) < _CIPHERTEXT_CHUNK and not chunks:
                    return chunk
                chunks.append(chunk)
        except SSL.WantReadError:
            return b"".join(chunks)

    def handshake(self) -> bool:
        """Continue the handshake with the received bytes; return True when it is complete.

        Raises:
            TlsFailed: the peer violated TLS, or sent no certificate, several, or one with a key
                of another type or size.
            TlsClosed: the peer closed the connection.
        """
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise _translated(error) from None
        if self._server and self._connection.get_peer_cert_chain():
            # Certificates that did not issue the peer's own are not part of the verified chain.
            raise TlsFailed(_ONE_CERTIFICATE)
        return True

    @property
    def has_input(self) -> bool:
        """Whether `read` may return something: bytes were received that it has not read."""
        connection = self._connection
        return bool(self._unread(connection._into_ssl) or connection.pending())  # noqa: SLF001

    @property
    def has_output(self) -> bool:
        """Whether `outgoing` returns something."""
        return bool(self._unread(self._connection._from_ssl))  # noqa: SLF001

    @staticmethod
    def _unread(buffer: object) -> int:
        """Return the number of bytes in a buffer in memory, see `release_buffers`."""
        return int(_LIB.BIO_get_mem_data(buffer, _CONTENT))

    def release_buffers(self) -> None:
        """Release the memory of large messages, such as the handshake, before a wait.

        OpenSSL's buffers in memory stay as large as the largest message that they had: 12 KiB
        after a handshake with evidence, 90 KiB after a long answer. pyOpenSSL has no call for
        this, so that its parts are used directly; `test_session.py` fails if they change.
        """
        if self._largest <= _SMALL_BYTES:
            return
        connection = self._connection
        old = connection._into_ssl, connection._from_ssl  # noqa: SLF001  # see above
        if any(map(self._unread, old)):
            return
        new = tuple(_LIB.BIO_new(_LIB.BIO_s_mem()) for _ in old)
        if not all(new):
            raise MemoryError
        connection._into_ssl, connection._from_ssl = new  # noqa: SLF001  # see above
        _LIB.SSL_set_bio(connection._ssl, *new)  # noqa: SLF001  # it frees the old ones
        self._largest = 0

    def peer_certificate(self) -> bytes | None:
        """Return the DER of the peer's certificate, None if it sent none."""
        certificate = self._connection.get_peer_certificate()
        if certificate is None:
            return None
        return _der_of(certificate)

    @property
    def version(self) -> str:
        """`TLSv1.2` or `TLSv1.3`."""
        return self._connection.get_protocol_version_name()

    def read(self) -> bytes:
        """Return received plaintext, at most one record; empty if there is none yet.

        Raises:
            TlsFailed: the peer violated TLS.
            TlsClosed: the peer closed the connection.
        """
        try:
            return self._connection.recv(RECORD_BYTES)
        except SSL.WantReadError:
            return b""
        except SSL.Error as error:
            raise _translated(error) from None

    def write(self, plaintext: bytes) -> None:
        """Encrypt `plaintext` as one TLS write: full records, the last one shorter.

        Raises:
            TlsFailed: the connection can no longer be written to.
        """
        try:
            self._connection.sendall(plaintext)
        except SSL.Error as error:
            raise _translated(error) from None

    def close(self) -> None:
        """Send close_notify; without effect on a connection that already failed."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            # The peer disconnected, or never completed its handshake.
            return


def _der_of(certificate: crypto.X509) -> bytes:
    return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)


def _translated(error: SSL.Error) -> RequestError:
    if isinstance(error, (SSL.ZeroReturnError, SSL.SysCallError)):
        return TlsClosed("the peer closed the connection")
    # OpenSSL's queue has tuples (library, function, reason); the reasons are constant texts.
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = ", ".join(str(entry[-1]) for entry in queue if entry and entry[-1])
    if "unexpected eof" in reasons:
        return TlsClosed("the peer closed the connection")
    return TlsFailed(f"TLS failed: {reasons or 'no reason given'}")
