"""Clients of obstore that read a bucket with the options and credentials that pyarrow would use."""

import os
import re
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from obstore.exceptions import BaseError
from obstore.store import GCSStore, S3Store

from raysde.io.filesystems import open_filesystem

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Credential

GCS = "https://storage.googleapis.com"
REGION = re.compile(r"(?:us-gov|af|ap|ca|eu|il|me|mx|sa|us)-[a-z]+-\d+", re.ASCII)
"""A region of AWS with endpoints in amazonaws.com."""
OPTIONS = {"endpoint_override", "scheme", "region", "tls_ca_file_path", "tls_verify_certificates"}
"""Options of s3:// URIs that obstore knows."""
UNUSED = {"allow_bucket_creation", "allow_bucket_deletion", "allow_delayed_open", "project_id", "retry_limit_seconds"}
"""Options that do not concern ranges."""
VARIABLES = {
    "s3": {"AWS_USE_FIPS_ENDPOINT", "AWS_USE_DUALSTACK_ENDPOINT", "AWS_EC2_METADATA_SERVICE_ENDPOINT"},
    "gs": {"CLOUD_STORAGE_EMULATOR_ENDPOINT", "GCE_METADATA_ROOT", "SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT",
           "GOOGLE_SERVICE_ACCOUNT_PATH", "GOOGLE_SERVICE_ACCOUNT_KEY", "GOOGLE_BEARER_TOKEN"},
}  # fmt: skip
"""Environment variables that change requests and that only one of the two libraries reads."""
HTTP: "ClientConfig" = {"timeout": "2min", "read_timeout": "20s", "connect_timeout": "5s", "allow_http": True}
RETRIES: "RetryConfig" = {"max_retries": 10, "retry_timeout": timedelta(minutes=3)}
"""Time-outs, lost connections and the statuses 429 and 5xx are retried, after pauses of 0.1 to 15 s."""


def open_client(uri: str) -> S3Store | GCSStore | None:
    """Return obstore's client of a bucket; None if obstore would not read it as pyarrow does.

    It is None for:

    - options without an equivalent: ``tls_ca_dir_path`` and ``smart_defaults`` of s3://, and ``endpoint_override`` and
      ``scheme`` of gs://, where pyarrow uses another protocol;
    - buckets in a region outside amazonaws.com or in a single availability zone;
    - credentials from a profile in ``~/.aws``, also by SSO or an assumed role;
    - a proxy for the bucket's endpoint in the environment, which only obstore would use.

    Keys in the URI or in the environment, web identities and roles of containers and instances are the same for both.

    Args:
        uri: URI of a bucket, with options.
    """
    scheme = urlsplit(uri).scheme
    if VARIABLES[scheme] & os.environ.keys():
        return None
    try:
        return _open_s3(uri) if scheme == "s3" else _open_gcs(uri)
    except (BaseError, OSError):  # a file of credentials or certificates that obstore cannot read
        return None


def _open_s3(uri: str) -> S3Store | None:
    (system, bucket), options = open_filesystem(uri), _options_of(uri)
    given = os.environ.get("AWS_ENDPOINT_URL_S3", os.environ.get("AWS_ENDPOINT_URL", ""))
    given, scheme = options.get("endpoint_override", given), options.get("scheme", "https")
    with_host = not given and re.fullmatch(r"[a-z0-9-]+", bucket) is not None
    endpoint = given or f"{f'{bucket}.' if with_host else ''}s3.{system.region}.amazonaws.com"
    endpoint = endpoint if "://" in endpoint else f"{scheme}://{endpoint}"
    credentials = _find_keys(uri)
    if (
        not options.keys() <= OPTIONS | UNUSED
        or not (given or REGION.fullmatch(system.region))
        or bucket.endswith("--x-s3")
        or (credentials is None and not _has_role())
        or _has_proxy(endpoint)
    ):
        return None
    http = HTTP.copy()
    if options.get("tls_verify_certificates", "true").lower() in ("false", "0"):
        http["allow_invalid_certificates"] = True
    if file := options.get("tls_ca_file_path"):
        http["root_certificate"] = Path(file).read_bytes()
    # obstore takes settings that are not given from variables that pyarrow does not read
    return S3Store(
        bucket, endpoint=endpoint, aws_endpoint_url_s3=endpoint, region=system.region, request_payer=False,
        s3_express=False, skip_signature=False, virtual_hosted_style_request=with_host, client_options=http,
        retry_config=RETRIES, credential_provider=credentials,
    )  # fmt: skip


def _open_gcs(uri: str) -> GCSStore | None:
    if not _options_of(uri).keys() <= UNUSED or _has_proxy(GCS):
        return None
    anonymous = urlsplit(uri).username == "anonymous"
    _, bucket = open_filesystem(uri)
    return GCSStore(bucket, base_url=GCS, skip_signature=anonymous, client_options=HTTP, retry_config=RETRIES)


def _options_of(uri: str) -> dict[str, str]:
    return dict(reversed(parse_qsl(urlsplit(uri).query)))  # pyarrow takes the first of equal names


def _find_keys(uri: str) -> "Callable[[], S3Credential] | None":
    """Return a function that returns the access keys in a URI, or else in the environment; None if there are none."""
    parts = urlsplit(uri)
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    key, secret, token = (os.environ.get(name, "") for name in names)
    if parts.username:
        key, secret, token = unquote(parts.username), unquote(parts.password or ""), ""
    found: S3Credential = {
        "access_key_id": key, "secret_access_key": secret, "token": token or None, "expires_at": None,
    }  # fmt: skip
    return (lambda: found) if key else None


def _has_role() -> bool:
    """Return True if the first source of credentials in the order of AWS's SDK, after keys, is a role obstore knows."""
    files = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
    if any(Path(os.environ.get(name, usual)).expanduser().exists() for name, usual in files.items()):
        return False
    if "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ:
        return "AWS_ROLE_ARN" in os.environ
    if "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI" in os.environ:
        return True
    if "AWS_CONTAINER_CREDENTIALS_FULL_URI" in os.environ:
        return "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE" in os.environ
    return os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() != "true"


def _has_proxy(url: str) -> bool:
    """Return True if the environment names a proxy for a URL."""
    parts, proxies = urlsplit(url), getproxies_environment()
    named = parts.scheme in proxies or "all" in proxies
    return named and not proxy_bypass(parts.hostname or "", proxies)
