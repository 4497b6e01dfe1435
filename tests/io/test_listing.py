"""Listings: all files with their sizes and entity tags, in pages and in parallel, with few requests."""

import hashlib
import threading

import pytest

from raysde.io import listing
from raysde.io.filesystems import child_path, write_bytes
from raysde.io.listing import list_files
from tests.support.counted_store import moto_store


@pytest.fixture(scope="module")
def place():
    with moto_store() as store:
        yield store.uri


def content(name: str) -> bytes:
    return name.encode() * (1 + len(name) % 3)


@pytest.fixture
def requests(monkeypatch):
    """Return the list of the requests that listings make."""
    made, connect = [], listing.connect_s3

    def counted(path):
        client = connect(path)
        client.meta.events.register(
            "before-send.s3", lambda request, **_: made.append((threading.get_ident(), request.url))
        )
        return client

    monkeypatch.setattr(listing, "connect_s3", counted)
    return made


NAMES = [f"train-{number:05d}.parquet" for number in range(60)] + [
    "été.parquet",
    "a b+c%2F.parquet",
    "\U0001f600.parquet",
    "￿.parquet",
]


@pytest.mark.parametrize("page", [1000, 7])
def test_every_file_is_listed_with_its_size_and_tag(place, requests, monkeypatch, page):
    """Also in pages of 7, in several ranges at a time, and with other objects before, between and below the names."""
    monkeypatch.setattr(listing, "PAGE", page)
    others = ["manifest.json", "train-00003", "train-00030.parquet.old", "zzz", "latents-0/train-00000.parquet"]
    store = listing.connect_s3(place("photos"))
    for name in [*NAMES, *others]:
        store.put_object(Bucket="bucket", Key=f"photos/{name}", Body=content(name))
    store.put_object(Bucket="bucket", Key="photos2", Body=b"beside")
    requests.clear()
    found = list_files(place("photos"), [*NAMES[::-1], "missing.parquet"])
    assert set(found) == set(NAMES)
    for name in NAMES:
        assert (found[name].size, found[name].etag) == (len(content(name)), hashlib.md5(content(name)).hexdigest())
    ranges = min(listing.LISTERS, -(-(len(NAMES) + 1) // page))
    assert len(requests) <= ranges + len(NAMES + others) // page + ranges
    assert sum("start-after" in url for _, url in requests) >= ranges - 1


def test_objects_below_the_folder_take_no_pages(place, requests, monkeypatch):
    """Folders of precomputed files hold as many objects as there are shards."""
    monkeypatch.setattr(listing, "PAGE", 7)
    for number in range(40):
        write_bytes(child_path(place("deep"), "latents-0", f"{number}"), b"x")
    write_bytes(child_path(place("deep"), "train"), b"xy")
    assert list_files(place("deep"), ["train"])["train"].size == 2
    assert len(requests) == 1


def test_files_of_a_folder_are_listed_without_tags(tmp_path):
    for name in NAMES[:5]:
        (tmp_path / name).write_bytes(content(name))
    (tmp_path / NAMES[5]).mkdir()
    for path in (str(tmp_path), f"file://{tmp_path}"):
        found = list_files(path, NAMES)
        assert {name: (each.size, each.etag) for name, each in found.items()} == {
            name: (len(content(name)), None) for name in NAMES[:5]
        }
    assert list_files(str(tmp_path / "nothing"), NAMES) == {}


def test_a_listing_without_boto3_has_sizes(place, monkeypatch):
    monkeypatch.setattr(listing, "lists_etags", lambda path: False)
    write_bytes(child_path(place("few"), "a.parquet"), b"123")
    assert list_files(place("few"), ["a.parquet", "b.parquet"]) == {"a.parquet": listing.Listed(3)}


def test_a_store_that_cannot_be_listed_is_named(place, monkeypatch):
    with pytest.raises(OSError, match=r"s3://nobody/photos\?.* cannot be listed: .*NoSuchBucket"):
        list_files(place("photos").replace("bucket/", "nobody/"), NAMES)


def test_nothing_is_listed_for_no_names(place, requests):
    assert list_files(place("photos"), []) == {}
    assert requests == []


def test_a_client_asks_where_pyarrow_asks(monkeypatch):
    """Endpoint, scheme, region, credentials and certificates of the URI are the client's."""
    for name, value in (("AWS_ACCESS_KEY_ID", "env"), ("AWS_SECRET_ACCESS_KEY", "env")):
        monkeypatch.setenv(name, value)
    client = listing.connect_s3("s3://us%2Fer:p%40ss@bucket/a?endpoint_override=host:9000&scheme=http&region=eu-west-3")
    assert (client.meta.endpoint_url, client.meta.region_name) == ("http://host:9000", "eu-west-3")
    known = client._request_signer._credentials
    assert (known.access_key, known.secret_key) == ("us/er", "p@ss")
    assert client.generate_presigned_url("list_objects_v2", Params={"Bucket": "b"}).startswith("http://host:9000/b?")
    client = listing.connect_s3("s3://bucket/a?endpoint_override=host:9000")
    assert client.meta.endpoint_url == "https://host:9000"
    assert client._request_signer._credentials.access_key == "env"
    assert "amazonaws.com" in listing.connect_s3("s3://bucket/a").meta.endpoint_url
