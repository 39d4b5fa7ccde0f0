"""Requests that two servers might read differently, by class of doubt; made from RFC 9110 and 9112, part by part.

Each one carries, where its framing could be read in two ways, a second request in what may be its content: whoever
sees that one as a request was smuggled one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

PATH = b"/v1/models/m:predict"
LINE = b"POST " + PATH + b" HTTP/1.1\r\n"
HOST = b"Host: h\r\n"
INNER = b"POST /v1/models/smuggled:predict HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n"
PROBE = b"POST /v1/models/probe:predict HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}"
SPACES = (
    b"",
    b" ",
    b"  ",
    b"\t",
    b"\x0b",
    b"\x0c",
    b"\x00",
    b"\xa0",
    b"\x85",
    b"\r",
    b"\n",
    b"\n ",
    b"\r\n ",
    b"\r\n\t",
)
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@dataclass(frozen=True, slots=True)
class Case:
    """Bytes that a client sends; `legal` when every server has to serve them."""

    name: str
    data: bytes
    legal: bool = False


def cases() -> list[Case]:
    """Give all of them."""
    found: list[Case] = []
    for make in (
        _legal, _codings, _lengths, _both, _chunks, _trailers, _lines, _request_lines, _targets, _names, _values,
        _hosts,
        _connections, _versions, _methods, _expectations,
    ):  # fmt: skip
        kind = make.__name__.strip("_")
        for number, item in enumerate(make()):
            found.append(Case(f"{kind}-{number}", item, legal=make is _legal))
    return found


def chunked(*parts: bytes) -> bytes:
    """Write a body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def with_length(lines: bytes, body: bytes) -> bytes:
    """Write a request that has the right length besides what else it has."""
    return LINE + HOST + b"Content-Length: %d\r\n" % len(body) + lines + b"\r\n" + body


def _legal() -> Iterator[bytes]:
    """What every server has to serve."""
    for head in (
        b"Content-Length: 3\r\n\r\nabc",
        b"content-length:3\r\n\r\nabc",
        b"Content-Length: \t 3 \t\r\n\r\nabc",
        b"Content-Length: 003\r\n\r\nabc",
        b"Content-Length: 0\r\n\r\n",
        b"\r\n",
        CHUNKED + b"\r\n" + chunked(b"ab", b"c"),
        b"transfer-encoding:\tChunked \r\n\r\n" + chunked(b"abc"),
        CHUNKED + b'\r\n3;a=b;c="d;e"\r\nabc\r\n0;x\r\n\r\n',
        CHUNKED + b"\r\n0003\r\nabc\r\n000\r\n\r\n",
        CHUNKED + b"Trailer: X-T\r\n\r\n3\r\nabc\r\n0\r\nX-T: 1\r\n\r\n",
        CHUNKED + b"\r\n" + chunked(INNER),
        b"Content-Length: %d\r\n\r\n%b" % (len(INNER), INNER),
        b"X-Empty:\r\nX-Text: \x80\xff\r\nX-Tab: a\tb\r\nContent-Length: 1\r\n\r\nx",
        b"Connection: x-hop\r\nX-Hop: 1\r\nContent-Length: 1\r\n\r\nx",
        b"!#$%&'*+-.^_`|~09aZ: v\r\nContent-Length: 1\r\n\r\nx",
    ):
        yield LINE + HOST + head
    yield b"\r\n" + LINE + HOST + b"Content-Length: 1\r\n\r\nx"
    yield b"POST http://other:81" + PATH + b" HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx"
    yield b"POST " + PATH + b"?a=%20&b=/?c HTTP/1.1\r\n" + HOST + b"Content-Length: 1\r\n\r\nx"


