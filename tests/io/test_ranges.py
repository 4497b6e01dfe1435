"""Byte ranges of files: one request each, with the options, credentials and errors of pyarrow."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs
import pytest
from werkzeug.wrappers import Response

from raysde.io import object_clients, ranges
from raysde.io.filesystems import open_filesystem, write_bytes
from raysde.io.ranges import read_range
from tests.support.counted_store import CountedStore, moto_store, refuse, set_keys_alone, stall
from tests.support.paths import ROOT

CONTENT = bytes(range(256)) * 40


@pytest.fixture(scope="module")
def server():
    with moto_store() as store:
        write_bytes(store.uri("a/b"), CONTENT)
        yield store


@pytest.fixture
def store(server, monkeypatch) -> CountedStore:
    """Return a store with the object ``a/b``, as a process finds it that has read nothing."""
    set_keys_alone(monkeypatch)
    server.requests.clear()
    return server


def kinds(store: CountedStore) -> list[str]:
    return [each.kind for each in store.requests]


@pytest.mark.parametrize(("start", "length"), [(0, 1), (3, 1000), (len(CONTENT) - 7, 7), (0, len(CONTENT))])
def test_a_range_is_one_request(store, start, length):
    """A new client sends one GET for exactly these bytes, and pyarrow reads the same ones."""
    found = read_range(store.uri("a/b"), start, length)
    assert [(each.kind, each.key, each.size) for each in store.requests] == [("GET", "a/b", length)]
    system, inside = open_filesystem(store.uri("a/b"))
    with system.open_input_file(inside) as source:
        assert found.to_pybytes() == source.read_at(length, start) == CONTENT[start : start + length]


def test_a_new_process_sends_nothing_else(store):
    program = "import sys; from raysde.io.ranges import read_range; print(len(read_range(sys.argv[1], 3, 1000)))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program, store.uri("a/b")]
    assert subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout == "1000\n"
    assert kinds(store) == ["GET"]


@pytest.mark.parametrize("name", ["a b", "a+b", "a%20b", "a%2525", "ü", "a=1,2;x:y@z", "a'(!)*~$&", "x//y", "é/./z"])
def test_keys_mean_what_they_mean_to_pyarrow(store, name):
    uri = store.uri(name.replace("ü", "%C3%BC").replace("é", "%C3%A9"))
    try:
        write_bytes(uri, CONTENT)
    except (OSError, ValueError) as error:
        with pytest.raises(type(error)):
            read_range(uri, 5, 20)
        return
    store.requests.clear()
    assert read_range(uri, 5, 20).to_pybytes() == CONTENT[5:25]
    assert kinds(store) == (["HEAD", "GET"] if "/./" in name else ["GET"])  # obstore refuses the key


def test_a_missing_object_and_a_short_one_are_named(store):
    """No name shows the keys in a URI."""
    for bucket in ("bucket", "nobody"):
        with pytest.raises(FileNotFoundError, match=rf"^s3://{bucket}/a/c does not exist$"):
            read_range(store.uri("a/c", keys="key:secret").replace("bucket/", f"{bucket}/"), 0, 10)
    for start in (len(CONTENT) - 5, len(CONTENT) + 5):
        for _ in range(2):
            with pytest.raises(OSError, match="a/b") as caught:
                read_range(store.uri("a/b", keys="key:secret"), start, 10)
            assert "secret" not in str(caught.value)
    with pytest.raises(OSError, match=r"^s3://bucket/a/b is too short: 5 of 10 bytes from byte 10235 on$"):
        read_range(store.uri("a/b"), len(CONTENT) - 5, 10)
    store.requests.clear()
    read_range(store.uri("a/b"), 0, 10)
    assert kinds(store) == ["GET"]


def test_keys_come_from_the_uri_or_else_the_environment(store, monkeypatch):
    """Changed variables count at once, and obstore's own variables do not."""
    tokens = []
    plain = store.application

    def noted(environment, start_response):
        tokens.append(environment.get("HTTP_X_AMZ_SECURITY_TOKEN"))
        return plain(environment, start_response)

    monkeypatch.setattr(store, "application", noted)
    for name, value in [("AWS_TOKEN", "x"), ("AWS_ENDPOINT", "http://127.0.0.1:1"), ("AWS_SKIP_SIGNATURE", "true"),
                        ("AWS_BUCKET", "x"), ("AWS_VIRTUAL_HOSTED_STYLE_REQUEST", "true"),
                        ("AWS_REGION", "eu-west-1")]:  # fmt: skip
        monkeypatch.setenv(name, value)
    read_range(store.uri("a/b"), 0, 10)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "other")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "token")
    read_range(store.uri("a/b"), 0, 10)
    read_range(store.uri("a/b", keys="mine%2B:secret"), 0, 10)
    assert [(each.kind, each.account) for each in store.requests] == [
        ("GET", "key"),
        ("GET", "other"),
        ("GET", "mine+"),
    ]
    assert tokens == [None, "token", None]


