"""Results as objects of Amazon S3, or of a store that speaks its protocol (``s3://``).

One object for each key, in the bucket ``s3_bucket``, below ``s3_base_path``. S3 has no expiry of
single objects: give the bucket a lifecycle rule. Other settings: ``s3_access_key_id``,
``s3_secret_access_key``, ``s3_region``, ``s3_endpoint_url``; without keys the usual places are
looked at.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from celery.backends._versioned import once_per_process
from celery.backends.base import KeyValueStoreBackend
from celery.exceptions import ImproperlyConfigured

try:
    import boto3
    import botocore.config
    import botocore.exceptions
except ImportError:
    boto3 = None

__all__ = ("S3Backend",)

E_MISSING = "The S3 result back-end needs the package boto3: pip install 'celery[s3]'"
E_NO_BUCKET = "The S3 result back-end needs the setting s3_bucket: the name of an existing bucket"

#: Seconds for a connection, and for an answer.
TIMEOUTS_S = (10, 30)
#: What S3 says of an object that is not there.
ABSENT = frozenset({"404", "NoSuchKey"})


class S3Backend(KeyValueStoreBackend):
    """Keeps results in a bucket.

    Raises:
        ImproperlyConfigured: boto3 is not installed, or no bucket is set.
    """

    supports_result_compression = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if boto3 is None:
            raise ImproperlyConfigured(E_MISSING)
        conf = self.app.conf
        self.endpoint_url = conf.get("s3_endpoint_url", None)
        self.aws_region = conf.get("s3_region", None)
        self.aws_access_key_id = conf.get("s3_access_key_id", None)
        self.aws_secret_access_key = conf.get("s3_secret_access_key", None)
        self.bucket_name = conf.get("s3_bucket", None)
        if not self.bucket_name:
            raise ImproperlyConfigured(E_NO_BUCKET)
        self.base_path = conf.get("s3_base_path", None) or ""

    @once_per_process
    def _client(self) -> Any:
        connect_s, read_s = TIMEOUTS_S
        return boto3.session.Session(
            aws_access_key_id=self.aws_access_key_id,
            aws_secret_access_key=self.aws_secret_access_key,
            region_name=self.aws_region,
        ).client(
            "s3",
            endpoint_url=self.endpoint_url,
            config=botocore.config.Config(connect_timeout=connect_s, read_timeout=read_s),
        )

    def _where(self, key: Any) -> dict[str, str]:
        return {"Bucket": self.bucket_name, "Key": f"{self.base_path}{bytes_to_str(key)}"}

    def get(self, key: Any) -> bytes | None:
        """Read an object, None when there is none."""
        try:
            found = self._client.get_object(**self._where(key))
        except botocore.exceptions.ClientError as exc:
            if exc.response["Error"]["Code"] in ABSENT:
                return None
            raise
        content: bytes = found["Body"].read()
        return content

    def mget(self, keys: Iterable[Any]) -> list[bytes | None]:
        """Read many objects, one after the other."""
        return [self.get(key) for key in keys]

    def set(self, key: Any, value: Any) -> None:
        """Write an object."""
        self._client.put_object(**self._where(key), Body=ensure_bytes(value))

    def delete(self, key: Any) -> None:
        """Delete an object; a missing one is fine."""
        self._client.delete_object(**self._where(key))