def _te_lines() -> Iterator[bytes]:
    """Spellings of Transfer-Encoding."""
    for space in SPACES:
        yield b"Transfer-Encoding:" + space + b"chunked\r\n"
        yield b"Transfer-Encoding" + space + b": chunked\r\n"
        yield b"Transfer-Encoding: chunked" + space + b"\r\n"
        yield space + b"Transfer-Encoding: chunked\r\n"
    for name in (
        b"TRANSFER-ENCODING", b"transfer-encoding", b"tRANSFER-eNCODING", b"Transfer_Encoding", b"Transfer Encoding",
        b"Transfer-Encoding\x00", b"\x00Transfer-Encoding", b"Transfer\x00-Encoding", b"\xffTransfer-Encoding",
        b"Transfer-\r\nEncoding", b"Transfer\xe2\x80\x90Encoding", b"TransferEncoding", b"Transfer--Encoding", b"TE",
        b"X-Transfer-Encoding", b"Transfer-Encoding,", b"(Transfer-Encoding)", b'"Transfer-Encoding"',
        b"Trans\xc5\xbfer-Encoding",
    ):  # fmt: skip
        yield name + b": chunked\r\n"
    for value in (
        b"", b"Chunked", b"CHUNKED", b"chunKed", b"xchunked", b"chunkedx", b"x-chunked", b"chunk", b"chunke", b"cow",
        b"chunked, chunked", b"chunked,chunked", b"identity", b"identity, chunked", b"chunked, identity",
        b"gzip, chunked",
        b"chunked, gzip", b", chunked", b"chunked,", b",", b"chunked;q=1", b"chunked; a=b", b'"chunked"', b"'chunked'",
        b"[chunked]", b"(chunked)", b"chunked (x)", b"chunked\xc4\xb0", b"\xe2\x80\x8bchunked", b"chun\xc4\xb7ed",
        b"chunked\x01",
        b"\x7fchunked", b"chun ked", b"chunked chunked", b"chunked/1.0", b"true", b"0", b"\\chunked", b"%63hunked",
    ):  # fmt: skip
        yield b"Transfer-Encoding: " + value + b"\r\n"
    spellings = (b"chunked", b"identity", b"gzip", b"x", b"")
    for first in spellings:
        for second in spellings:
            yield b"Transfer-Encoding: %b\r\nTransfer-Encoding: %b\r\n" % (first, second)
            yield b"Transfer-Encoding: %b\r\nX: y\r\ntransfer-encoding: %b\r\n" % (first, second)
    yield b"X: y\rTransfer-Encoding: chunked\r\n"
    yield b"X: y\nTransfer-Encoding: chunked\r\n"
    yield b"X: y\r\n Transfer-Encoding: chunked\r\n"


def _codings() -> Iterator[bytes]:
    """Spellings of the coding, alone."""
    for line in _te_lines():
        yield LINE + HOST + line + b"\r\n" + chunked(b"abc") + INNER


def _both() -> Iterator[bytes]:
    """A coding and a length: each may be the one that counts."""
    ends_early = b"0\r\n\r\n" + INNER
    for number, line in enumerate(_te_lines()):
        if number % 2:
            yield with_length(line, ends_early)
        else:
            yield LINE + HOST + line + b"Content-Length: 4\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)


