"""An S3 server in this process, for tests without Ray: its requests are real, and its objects are in memory."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import boto3
import pytest
from moto.server import ThreadedMotoServer

PLACES = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}


@contextmanager
def object_store() -> Iterator[Callable[[str], str]]:
    """Start a server with the bucket ``bucket``, and yield a function that makes URIs on it."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in PLACES.items():
            patch.setenv(name, value)
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        try:
            host, port = server.get_host_and_port()
            client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
            client.create_bucket(Bucket="bucket")
            yield lambda path: f"s3://bucket/{path}?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
        finally:
            server.stop()
