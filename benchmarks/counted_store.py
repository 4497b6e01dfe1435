"""An object store that answers boto3's listings from memory, with a count of its requests."""

import hashlib
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from botocore.awsrequest import AWSResponse

from raysde.io import listing


class CountedStore:
    """A bucket of objects; boto3 clients that :meth:`attach` gets list it as S3 does, 1,000 objects at a time.

    Args:
        keys: keys of the objects.
        size: size in bytes of each object.
    """

    def __init__(self, keys: Iterable[str], size: int = 1) -> None:
        self.keys, self.size, self.requests = sorted(keys), size, 0
        self.lock = threading.Lock()

    def attach(self, client: Any) -> Any:
        """Let a client ask this store, and return it."""
        client.meta.events.register("before-send.s3.ListObjectsV2", self.answer)
        return client

    def connect(self, path: str) -> Any:
        """Return a client of this store, in place of :func:`raysde.io.listing.connect_s3`."""
        return self.attach(CONNECT(f"{path.partition('?')[0]}?endpoint_override=127.0.0.1:1&region=us-east-1"))

    def answer(self, request: Any, **_: Any) -> AWSResponse:
        """Return the response to a ListObjectsV2 request."""
        with self.lock:
            self.requests += 1
        asked = {name: values[0] for name, values in parse_qs(urlsplit(request.url).query).items()}
        prefix, after = asked.get("prefix", ""), asked.get("continuation-token", asked.get("start-after", ""))
        most = min(1000, int(asked.get("max-keys", 1000)))
        first = max(bisect_left(self.keys, prefix), bisect_right(self.keys, after))
        page = [key for key in self.keys[first : first + most] if key.startswith(prefix)]
        more = first + most < len(self.keys) and len(page) == most
        token = f"<NextContinuationToken>{escape(page[-1])}</NextContinuationToken>" if more else ""
        entries = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{self.size}</Size><ETag>&quot;{etag_of(key)}&quot;</ETag></Contents>"
            for key in page
        )
        body = f"<ListBucketResult><IsTruncated>{str(more).lower()}</IsTruncated>{token}{entries}</ListBucketResult>"
        return AWSResponse(request.url, 200, {}, Body(body.encode()))


class Body:
    """The raw body of a response, as botocore reads it."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    def stream(self, **_: Any) -> Iterable[bytes]:
        yield self.content


def etag_of(key: str) -> str:
    """Return the entity tag of the object at a key."""
    return hashlib.md5(key.encode(), usedforsecurity=False).hexdigest()


CONNECT = listing.connect_s3