def _lengths() -> Iterator[bytes]:
    """Spellings of the length."""
    size = b"%d" % len(INNER)
    for value in (
        b"+" + size, b"-" + size, b"-0", b"+0", b"0x" + size, b"0b1", b"0o7", size + b".0", size + b"e0",
        size + b"," + size,
        size + b", " + size, size + b";", size + b" " + size, b"1_0", b"\xef\xbc\x95", b"", b"abc", b"1 0",
        size + b"\x00",
        b"\x00" + size, b"\x0b" + size, size + b"\x0c", b"18446744073709551616", b"18446744073709551615", b"9" * 60,
        b'"5"',
        b"5 bytes", b"0, " + size, size + b", 0", b"," + size, size + b",", b"\xa05", b"0" * 300 + size, b"\r\n 5",
        b"5\r\n 0",
        b"5\r0", b"\xd9\xa5",
    ):  # fmt: skip
        yield LINE + HOST + b"Content-Length: " + value + b"\r\n\r\n" + INNER
    for first, second in (
        (b"0", size),
        (size, b"0"),
        (size, size),
        (b"0", b"0"),
        (size, b""),
        (b"", size),
        (b"5", b"x"),
    ):
        yield LINE + HOST + b"Content-Length: %b\r\nContent-Length: %b\r\n\r\n" % (first, second) + INNER
        yield LINE + HOST + b"Content-Length: %b\r\nX: y\r\ncontent-length: %b\r\n\r\n" % (first, second) + INNER
    for space in SPACES:
        yield LINE + HOST + b"Content-Length" + space + b": " + size + b"\r\n\r\n" + INNER
        yield LINE + HOST + space + b"Content-Length: " + size + b"\r\n\r\n" + INNER
    for name in (
        b"Content_Length",
        b"Content Length",
        b"ContentLength",
        b"Content-Length\x00",
        b"X-Content-Length",
        b"Length",
    ):
        yield LINE + HOST + name + b": " + size + b"\r\n\r\n" + INNER
        yield LINE + HOST + b"Content-Length: 0\r\n" + name + b": " + size + b"\r\n\r\n" + INNER


def _chunks() -> Iterator[bytes]:
    """Sizes, extensions and ends of chunks."""
    for size in (
        b"5 ", b" 5", b"\t5", b"5\t", b"0x5", b"0X5", b"+5", b"-5", b"5;", b"5;a", b"5; a", b"5 ;a", b"5;a=b",
        b'5;a="b"', b"5;=b", b"5;a=",
        b'5;a="b', b'5;a="\\"b"', b'5;a="b\r\n"', b"5;\n", b"5\n", b"5\r", b"5\r\r\n", b"5;a\rb", b"5;a\nb",
        b"5;a\x00b", b"5_0", b"5g", b"5,",
        b"5.0", b"5h", b"", b";", b"5\x00", b"\x005", b"ffffffffffffffff", b"10000000000000005",
        b"FFFFFFFFFFFFFFFFFFFFF5",
        b"0" * 100 + b"5", b"5" + b" " * 50, b"5;" + b"a" * 500, b"5 5", b"\xef\xbc\x95", b"5;\xff", b"-0", b"0;5",
        b"5;a;b;c", b"5;;",
        b"5;(", b"5;a b", b"5\x0b", b"5\xa0",
    ):  # fmt: skip
        yield LINE + HOST + CHUNKED + b"\r\n" + size + b"\r\nabcde\r\n0\r\n\r\n" + INNER
    for end in (
        b"\n", b"\r", b"", b"X\r\n", b"\r\r\n", b"\n\r", b" \r\n", b"\x00\r\n", b"XX",
    ):  # fmt: skip
        yield LINE + HOST + CHUNKED + b"\r\n5\r\nabcde" + end + b"0\r\n\r\n" + INNER
        yield LINE + HOST + CHUNKED + b"\r\n5" + end + b"abcde\r\n0\r\n\r\n" + INNER
    for last in (
        b"00\r\n\r\n",
        b"0;x\r\n\r\n",
        b"0 \r\n\r\n",
        b"0\n\r\n",
        b"0\r\n\n",
        b"0\n\n",
        b"0\r\r\n\r\n",
        b"0\r\n\r",
        b"\r\n\r\n",
        b"0x0\r\n\r\n",
        b"-0\r\n\r\n",
        b"0,\r\n\r\n",
    ):
        yield LINE + HOST + CHUNKED + b"\r\n5\r\nabcde\r\n" + last + INNER


