"""One TLS connection as a state machine: bytes in, bytes out, no socket.

The standard `ssl` module cannot ask for a self-signed client certificate; OpenSSL can,
with a verify callback that says yes to every chain. That yes is no judgement: what
vouches for a peer is the evidence in its certificate, which the caller appraises after
the handshake and before it reads the first byte of plaintext (wire-rats-tls.md,
"Session"). A resumed session would skip the certificate and with it the evidence, so
nothing here can be resumed.
"""

from __future__ import annotations

from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_der_private_key
from OpenSSL import SSL, crypto

from verdictd_py.errors import RequestError

RECORD_BYTES: Final = 16_384
"""Plaintext of one TLS record at most (RFC 8446, 5.1)."""

_CIPHERTEXT_CHUNK: Final = 65_536


class TlsFailed(RequestError):
    """The peer broke TLS, refused our certificate, or showed none."""

    code = "tls"


class TlsClosed(RequestError):
    """The peer ended the connection."""

    code = "tls-closed"


def server_context(
    certificate: bytes, private_key: bytes, *, require_certificate: bool = True
) -> SSL.Context:
    """Settings of the attested listener, TLS 1.2 and 1.3.

    Args:
        certificate: our own, DER.
        private_key: its key, PKCS#8 DER.
        require_certificate: end the handshake of a client that shows none.
    """
    context = _context(SSL.TLS_SERVER_METHOD, private_key)
    context.use_certificate(x509.load_der_x509_certificate(certificate))
    required = SSL.VERIFY_FAIL_IF_NO_PEER_CERT if require_certificate else 0
    context.set_verify(SSL.VERIFY_PEER | required, _leave_it_to_the_appraiser)
    return context


def client_context(private_key: bytes) -> SSL.Context:
    """Settings of the reference guest. As real guests, it takes any self-signed server.

    The caller gives it the certificate: those of old guests can be loaded from a file
    only, since `cryptography` refuses their version.

    Args:
        private_key: the key of the guest's certificate, PKCS#8 DER.
    """
    context = _context(SSL.TLS_CLIENT_METHOD, private_key)
    context.set_verify(SSL.VERIFY_PEER, _leave_it_to_the_appraiser)
    return context


def _context(method: int, private_key: bytes) -> SSL.Context:
    key = load_der_private_key(private_key, password=None)
    if not isinstance(key, (ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey)):
        raise TypeError("rats-tls has certificates with EC and RSA keys only")
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    # Both. TLS 1.3 sends two tickets all the same, and pyOpenSSL has no call to forbid it; with
    # NO_TICKET they hold no state but name a session, and without the cache none was kept.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION)
    context.use_privatekey(key)
    return context


def _leave_it_to_the_appraiser(
    connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int
) -> bool:
    del connection, certificate, error, depth, ok
    return True


class TlsSession:
    """TLS over memory: `receive` ciphertext, `read` plaintext, `outgoing` ciphertext.

    After any call, whatever `outgoing` returns must be sent, also after a failure: it
    holds the alert that tells the peer why.
    """

    def __init__(self, context: SSL.Context, *, server: bool) -> None:
        self._connection = SSL.Connection(context, None)
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()

    def receive(self, data: bytes) -> None:
        """Takes ciphertext from the network; `b""` says that the peer closed it."""
        if not data:
            self._connection.bio_shutdown()
            return
        view = memoryview(data)
        while view:
            taken = self._connection.bio_write(view.tobytes())
            view = view[taken:]

    def outgoing(self) -> bytes:
        """Ciphertext to be sent now, in order; empty where there is none."""
        chunks = []
        while True:
            try:
                chunks.append(self._connection.bio_read(_CIPHERTEXT_CHUNK))
            except SSL.WantReadError:
                return b"".join(chunks)

    def handshake(self) -> bool:
        """Goes as far as the bytes received allow; True once it is complete.

        Raises:
            TlsFailed: the peer's TLS is wrong, or it showed no certificate.
            TlsClosed: it went away.
        """
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise _translated(error) from None
        return True

    def peer_certificate(self) -> bytes | None:
        """DER of the certificate whose key completed the handshake, None if none was shown."""
        certificate = self._connection.get_peer_certificate()
        if certificate is None:
            return None
        return crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate)

    @property
    def version(self) -> str:
        """`TLSv1.2` or `TLSv1.3`."""
        return self._connection.get_protocol_version_name()

    def read(self) -> bytes:
        """Plaintext received so far, at most one record of it; empty where there is none.

        Raises:
            TlsFailed: the peer's TLS is wrong.
            TlsClosed: it ended the connection.
        """
        try:
            return self._connection.recv(RECORD_BYTES)
        except SSL.WantReadError:
            return b""
        except SSL.Error as error:
            raise _translated(error) from None

    def write(self, plaintext: bytes) -> None:
        """Encrypts `plaintext` as one TLS write: full records, the last one shorter.

        Raises:
            TlsFailed: the connection is past writing.
        """
        try:
            self._connection.sendall(plaintext)
        except SSL.Error as error:
            raise _translated(error) from None

    def close(self) -> None:
        """Says goodbye (close_notify); harmless on a connection that already failed."""
        try:
            self._connection.shutdown()
        except SSL.Error:
            # A peer that is gone, or never finished its handshake, needs no goodbye.
            return


def _translated(error: SSL.Error) -> RequestError:
    if isinstance(error, (SSL.ZeroReturnError, SSL.SysCallError)):
        return TlsClosed("the peer closed the connection")
    # OpenSSL's queue: (library, function, reason) each; the reasons are constant texts.
    queue = error.args[0] if error.args and isinstance(error.args[0], list) else []
    reasons = ", ".join(str(entry[-1]) for entry in queue if entry and entry[-1])
    if "unexpected eof" in reasons:
        return TlsClosed("the peer closed the connection")
    return TlsFailed(f"TLS failed: {reasons or 'no reason given'}")