def test_the_endpoint_may_come_from_the_environment(store, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://{store.endpoint}")
    assert read_range("s3://bucket/a/b", 0, 10).to_pybytes() == CONTENT[:10]
    assert read_range(f"s3://bucket/a/b?endpoint_override=http://{store.endpoint}", 0, 10).to_pybytes() == CONTENT[:10]
    assert kinds(store) == ["GET", "GET"]


@pytest.mark.parametrize("fault", [refuse(503), refuse(500), refuse(429), stall(20)])
def test_passing_faults_are_retried(store, monkeypatch, fault):
    monkeypatch.setitem(object_clients.HTTP, "read_timeout", "1s")
    store.faults.append(fault)
    begin = time.monotonic()
    assert read_range(store.uri("a/b"), 3, 10).to_pybytes() == CONTENT[3:13]
    assert time.monotonic() - begin < 15
    assert set(kinds(store)) == {"GET"}


def test_pyarrow_reads_what_obstore_cannot(store):
    """pyarrow takes over if the first request of a bucket fails; later it helps out for a single range."""
    denied = "<Error><Code>AccessDenied</Code></Error>"
    store.faults.append(lambda: Response(denied, 403))
    for _ in range(2):
        assert read_range(store.uri("a/b"), 0, 10).to_pybytes() == CONTENT[:10]
    assert kinds(store) == ["GET", "HEAD", "GET", "HEAD", "GET"]
    ranges._open_bucket.cache_clear()
    store.requests.clear()
    for fails in (False, True, False):
        store.faults += [lambda: Response(denied, 403)] * fails
        read_range(store.uri("a/b"), 0, 10)
    assert kinds(store) == ["GET", "GET", "HEAD", "GET", "GET"]
    store.faults += [lambda: Response(denied, 403)] * 2
    with pytest.raises(OSError, match="a/b"):
        read_range(store.uri("a/b"), 0, 10)


def test_threads_share_one_client(store, monkeypatch):
    made, plain = [], ranges.open_client
    monkeypatch.setattr(ranges, "open_client", lambda uri: made.append(uri) or plain(uri))
    meeting = threading.Barrier(8, timeout=20)

    def read(number: int) -> bytes:
        meeting.wait()
        return read_range(store.uri("a/b"), number, 100).to_pybytes()

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(64))) == [CONTENT[number : number + 100] for number in range(64)]
    assert kinds(store) == ["GET"] * 64
    assert len(made) == 1


def test_a_forked_process_reads_too(store):
    """The threads of obstore are not in a forked process, which would wait for them forever."""
    read_range(store.uri("a/b"), 0, 10)
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # pytest's own handler would wait for obstore
        signal.alarm(20)
        os._exit(0 if read_range(store.uri("a/b"), 3, 10).to_pybytes() == CONTENT[3:13] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_local_files_and_other_systems_are_read_by_pyarrow(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(CONTENT)
    monkeypatch.setattr(ranges, "open_client", lambda uri: pytest.fail("obstore was asked"))
    assert read_range(str(tmp_path / "a"), 3, 10).to_pybytes() == CONTENT[3:13]
    assert read_range(f"file://{tmp_path}/a", 3, 10).to_pybytes() == CONTENT[3:13]
    with pytest.raises(FileNotFoundError, match=rf"^{tmp_path}/c does not exist$"):
        read_range(str(tmp_path / "c"), 0, 1)
    asked = []
    local = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    monkeypatch.setattr(ranges, "open_filesystem", lambda path: asked.append(path) or (local, "a"))
    assert read_range("hdfs://name/a", 3, 10).to_pybytes() == CONTENT[3:13]
    assert asked == ["hdfs://name/a"]
    with pytest.raises(OSError, match=r"hdfs://name/a is too short: 5 of 10 bytes from byte 10235 on"):
        read_range("hdfs://name/a", len(CONTENT) - 5, 10)