def _trailers() -> Iterator[bytes]:
    """What comes after the last chunk."""
    for lines in (
        b"X: y\r\n", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: identity\r\n",
        b"Host: evil\r\n",
        b"X: y\r\n z\r\n", b"X y\r\n", b"X : y\r\n", b": y\r\n", b"X: y\n", b"X: \x00\r\n", b" X: y\r\n",
        b"X-Request-Id: evil\r\n",
        b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"X: y\rZ: w\r\n",
        b"Upgrade: x\r\nConnection: upgrade\r\n",
    ):  # fmt: skip
        yield LINE + HOST + CHUNKED + b"\r\n5\r\nabcde\r\n0\r\n" + lines + b"\r\n" + INNER


def _lines() -> Iterator[bytes]:
    """Ends of lines, folded fields, and what stands before the first line."""
    clean = LINE + HOST + b"X: y\r\nContent-Length: 2\r\n\r\n{}"
    for end in (
        b"\n", b"\r", b"\r\r\n", b"\n\r", b"\x0b\r\n", b"\x00\r\n", b" \r\n", b"\x85", b"\xe2\x80\xa8",
    ):  # fmt: skip
        yield clean.replace(b"\r\n", end)
        for at in range(1, 6):
            lines = clean.split(b"\r\n")
            yield b"\r\n".join(lines[:at]) + end + b"\r\n".join(lines[at:])
    for fold in (
        b"\r\n ", b"\r\n\t", b"\n ", b"\r ", b"\r\n  \t",
    ):  # fmt: skip
        yield LINE + HOST + b"X: a" + fold + b"b\r\nContent-Length: 2\r\n\r\n{}"
        yield LINE + b"Host:" + fold + b"h\r\nContent-Length: 2\r\n\r\n{}"
        yield LINE + HOST + b"Content-Length:" + fold + b"2\r\n\r\n{}"
        yield LINE + fold[2:] + HOST + b"Content-Length: 2\r\n\r\n{}"
    for before in (
        b"\n",
        b" ",
        b"\t",
        b"\r",
        b"\x00",
        b"\xef\xbb\xbf",
        b"\r\n\r\n\r\n",
        b"\r\n ",
        b"x\r\n",
        b"\n\n",
        b"\x16\x03\x01\x02\x00",
    ):
        yield before + clean


def _request_lines() -> Iterator[bytes]:
    """The first line's parts and what stands between them."""
    rest = HOST + b"Content-Length: 2\r\n\r\n{}"
    for space in (
        b"  ", b"\t", b"", b"\x0b", b"\x0c", b"\x00", b"\xa0", b" \t", b"\r", b"\n",
    ):  # fmt: skip
        yield b"POST" + space + PATH + b" HTTP/1.1\r\n" + rest
        yield b"POST " + PATH + space + b"HTTP/1.1\r\n" + rest
        yield b"POST " + PATH + b" HTTP/1.1" + space + b"\r\n" + rest
    for line in (
        b"POST " + PATH, b"POST", b"", b"POST HTTP/1.1", PATH + b" HTTP/1.1", b"POST " + PATH + b" HTTP/1.1 HTTP/1.1",
        b"POST " + PATH + b" x HTTP/1.1", b"POST " + PATH + b" HTTP/1.1 x", b"HTTP/1.1 200 OK",
        b"POST " + PATH + b" HTTP/1.1\r\nPOST " + PATH + b" HTTP/1.1",
    ):  # fmt: skip
        yield line + b"\r\n" + rest


