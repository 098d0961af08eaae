"""An object store: S3, and whatever else pyarrow reaches by a URL (Google Cloud Storage: untested).

Every way in which a store can fail ends as one line that says what, where, and what to do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple, TypeGuard
from urllib.parse import parse_qsl, urlsplit

import pyarrow as pa
from pyarrow import fs

from lldwatch.errors import InputError, RunError

_CONNECT_SECONDS, _STALL_SECONDS, _ATTEMPTS = 5.0, 10.0, 2
"""pyarrow's own are 32 attempts: a store that swallows what it is sent would hold a caller for 100 s."""

_REASONS = (
    (("NO_SUCH_BUCKET", "' not found"), "there is no such bucket: check the name, or make it first"),
    (
        ("NETWORK_CONNECTION", "REQUEST_TIMEOUT", "SLOW_DOWN", "SERVICE_UNAVAILABLE", "HTTP status 50"),
        "the store cannot be reached: check the connection, and the endpoint if it is not Amazon's",
    ),
    (
        ("ACCESS_DENIED", "ACCESS_KEY", "SIGNATURE", "CREDENTIAL", "TOKEN", "HTTP status 403", "HTTP status 401"),
        "it refuses these credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE or a role "
        "(Google Cloud: gcloud auth application-default login)",
    ),
)
"""Words in pyarrow's message -> what is wrong and what to do."""


class Entry(NamedTuple):
    """A file in a store: its size in bytes and when it was written, in ns since 1970."""

    size: int
    written: int


def is_url(path: object) -> TypeGuard[str]:
    """Whether a run is given by a URL rather than by a path."""
    return isinstance(path, str) and "://" in path


class Store:
    """A folder in an object store. Names of files are relative to it, with `/`.

    Args:
        url: `s3://bucket/prefix`, with the options of pyarrow behind a `?`: `endpoint_override`, `scheme`, `region`.
            Without an endpoint there, `AWS_ENDPOINT_URL_S3` or `AWS_ENDPOINT_URL` counts.

    Attributes:
        url: the same, without a slash at its end.

    Raises:
        InputError: pyarrow knows no such URL, or it holds a password.
        RunError: the store cannot be reached.
    """

    def __init__(self, url: str) -> None:
        address, mark, options = url.partition("?")
        if "@" in urlsplit(url).netloc:  # messages, events and process lists show the URL
            raise InputError("a URL must not hold a key or password: give them in AWS_ACCESS_KEY_ID and its like")
        self.url = address.rstrip("/") + mark + options
        with self._reached():
            self._files, root = _opened(self.url)
        self._root = root.rstrip("/")
        self._bare = self._files.type_name in ("s3", "gcs", "abfs")
        """It has no folders of its own, and a file appears there whole or not at all."""

    def at(self, name: str) -> str:
        """The URL of a file or folder in it."""
        address, mark, options = self.url.partition("?")
        return f"{address}/{name}{mark}{options}" if name else self.url

    def files(self, below: str = "") -> dict[str, Entry]:
        """All files at or below a folder; none if it is not there.

        Raises:
            RunError: the store cannot be reached, or there is no such bucket.
        """
        root = f"{self._root}/{below}" if below else self._root
        with self._reached():
            try:
                found = self._files.get_file_info(fs.FileSelector(root, recursive=True))
            except FileNotFoundError:
                return {}
        files = [info for info in found if info.type == fs.FileType.File]
        start = len(self._root) + 1
        entries = {info.path[start:]: Entry(info.size or 0, info.mtime_ns or 0) for info in files}
        # a key may be anything, and readers make a local path of it
        return {name: entry for name, entry in entries.items() if ".." not in name.split("/")}

    def read(self, name: str) -> bytes:
        """A whole file.

        Raises:
            FileNotFoundError: it is not there.
            RunError: the store cannot be reached.
        """
        with self._reached(), self._files.open_input_stream(f"{self._root}/{name}") as stream:
            return bytes(stream.read())

    def write(self, name: str, data: bytes) -> None:
        """A whole file, over one that is there; a reader sees all of it or nothing.

        Raises:
            RunError: the store cannot be reached, or refuses.
        """
        path = f"{self._root}/{name}"
        folder, _, last = path.rpartition("/")
        hidden = path if self._bare else f"{folder}/.{last}.tmp"
        with self._reached():
            if not self._bare:
                self._files.create_dir(folder, recursive=True)
            with self._files.open_output_stream(hidden) as stream:
                stream.write(data)  # in one go: what is closed half written would stand there as if it were whole
            if not self._bare:
                self._files.move(hidden, path)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except (OSError, pa.ArrowException) as error:
            raise _in_one_line(self.url, error) from error


def _opened(url: str) -> tuple[Any, str]:
    """The file system of a URL and the path in it."""
    if not url.startswith("s3://"):
        try:
            files, root = fs.FileSystem.from_uri(url)
            return files, str(root)
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{url} cannot be used ({error}): expected s3://bucket/prefix or gs://bucket/prefix"
            ) from None
    parts = urlsplit(url)
    options: dict[str, Any] = {
        key: {"true": True, "false": False}.get(value, value) for key, value in parse_qsl(parts.query)
    }
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in options:
        scheme, _, address = endpoint.rpartition("://")
        options |= {"endpoint_override": address.rstrip("/"), "scheme": scheme or "https"}
    bucket = parts.netloc
    if not (
        {"region", "endpoint_override"} & options.keys() or os.environ.keys() & {"AWS_REGION", "AWS_DEFAULT_REGION"}
    ):
        options["region"] = _region(bucket)
    retry = fs.AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS)
    limits = {"retry_strategy": retry, "connect_timeout": _CONNECT_SECONDS, "request_timeout": _STALL_SECONDS}
    try:
        return fs.S3FileSystem(**limits | options), f"{bucket}{parts.path}"
    except TypeError as error:
        raise InputError(f"{url} has an option that pyarrow.fs.S3FileSystem does not know ({error})") from None


@cache
def _region(bucket: str) -> str:
    """Asked of Amazon once: a scan opens each run by itself."""
    return str(fs.resolve_s3_region(bucket))


def _in_one_line(url: str, error: Exception) -> RunError:
    """What, where, and what to do; the store's own words behind it."""
    words = " ".join(str(error).split())
    upper = words.upper()
    for marks, reason in _REASONS:
        if any(mark.upper() in upper for mark in marks):
            return RunError(f"{url}: {reason} ({words})")
    return RunError(f"{url} cannot be used ({words}): choose another place, or mend this one")
