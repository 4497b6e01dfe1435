"""An S3 server on threads of this process that counts requests."""

import hashlib
import os
import re
import threading
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.wrappers import Request, Response

from raysde.io import ranges

KEYS = {
    "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "127.0.0.1",
}  # fmt: skip


def set_keys_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set ``KEYS`` and no other variable that clients read, as for a process that has read nothing."""
    for name in [name for name in os.environ if name.startswith(("AWS_", "GOOGLE_"))]:
        monkeypatch.delenv(name)
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nowhere")
    ranges._open_bucket.cache_clear()


@dataclass(frozen=True)
class Counted:
    """A request and its answer.

    Attributes:
        kind: the method of HTTP, or LIST for a listing.
        key: key of the object, or the prefix of a listing.
        size: bytes of the answer's body.
        status: status of the answer.
        account: access key that signed the request; None for an anonymous request.
    """

    kind: str
    key: str
    size: int
    status: int
    account: str | None


class CountedStore:
    """A server of the bucket ``bucket``, to be used in a ``with`` statement.

    Args:
        application: WSGI application that answers; by default that of moto, an S3 server in memory.

    Attributes:
        requests: the requests so far, in the order of their answers.
        faults: functions that answer the next requests in place of the application, the first one first.
    """

    def __init__(self, application: Callable | None = None) -> None:
        self.application = application or DomainDispatcherApplication(create_backend_app)
        self.requests: list[Counted] = []
        self.faults: list[Callable[[], Response]] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "CountedStore":
        self.server = make_server("127.0.0.1", 0, self, threaded=True, request_handler=Quiet)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    @property
    def endpoint(self) -> str:
        return f"127.0.0.1:{self.server.server_port}"

    def uri(self, path: str = "", keys: str = "") -> str:
        """Return the URI of a path in the bucket; ``keys`` are KEY:SECRET."""
        account = f"{keys}@" if keys else ""
        return f"s3://{account}bucket/{path}?endpoint_override={self.endpoint}&scheme=http&region=us-east-1"

    def of(self, kind: str, end: str = "") -> list[Counted]:
        """Return the requests of one kind for keys that end with ``end``."""
        return [each for each in self.requests if each.kind == kind and each.key.endswith(end)]

    def read(self, end: str = "") -> list[int]:
        """Return the bytes of each GET of a key that ends with ``end``."""
        return [each.size for each in self.of("GET", end)]

    def __call__(self, environment: dict, start_response: Callable) -> Iterable[bytes]:
        asked = Request(environment)
        with self.lock:
            fault = self.faults.pop(0) if self.faults else None
        answer = fault() if fault else Response.from_app(self.application, environment)
        _, _, key = asked.path.lstrip("/").partition("/")
        listing = asked.method == "GET" and not key
        signed = re.search("Credential=([^/]+)/", asked.headers.get("Authorization", ""))
        counted = Counted(
            "LIST" if listing else asked.method,
            asked.args.get("prefix", "") if listing else key,
            0 if asked.method == "HEAD" else answer.calculate_content_length() or 0,
            answer.status_code,
            signed and signed[1],
        )
        with self.lock:
            self.requests.append(counted)
        return answer(environment, start_response)


class Quiet(WSGIRequestHandler):
    """A handler that keeps connections open and logs nothing."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *given: Any) -> None:
        pass


@contextmanager
def moto_store() -> Iterator[CountedStore]:
    """Start an empty store in memory that can be written, and set keys in the environment."""
    with pytest.MonkeyPatch.context() as patch, CountedStore() as store:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        client = boto3.client("s3", endpoint_url=f"http://{store.endpoint}", region_name="us-east-1")
        client.create_bucket(Bucket="bucket")
        store.requests.clear()
        yield store


@contextmanager
def folder_store(find: Callable[[str], Path] | str) -> Iterator[CountedStore]:
    """Start a store that reads the files of a folder, or the file that ``find`` names for each key."""
    with pytest.MonkeyPatch.context() as patch, CountedStore(Files(find)) as store:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        yield store


