"""Claim checks: a body that is too large for a record lies in a store, and the event says where, in `dataref`.

Source: CloudEvents extension `dataref` 1.0.2. A store is a folder or an S3 bucket; what is read must lie under the URL
that the store was given, so an event cannot make anybody read something else.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol
from urllib.parse import quote, unquote, urlsplit

from streams.errors import ClaimFailed, ClaimsAway, MissingExtra
from streams.events import DATA_REF, Event

if TYPE_CHECKING:
    from types import ModuleType

MOST_BYTES: Final = 64 << 20
"""Largest body that is read back."""
_NOT_THERE: Final = frozenset({
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
})  # fmt: skip
_NO_OBJECT: Final = frozenset({
    "NoSuchKey", "404", "NoSuchVersion", "KeyTooLongError", "InvalidObjectState", "InvalidURI",
    "InvalidObjectName", "XMinioInvalidObjectName", "XMinioInvalidResourceName",
})  # fmt: skip
"""Answers of S3, Ceph and MinIO that say something of one object alone."""


class ClaimStore(Protocol):
    """Where large bodies lie. Any number of threads may call it.

    Raises:
        ClaimFailed: the store has no such object, a broken one, or it is not to be read.
        ClaimsAway: the store does not answer, or refuses: whoever asked did nothing wrong, and may ask again.
    """

    def put(self, name: str, data: bytes) -> str:
        """Keep data under a name, in place of what was there; give its URL. It is whole there, or not at all."""
        ...

    def get(self, url: str) -> bytes:
        """Give what `put` kept."""
        ...


class FolderClaims:
    """Files in a folder that logger and assembler share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._url = f"file://{quote(str(folder))}/"

    def put(self, name: str, data: bytes) -> str:
        """See `ClaimStore`."""
        path = self._folder / quote(name, safe="/")
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(data)
            draft.replace(path)
        except OSError as exc:
            raise ClaimsAway(f"{path}: cannot be written: {exc}") from exc
        return self._url + quote(str(path.relative_to(self._folder)))

    def get(self, url: str) -> bytes:
        """See `ClaimStore`."""
        path = self._folder / unquote(_under(url, self._url))
        try:
            # A link could lead anywhere.
            if not path.resolve(strict=True).is_relative_to(self._folder.resolve()):
                raise ClaimFailed(f"{url}: does not lie under {self._url}")
            return _bounded(url, path.stat().st_size, path.read_bytes)
        except (ValueError, RuntimeError) as exc:  # a name with a zero byte; a link to itself
            raise ClaimFailed(f"{url}: {exc}") from exc
        except OSError as exc:
            # Where not even the folder is there, it is not mounted.
            known = exc.errno in _NOT_THERE and self._folder.is_dir()
            raise (ClaimFailed if known else ClaimsAway)(f"{url}: cannot be read: {exc}") from exc


class S3Claims:
    """Objects in a bucket. Credentials, region and endpoint are those that boto3 finds in its usual places.

    Raises:
        MissingExtra: boto3 is not installed.
    """

    def __init__(self, bucket: str, prefix: str, timeout_s: float = 10.0) -> None:
        boto3, config = _boto3()
        self._bucket, self._prefix = bucket, prefix.strip("/")
        self._url = f"s3://{bucket}/" + (f"{self._prefix}/" if self._prefix else "")
        settings = config.Config(connect_timeout=timeout_s, read_timeout=timeout_s, retries={"total_max_attempts": 3})
        self._client: Any = boto3.client("s3", config=settings)

    def put(self, name: str, data: bytes) -> str:
        """See `ClaimStore`."""
        name = quote(name, safe="/")
        with self._translated(self._key(name)):
            self._client.put_object(Bucket=self._bucket, Key=self._key(name), Body=data)
        return self._url + name

    def get(self, url: str) -> bytes:
        """See `ClaimStore`."""
        key = self._key(_under(url, self._url))
        with self._translated(key):
            answer = self._client.get_object(Bucket=self._bucket, Key=key)
            with answer["Body"] as body:
                return _bounded(url, answer["ContentLength"], body.read)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    @contextlib.contextmanager
    def _translated(self, key: str) -> Iterator[None]:
        from botocore import exceptions as s3  # noqa: PLC0415 - an optional extra
        from urllib3.exceptions import HTTPError  # noqa: PLC0415 - comes with it

        try:
            yield
        except s3.ClientError as exc:
            # A bucket that is not there is the operator's mistake, and may come to be.
            known = exc.response.get("Error", {}).get("Code") in _NO_OBJECT
            raise (ClaimFailed if known else ClaimsAway)(f"s3://{self._bucket}/{key}: {exc}") from exc
        except (s3.FlexibleChecksumError, s3.ParamValidationError) as exc:
            raise ClaimFailed(f"s3://{self._bucket}/{key}: {exc}") from exc
        except (s3.BotoCoreError, HTTPError) as exc:  # boto3 lets out some of what ends a body too early
            raise ClaimsAway(f"s3://{self._bucket}/{key}: {exc}") from exc


def store(url: str) -> ClaimStore:
    """Give the store that a URL names: `file:///folder` or `s3://bucket/prefix`.

    Raises:
        ValueError: another scheme, or no folder or bucket.
        MissingExtra: see `S3Claims`.
    """
    parts = urlsplit(url)
    if parts.scheme == "file" and parts.path.startswith("/") and not parts.netloc:
        return FolderClaims(Path(unquote(parts.path)))
    if parts.scheme == "s3" and parts.netloc:
        return S3Claims(parts.netloc, parts.path)
    raise ValueError(f"expected file:///folder or s3://bucket/prefix, got {url!r}")


def redeemed(event: Event, claims: ClaimStore | None) -> Event:
    """Give an event with the data that it refers to; one that has its data comes back as it is.

    Raises:
        ClaimFailed: no store is known, or it will never give the data.
        ClaimsAway: it does not give the data now.
    """
    url = event.text(DATA_REF)
    if not url or event.data:
        return event
    if claims is None:
        raise ClaimFailed(f"the body lies at {url}; name the store with --claims")
    return replace(event, data=claims.get(url))


def _under(url: str, base: str) -> str:
    name = url.removeprefix(base)
    if name == url or not name or ".." in name.split("/"):
        raise ClaimFailed(f"{url}: does not lie under {base}")
    return name


def _bounded(url: str, size: int, read: Any) -> bytes:  # noqa: ANN401 - two kinds of read
    if size > MOST_BYTES:
        raise ClaimFailed(f"{url}: expected at most {MOST_BYTES} bytes, got {size}")
    data: bytes = read()
    return data


def _boto3() -> tuple[ModuleType, ModuleType]:
    try:
        import boto3  # noqa: PLC0415 - an optional extra
        from botocore import config  # noqa: PLC0415
    except ModuleNotFoundError as exc:
        raise MissingExtra("claims in S3", "s3", "boto3") from exc
    return boto3, config
