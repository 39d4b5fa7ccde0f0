"""A web server that speaks as much of Google's and Azure's object stores as reading takes, by their documentation.

Google: https://cloud.google.com/storage/docs/json_api/v1/objects; Azure:
https://learn.microsoft.com/rest/api/storageservices/list-blobs and /get-blob.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from tests.httpserver import httpserver

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Published by Microsoft for emulators."""
_CHANGED = "Fri, 21 Nov 2025 12:00:00 GMT"


@dataclass(slots=True)
class Cloud:
    """What is served, and what was asked for."""

    url: str
    objects: dict[str, bytes] = field(default_factory=dict)
    """`bucket/name` → content."""
    asked: list[str] = field(default_factory=list)


@contextmanager
def cloud() -> Iterator[Cloud]:
    """Serve on loopback until the block ends."""

    class Handler(_Handler):
        pass

    with httpserver(Handler) as url:
        found = Handler.cloud = Cloud(url)
        yield found


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    cloud: Cloud

    def do_GET(self) -> None:
        """Answer."""
        self.cloud.asked.append(f"{self.command} {self.path}")
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if parts.path.startswith(f"/{ACCOUNT}/"):
            self._azure(unquote(parts.path.removeprefix(f"/{ACCOUNT}/")), query)
        else:
            self._google(parts.path, query)

    do_HEAD = do_GET  # noqa: N815 - the library's name

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
        """Say nothing."""

    def _google(self, path: str, query: dict[str, str]) -> None:
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o(?:/(.+))?", path)
        if found is None:
            self._send(404, b"{}", "application/json")
            return
        bucket, name = found[1], unquote(found[2] or "")
        if not name:
            items = [_resource(key) | self._sums(key) for key in self._under(bucket, query.get("prefix", ""))]
            self._send(200, json.dumps({"kind": "storage#objects", "items": items}).encode(), "application/json")
        elif f"{bucket}/{name}" not in self.cloud.objects:
            self._send(404, b'{"error":{"code":404,"message":"No such object"}}', "application/json")
        elif query.get("alt") == "media":
            self._content(self.cloud.objects[f"{bucket}/{name}"])
        else:
            key = f"{bucket}/{name}"
            self._send(200, json.dumps(_resource(key) | self._sums(key)).encode(), "application/json")

    def _azure(self, path: str, query: dict[str, str]) -> None:
        if query.get("comp") == "list":
            blobs = "".join(self._blob(key) for key in self._under(path, query.get("prefix", "")))
            page = (
                f'<?xml version="1.0" encoding="utf-8"?><EnumerationResults ContainerName="{escape(path)}">'
                f"<Blobs>{blobs}</Blobs><NextMarker /></EnumerationResults>"
            )
            self._send(200, page.encode(), "application/xml")
        elif path in self.cloud.objects:
            self._content(self.cloud.objects[path], {"x-ms-blob-type": "BlockBlob", "x-ms-version": "2021-12-02"})
        else:
            self._send(404, b"", "application/xml", {"x-ms-error-code": "BlobNotFound"})

    def _under(self, bucket: str, prefix: str) -> list[str]:
        return [key for key in sorted(self.cloud.objects) if key.startswith(f"{bucket}/{prefix}")]

    def _sums(self, key: str) -> dict[str, str]:
        content = self.cloud.objects[key]
        return {"size": str(len(content)), "md5Hash": _sum(content), "etag": _sum(content)}

    def _blob(self, key: str) -> str:
        content = self.cloud.objects[key]
        return (
            f"<Blob><Name>{escape(key.partition('/')[2])}</Name><Properties><Last-Modified>{_CHANGED}</Last-Modified>"
            f"<Etag>0x{_sum(content)}</Etag><Content-Length>{len(content)}</Content-Length>"
            "<Content-Type>application/octet-stream</Content-Type><BlobType>BlockBlob</BlobType></Properties></Blob>"
        )

    def _content(self, content: bytes, more: dict[str, str] | None = None) -> None:
        headers = {"ETag": f'"{_sum(content)}"', "Last-Modified": _CHANGED, **(more or {})}
        given = self.headers.get("x-ms-range") or self.headers.get("Range")
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", given or "")
        if found is None:
            self._send(200, content, "application/octet-stream", headers)
            return
        first, last = int(found[1]), min(int(found[2] or len(content)), len(content) - 1)
        headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], "application/octet-stream", headers)

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _resource(key: str) -> dict[str, str]:
    bucket, _, name = key.partition("/")
    return {
        "kind": "storage#object", "name": name, "bucket": bucket, "generation": "1", "updated": "2025-11-21T12:00:00Z",
        "timeCreated": "2025-11-21T12:00:00Z", "storageClass": "STANDARD", "contentType": "application/octet-stream",
    }  # fmt: skip


def _sum(content: bytes) -> str:
    return md5(content, usedforsecurity=False).hexdigest()
