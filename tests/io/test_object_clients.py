"""Clients of obstore: the addresses, options and credentials of pyarrow, or none."""

import json
from pathlib import Path

import certifi
import pytest

from raysde.io import object_clients
from raysde.io.filesystems import open_filesystem
from raysde.io.object_clients import open_client
from raysde.io.ranges import read_range
from tests.support.counted_store import CountedStore, Files, set_keys_alone

CONTENT = bytes(range(256)) * 40
S3 = "s3://bucket/?region=us-east-1"


@pytest.fixture(autouse=True)
def _keys(monkeypatch) -> None:
    set_keys_alone(monkeypatch)


def config_of(uri: str) -> dict:
    return dict(open_client(uri).config)


def test_the_address_of_a_bucket_is_that_of_its_region():
    for uri, address in [
        ("s3://bucket/?region=eu-west-1", "https://bucket.s3.eu-west-1.amazonaws.com"),
        ("s3://my.bucket/?region=us-gov-east-1", "https://s3.us-gov-east-1.amazonaws.com"),
        ("s3://bucket/?region=us-east-2&scheme=http", "http://bucket.s3.us-east-2.amazonaws.com"),
        ("s3://bucket/?endpoint_override=host:9", "https://host:9"),
        ("s3://bucket/?endpoint_override=http://host:9&region=cn-north-1", "http://host:9"),
        ("s3://bucket/?endpoint_override=host:9&scheme=http&endpoint_override=other", "http://host:9"),
    ]:
        found = config_of(uri)
        assert (found["endpoint"], found["aws_endpoint_url_s3" if "aws_endpoint_url_s3" in found else "endpoint"]) == (
            address,
            address,
        )
        assert (found["virtual_hosted_style_request"] == "true") == ("//bucket.s3" in address)
        assert found["region"] == open_filesystem(uri)[0].region


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/?region=cn-north-1",
        "s3://bucket/?region=us-iso-east-1",
        "s3://bucket--use1-az5--x-s3/?region=us-east-1",
        "s3://bucket/?region=us-east-1&tls_ca_dir_path=/etc/ssl",
        "s3://bucket/?region=us-east-1&smart_defaults=auto",
        "s3://bucket/?region=us-east-1&tls_ca_file_path=/nowhere.pem",
        "gs://anonymous@bucket/?endpoint_override=127.0.0.1:9",
        "gs://anonymous@bucket/?scheme=http",
    ],
)
def test_pyarrow_reads_buckets_with_options_of_its_own(uri):
    assert open_client(uri) is None


def test_options_of_certificates_are_passed_on(tmp_path):
    assert open_client(S3).client_options["allow_http"]
    assert "allow_invalid_certificates" not in open_client(S3 + "&tls_verify_certificates=true").client_options
    assert open_client(S3 + "&tls_verify_certificates=false").client_options["allow_invalid_certificates"]
    given = open_client(f"{S3}&tls_ca_file_path={certifi.where()}").client_options
    assert given["root_certificate"] == Path(certifi.where()).read_bytes()


@pytest.mark.parametrize(
    ("variables", "read"),
    [
        ({"AWS_EC2_METADATA_DISABLED": "TRUE"}, False),
        ({}, True),  # a role of the instance
        ({"AWS_CONFIG_FILE": __file__}, False),
        ({"AWS_SHARED_CREDENTIALS_FILE": __file__}, False),
        ({"AWS_SHARED_CREDENTIALS_FILE": __file__, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}, True),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": __file__, "AWS_ROLE_ARN": "arn"}, True),
        ({"AWS_WEB_IDENTITY_TOKEN_FILE": __file__}, False),
        ({"AWS_CONTAINER_CREDENTIALS_RELATIVE_URI": "/x"}, True),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1"}, False),
        ({"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://127.0.0.1:1", "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "x"}, True),
        ({"AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:1"}, False),
        ({"AWS_USE_FIPS_ENDPOINT": "true"}, False),
        ({"HTTPS_PROXY": "http://127.0.0.1:1"}, False),
        ({"HTTPS_PROXY": "http://127.0.0.1:1", "NO_PROXY": ".amazonaws.com"}, True),
    ],
)  # fmt: skip
def test_obstore_reads_with_the_credentials_that_it_knows(monkeypatch, variables, read):
    """The client is made and not used, so that nothing asks for a role."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (open_client(S3) is not None) == read
    if "NO_PROXY" not in variables and "HTTPS_PROXY" not in variables and "FIPS" not in str(variables):
        assert open_client(S3.replace("bucket", "k:s@bucket")) is not None or "SERVICE_ENDPOINT" in str(variables)


def test_a_range_of_google_storage_is_one_request(tmp_path, monkeypatch):
    """Credentials that the two libraries take from different places or kinds of files are left to pyarrow."""
    (tmp_path / "a b").write_bytes(CONTENT)
    with CountedStore(Files(str(tmp_path))) as google:
        monkeypatch.setattr(object_clients, "GCS", f"http://{google.endpoint}")
        assert read_range("gs://anonymous@bucket/a%20b", 3, 10).to_pybytes() == CONTENT[3:13]
        assert [(each.kind, each.key, each.size) for each in google.requests] == [("GET", "a b", 10)]
        with pytest.raises(FileNotFoundError, match=r"^gs://bucket/c does not exist$"):
            read_range("gs://anonymous@bucket/c?project_id=x", 3, 10)
    own = {"client_email": "", "private_key": "", "private_key_id": "", "disable_oauth": True}
    (tmp_path / "key.json").write_text(json.dumps(own))
    for name in ("GOOGLE_SERVICE_ACCOUNT", "CLOUD_STORAGE_EMULATOR_ENDPOINT"):
        with monkeypatch.context() as context:
            context.setenv(name, str(tmp_path / "key.json"))
            assert open_client("gs://anonymous@bucket/") is None
    (tmp_path / "key.json").write_text('{"type": "external_account"}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    assert open_client("gs://anonymous@bucket/") is None