def _targets() -> Iterator[bytes]:
    """Forms of the request target."""
    rest = b" HTTP/1.1\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}"
    for target in (
        b"*", b"h:80", b"//evil" + PATH, b"/..//v1/models/m:predict", b"/v1/models/m:predict#f", b"#", b"?", b"/?",
        b"v1/models/m:predict",
        b"http://h", b"http://h?x", b"http://h#x", b"http://", b"http:///v1", b"http://u@h/v1", b"http://u:p@h/v1",
        b"http://h:99999/v1",
        b"http://[::1]/v1", b"http://[::1/v1", b"http://h\\@evil/v1", b"HTTP://h/v1", b"https://h/v1", b"ftp://h/v1",
        b"file:///etc/passwd",
        b"javascript:x", b"http:/v1", b"http:v1", b"http://a b/v1", b"http://h/v1 HTTP/1.1\r\nX:", b"/\x00", b"/\x01",
        b"/\x7f", b"/\x80",
        b"/\xff\xfe", b"/%", b"/%zz", b"/%00", b"/%0d%0aX:%20y", b"/%2e%2e/", b"/a\\b", b"/a|b", b"/{a}", b"/<a>",
        b'/"a"', b"/^", b"/`",
        b"/;a=b", b"/a%2fb", b"/\xc3\xa4", b"/a?b?c", b"/a#b?c", b"/" + b"a" * 10_000, b"/" + b"a" * 70_000, b"\\",
        b"/\t",
    ):  # fmt: skip
        yield b"POST " + target + rest


def _names() -> Iterator[bytes]:
    """Characters in names of fields."""
    for code in (*range(33), *b'"(),/:;<=>?@[\\]{}', *range(127, 256, 16)):
        yield with_length(b"X%cY: z\r\n" % code, b"{}")
    for line in (
        b": y", b"X", b"X y", b" X: y", b"\tX: y", b"X : y", b"X\t: y", b":", b"=", b"X:y:z", b"\xffX: y",
    ):  # fmt: skip
        yield with_length(line + b"\r\n", b"{}")
        yield LINE + line + b"\r\n" + HOST + b"Content-Length: 2\r\n\r\n{}"
    yield with_length(b"X: y\r\n" * 127, b"{}")
    yield with_length(b"x" * 70_000 + b": y\r\n", b"{}")


def _values() -> Iterator[bytes]:
    """Characters in values of fields."""
    for code in (*range(32), 127, 128, 133, 160, 255):
        yield with_length(b"X: a%cb\r\n" % code, b"{}")
    yield with_length(b"X: " + b"y" * 70_000 + b"\r\n", b"{}")


def _hosts() -> Iterator[bytes]:
    """One Host, and one that could be a host."""
    rest = b"Content-Length: 2\r\n\r\n{}"
    yield LINE + rest
    for first, second in ((b"h", b"h"), (b"h", b"evil"), (b"", b"h"), (b"h", b"")):
        yield LINE + b"Host: %b\r\nHost: %b\r\n" % (first, second) + rest
        yield LINE + b"Host: %b\r\nX: y\r\nhost: %b\r\n" % (first, second) + rest
        yield LINE + b"Host: %b\r\nHost: %b\r\nConnection: x\r\nX: y\r\n" % (first, second) + rest
    for value in (
        b"", b" ", b"a b", b"h, evil", b"h/evil", b"h\\evil", b"u@h", b"h?x", b"h#x", b"http://h", b"h:80:80", b"h:x",
        b"[::1]", b"[::1",
        b"h\x00", b"h\tevil", b"\xff", b"h\xc3\xa4", b"<h>", b'"h"', b"h^", b"h|i", b"{h}", b"-", b"h" * 300,
    ):  # fmt: skip
        yield LINE + b"Host: " + value + b"\r\n" + rest


