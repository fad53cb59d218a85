"""HTTP requests that must be refused, each with the status and error variant of the answer."""

from __future__ import annotations

import gzip
import os

from tests.support.kbs import PATH
from tests.support.kbs_admins import bearing
from tests.support.kbs_raw import request

RESOURCES = "/kbs/v0/resource/default"


COOKIE = "kbs-session-id="


GET = b"GET /healthz HTTP/1.1\r\nHost: x\r\n"


POST = b"POST /kbs/v0/auth HTTP/1.1\r\nHost: x\r\n"


CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


AUTH = b'{"version":"0.4.0","tee":"tdx","extra-params":""}'


CANARY = "canary-4711-must-not-be-seen"


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


REFUSED: dict[str, tuple[bytes, int, str]] = {
    "another method": (request("PUT", "/kbs/v0/auth", AUTH), 405, "InvalidRequestPath"),
    "GET of what is posted": (request("GET", "/kbs/v0/auth"), 405, "InvalidRequestPath"),
    "TRACE": (request("TRACE", f"/kbs/v0/resource/{PATH}"), 405, "InvalidRequestPath"),
    "OPTIONS of everything": (request("OPTIONS", "*"), 404, "InvalidRequestPath"),
    "CONNECT": (request("CONNECT", "example.org:443"), 404, "InvalidRequestPath"),
    "a method that there is not": (request("SECRET", "/kbs/v0/auth"), 400, "SerdeError"),
    "unknown path": (request("GET", f"/{CANARY}"), 404, "InvalidRequestPath"),
    "another version": (request("POST", "/kbs/v1/auth", AUTH), 404, "InvalidRequestPath"),
    "two slashes": (request("POST", "//kbs/v0/auth", AUTH), 404, "InvalidRequestPath"),
    "a slash behind": (request("POST", "/kbs/v0/auth/", AUTH), 404, "InvalidRequestPath"),
    "dots": (request("POST", "/kbs/v0/x/../auth", AUTH), 404, "InvalidRequestPath"),
    "dots to a file": (request("GET", "/../../etc/passwd"), 404, "InvalidRequestPath"),
    "an encoded slash": (request("POST", "/kbs%2fv0/auth", AUTH), 404, "InvalidRequestPath"),
    "an encoded slash in a name": (
        request("GET", "/kbs/v0/resource/default%2fkey/x/1"),
        404,
        "InvalidRequestPath",
    ),
    "an encoded NUL": (
        request("GET", "/kbs/v0/resource/default/key/1%00"),
        404,
        "InvalidRequestPath",
    ),
    "an encoded line": (
        request("GET", "/kbs/v0/resource/default/key/1%0d%0aSet-Cookie:%20a=b"),
        404,
        "InvalidRequestPath",
    ),
    "a broken escape": (request("GET", f"{RESOURCES}/key/%zz"), 404, "InvalidRequestPath"),
    "escapes that are no text": (
        request("GET", "/kbs/v0/resource/default/key/%ff%fe"),
        404,
        "InvalidRequestPath",
    ),
    "a raw NUL": (request("GET", "/kbs/v0/resource/default/key/1\x00"), 400, "SerdeError"),
    "bytes in the path": (request("GET", "/kbs/v0/resource/default/key/\xff"), 400, "SerdeError"),
    "a long path": (request("GET", "/" + "x" * 100_000), 431, "SerdeError"),
    "a huge header": (request("GET", "/healthz", headers={"X": "x" * 200_000}), 431, "SerdeError"),
    "100,000 cookies": (
        request("GET", "/healthz", headers={"Cookie": "; ".join(["a=b"] * 100_000)}),
        431,
        "SerdeError",
    ),
    "a thousand headers": (
        request("GET", "/healthz", headers={f"X-{n}": "x" for n in range(1000)}),
        431,
        "SerdeError",
    ),
    "a header with a NUL": (request("GET", "/healthz", headers={"X": "a\x00b"}), 400, "SerdeError"),
    "a header without name": (GET + b": x\r\n\r\n", 400, "SerdeError"),
    "a folded header": (GET + b"X: a\r\n b\r\n\r\n", 400, "SerdeError"),
    "lines that end in LF": (b"GET /healthz HTTP/1.1\nHost: x\nX: \x00\n\n", 400, "SerdeError"),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9), 400, "SerdeError"),
    "HTTP/9": (b"GET / HTTP/9.9\r\n\r\n", 400, "SerdeError"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + os.urandom(400), 400, "SerdeError"),
    "zeros": (bytes(5000), 400, "SerdeError"),
    "every byte": (bytes(range(256)) * 100, 400, "SerdeError"),
    "two lengths": (
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        400,
        "SerdeError",
    ),
    "a length and chunks": (
        POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "SerdeError",
    ),
    "a negative length": (
        POST + b"Content-Length: -1\r\n\r\n",
        400,
        "SerdeError",
    ),
    "a chunk without length": (
        CHUNKED + b"xyz\r\nabc",
        400,
        "SerdeError",
    ),
    "a chunk that breaks later": (
        CHUNKED + b"5\r\nhello\r\nxyz\r\n",
        400,
        "SerdeError",
    ),
    "chunks over 2 MiB": (
        CHUNKED + chunked(*[bytes(65_536)] * 33),
        413,
        "SerdeError",
    ),
    "a length over 2 MiB": (
        POST + b"Content-Length: 2097153\r\n\r\n" + bytes(2097153),
        413,
        "SerdeError",
    ),
    "a bomb": (
        request(
            "POST",
            "/kbs/v0/auth",
            gzip.compress(bytes(100 * 1024 * 1024)),
            {"Content-Encoding": "gzip"},
        ),
        415,
        "SerdeError",
    ),
    "a bomb in another coat": (
        request("POST", "/kbs/v0/auth", b"x" * 1000, {"Content-Encoding": "br, deflate"}),
        415,
        "SerdeError",
    ),
    "an expectation": (
        request("POST", "/kbs/v0/auth", AUTH, {"Expect": CANARY}),
        417,
        "SerdeError",
    ),
    "no body": (request("POST", "/kbs/v0/auth"), 400, "SerdeError"),
    "no JSON": (request("POST", "/kbs/v0/auth", CANARY.encode()), 400, "SerdeError"),
    "deep JSON": (request("POST", "/kbs/v0/auth", b'{"a":' * 400_000), 400, "SerdeError"),
    "many members": (
        request("POST", "/kbs/v0/auth", b'{"a":[' + b"[]," * 500_000 + b"[]]}"),
        400,
        "SerdeError",
    ),
    "attest without session": (request("POST", "/kbs/v0/attest", b"{}"), 401, "TokenNotFound"),
    "attest with a session that there is not": (
        request("POST", "/kbs/v0/attest", b"{}", {"Cookie": f"kbs-session-id={CANARY}"}),
        401,
        "TokenNotFound",
    ),
    "two cookies": (
        request(
            "GET",
            f"/kbs/v0/resource/{PATH}",
            headers={"Cookie": f"kbs-session-id={CANARY}; kbs-session-id=; kbs-session-id=x"},
        ),
        401,
        "TokenNotFound",
    ),
    "a long cookie": (
        request("GET", f"/kbs/v0/resource/{PATH}", headers={"Cookie": COOKIE + "x" * 60_000}),
        401,
        "TokenNotFound",
    ),
    "a cookie of bytes": (
        request("GET", f"/kbs/v0/resource/{PATH}", headers={"Cookie": COOKIE + '"\xff\xfe\\"'}),
        401,
        "TokenNotFound",
    ),
    "a token of a guest": (
        request("GET", f"/kbs/v0/resource/{PATH}", headers=bearing(CANARY)),
        401,
        "TokenVerifierError",
    ),
}