def refuse(status: int) -> Callable[[], Response]:
    """Return a fault: an answer with a status and without a body."""
    return lambda: Response(status=status)


class Objects:
    """An application that lists objects and does not have their content.

    Args:
        keys: keys of the objects.
        size: size of each object in bytes.
    """

    def __init__(self, keys: Iterable[str] = (), size: int = 1) -> None:
        self.names, self.size = sorted(keys), size

    def keys(self) -> Sequence[str]:
        return self.names

    def size_of(self, key: str) -> int:
        return self.size

    def __call__(self, environment: dict, start_response: Callable) -> Iterable[bytes]:
        asked = Request(environment)
        key = asked.path.lstrip("/").partition("/")[2]
        answer = self.give(key, asked) if key else self.list(asked.args)
        return answer(environment, start_response)

    def give(self, key: str, asked: Request) -> Response:
        return Response(status=404)

    def list(self, asked: Any) -> Response:
        """Answer ListObjectsV2, as S3 does, at most 1,000 entries at a time."""
        names, prefix, mark = self.keys(), asked.get("prefix", ""), asked.get("delimiter", "")
        most = min(1000, int(asked.get("max-keys", 1000)))
        after = asked.get("continuation-token", asked.get("start-after", ""))
        place = max(bisect_left(names, prefix), bisect_right(names, after))
        entries: list[tuple[str, bool]] = []
        while place < len(names) and names[place].startswith(prefix) and len(entries) < most:
            inner, found, _ = names[place][len(prefix) :].partition(mark) if mark else ("", "", "")
            entries.append((prefix + inner + mark, True) if found else (names[place], False))
            place = bisect_right(names, prefix + inner + mark + "\U0010ffff") if found else place + 1
        more = place < len(names) and names[place].startswith(prefix)
        last = entries[-1][0] + ("\U0010ffff" if entries[-1][1] else "") if entries else ""
        token = f"<NextContinuationToken>{escape(last)}</NextContinuationToken>" if more else ""
        body = "".join(
            f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
            if common
            else f"<Contents><Key>{escape(key)}</Key><Size>{self.size_of(key)}</Size>"
            f"<LastModified>2026-11-30T00:00:00.000Z</LastModified><ETag>&quot;{etag_of(key)}&quot;</ETag></Contents>"
            for key, common in entries
        )
        head = f"<KeyCount>{len(entries)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
        return Response(f"<ListBucketResult>{head}{body}</ListBucketResult>", mimetype="application/xml")


class Files(Objects):
    """An application that gives and lists the files of a folder, or gives the file that a function names for a key."""

    def __init__(self, find: Callable[[str], Path] | str) -> None:
        super().__init__()
        self.folder = find if isinstance(find, str) else None
        self.find = Path(find).joinpath if isinstance(find, str) else find

    def keys(self) -> Sequence[str]:
        assert self.folder is not None, "a store of single files has no listing"
        root = Path(self.folder)
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def size_of(self, key: str) -> int:
        return self.find(key).stat().st_size

    def give(self, key: str, asked: Request) -> Response:
        """Answer GET, of the whole object or a range, and HEAD."""
        path = self.find(key)
        if not path.is_file():
            return Response(status=404)
        size = path.stat().st_size
        headers = {"ETag": f'"{etag_of(key)}"', "Last-Modified": formatdate(0, usegmt=True), "Accept-Ranges": "bytes"}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", asked.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        stop = min(size, int(wanted[2]) + 1 if wanted and wanted[2] else size)
        if asked.method == "HEAD":
            return Response(headers=headers | {"Content-Length": str(size)})
        if wanted and start >= size:
            return Response(status=416)
        with path.open("rb") as source:
            source.seek(start)
            body = source.read(stop - start)
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Response(body, 206 if wanted else 200, headers)


def etag_of(key: str) -> str:
    """Return the entity tag of the object at a key."""
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()


def stall(seconds: float) -> Callable[[], Response]:
    """Return a fault: an answer that comes late."""

    def late() -> Response:
        time.sleep(seconds)
        return Response(status=503)

    return late