def _connections() -> Iterator[bytes]:
    """Fields for one hop, and names that a sender may not call so."""
    for number, names in enumerate((
        b"content-length", b"Content-Length", b"transfer-encoding", b"host", b"close, content-length",
        b"keep-alive, host", b"x-request-id",
        b"content-type", b"inference-header-content-length", b"connection", b"", b",", b"close,,close", b"\xff",
        b"x" * 600, b"traceparent",
        b"upgrade", b"expect", b"via",
    )):  # fmt: skip
        extra = b"Inference-Header-Content-Length: 2\r\nX-Request-Id: r%d\r\n" % number
        yield with_length(b"Connection: " + names + b"\r\n" + extra, INNER)
        yield LINE + HOST + b"Connection: " + names + b"\r\n" + CHUNKED + b"\r\n" + chunked(INNER)
    for offer in (
        b"websocket", b"h2c", b"h2c, websocket", b"HTTP/2.0", b"TLS/1.0", b"", b"x",
    ):  # fmt: skip
        yield with_length(
            b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x\r\nUpgrade: " + offer + b"\r\n", INNER
        )
        yield LINE + HOST + b"Connection: Upgrade\r\nUpgrade: " + offer + b"\r\n" + CHUNKED + b"\r\n" + chunked(INNER)
        yield with_length(b"Upgrade: " + offer + b"\r\n", INNER)
    for name in (
        b"Proxy-Connection",
        b"Keep-Alive",
        b"TE",
        b"Trailer",
        b"Proxy-Authorization",
        b"Content_Type",
        b"X_Request_Id",
    ):
        yield with_length(name + b": content-length\r\n", INNER)


def _versions() -> Iterator[bytes]:
    """Versions of HTTP, with both framings."""
    for version in (
        b"HTTP/1.0", b"HTTP/0.9", b"HTTP/1.2", b"HTTP/1.10", b"HTTP/01.1", b"HTTP/2.0", b"HTTP/2", b"HTTP/3.0",
        b"HTTP/1", b"HTTP/1.", b"HTTP/.1",
        b"HTTP/1,1", b"HTTP/1.1.1", b"HTTP/1.x", b"HTTP/-1.1", b"HTTP/+1.1", b"http/1.1", b"Http/1.1", b"HTTP /1.1",
        b"HTTP/ 1.1", b"HTTP/1 .1",
        b"HTTPS/1.1", b"HTP/1.1", b"RTSP/1.0", b"RTSP/1.1", b"ICE/1.0", b"HTTP/\xef\xbc\x91.1", b"HTTP\\1.1",
        b"HTTP/1.1\x00", b"\x00HTTP/1.1",
    ):  # fmt: skip
        line = b"POST " + PATH + b" " + version + b"\r\n" + HOST
        yield line + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER
        yield line + CHUNKED + b"\r\n" + chunked(b"abc") + INNER
        yield line + b"Connection: keep-alive\r\nContent-Length: 0\r\n\r\n" + INNER


def _methods() -> Iterator[bytes]:
    """Methods, known and unknown, with content and without."""
    for method in (
        b"GET", b"HEAD", b"DELETE", b"OPTIONS", b"PUT", b"PATCH", b"TRACE", b"CONNECT", b"PRI", b"SOURCE", b"DESCRIBE",
        b"PROPFIND", b"get",
        b"Post", b"GET\x00", b"G ET", b"FOO", b"P\xd6ST", b"GET,POST", b"<GET>", b"POST:", b"(POST)", b"M-SEARCH",
        b"QUERY", b"PURGE", b"1",
    ):  # fmt: skip
        yield method + b" " + PATH + b" HTTP/1.1\r\n" + HOST + b"Content-Length: %d\r\n\r\n" % len(INNER) + INNER
        yield method + b" " + PATH + b" HTTP/1.1\r\n" + HOST + CHUNKED + b"\r\n" + chunked(INNER)
        yield method + b" " + PATH + b" HTTP/1.1\r\n" + HOST + b"\r\n" + INNER


def _expectations() -> Iterator[bytes]:
    """Expect, with and without content."""
    for value in (
        b"100-continue",
        b"100-Continue",
        b"100-continue, x",
        b"x",
        b"",
        b"100-continue; q=1",
        b"200-ok",
        b"100-continue\x00",
    ):
        yield with_length(b"Expect: " + value + b"\r\n", INNER)
        yield LINE + HOST + b"Expect: " + value + b"\r\n\r\n" + INNER
        yield LINE + HOST + b"Expect: " + value + b"\r\nExpect: 100-continue\r\n" + CHUNKED + b"\r\n" + chunked(INNER)
