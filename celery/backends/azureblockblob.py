"""Results as blobs of Azure Storage (``azureblockblob://CONNECTION_STRING``).

Each key is a blob of the container ``azureblockblob_container_name``, which is made when it is
missing, below ``azureblockblob_base_path``. Instead of a connection string the URL may name a
credential and an account: ``azureblockblob://DefaultAzureCredential@https://ACCOUNT.blob…``, or
``ManagedIdentityCredential``. What has expired is deleted by the clean-up task, unless a rule of
the account does so. Other settings: ``azureblockblob_connection_timeout`` and ``_read_timeout``,
and for what the client tries again ``azureblockblob_retry_initial_backoff_sec``,
``_retry_increment_base`` and ``_retry_max_attempts``.
"""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from celery.backends._versioned import Stored, VersionedBackend, once_per_process
from celery.exceptions import ImproperlyConfigured

try:
    import azure.storage.blob as azurestorage
    from azure.core import MatchConditions
    from azure.core.exceptions import (
        HttpResponseError,
        ResourceExistsError,
        ResourceModifiedError,
        ResourceNotFoundError,
        ServiceRequestError,
        ServiceResponseError,
    )

    from celery.backends import _http
except ImportError:
    azurestorage = None

__all__ = ("AzureBlockBlobBackend",)

E_MISSING = (
    "The Azure result back-end needs the package azure-storage-blob:"
    " pip install 'celery[azureblockblob]'"
)
E_NO_URL = "The Azure result back-end needs a URL: azureblockblob://CONNECTION_STRING"
E_NO_IDENTITY = (
    "The Azure result back-end needs the package azure-identity for {0}:"
    " pip install 'celery[azureblockblob]'"
)

AZURE_BLOCK_BLOB_CONNECTION_PREFIX = "azureblockblob://"
#: What is written instead of a connection string.
CREDENTIAL = re.compile(r"(DefaultAzureCredential|ManagedIdentityCredential)@(.+)")
SECRETS = re.compile(r"((?:AccountKey|SharedAccessSignature)=)[^;]+", re.IGNORECASE)


class AzureBlockBlobBackend(VersionedBackend):
    """Keeps results in a container.

    Args:
        url: See the module.
        container_name: Instead of the one in the settings.

    Raises:
        ImproperlyConfigured: azure-storage-blob is not installed, or the URL is empty.
    """

    def __init__(
        self, url: str | None = None, container_name: str | None = None, *args: Any, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        if azurestorage is None:
            raise ImproperlyConfigured(E_MISSING)
        self._where = (url or "").removeprefix(AZURE_BLOCK_BLOB_CONNECTION_PREFIX)
        if not self._where:
            raise ImproperlyConfigured(E_NO_URL)
        self.url = url
        conf = self.app.conf
        self._container_name = container_name or conf["azureblockblob_container_name"]
        self.base_path = conf.get("azureblockblob_base_path", "") or ""
        self._options = {
            "connection_timeout": conf["azureblockblob_connection_timeout"],
            "read_timeout": conf["azureblockblob_read_timeout"],
            "retry_policy": azurestorage.ExponentialRetry(
                initial_backoff=conf["azureblockblob_retry_initial_backoff_sec"],
                increment_base=conf["azureblockblob_retry_increment_base"],
                retry_total=conf["azureblockblob_retry_max_attempts"],
            ),
        }

    def __reduce__(self, args: tuple[Any, ...] = (), kwargs: Any = None) -> tuple[Any, ...]:
        return super().__reduce__(args, {"container_name": self._container_name, **(kwargs or {})})

    def as_uri(self, include_password: bool = False) -> str:
        """Return the URL, as a rule with the secrets of the connection string masked."""
        url = self.url or ""
        return url if include_password else SECRETS.sub(r"\1**", url)

    @once_per_process
    def _container(self) -> Any:
        named = CREDENTIAL.fullmatch(self._where)
        if named:
            credential, account = named.groups()
            service = azurestorage.BlobServiceClient(
                account, credential=_credential(credential), **self._options
            )
        else:
            service = azurestorage.BlobServiceClient.from_connection_string(
                self._where, **self._options
            )
        return service.get_container_client(self._container_name)

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Say whether another attempt may succeed."""
        if isinstance(exc, HttpResponseError):
            return exc.status_code in _http.PASSING
        return isinstance(exc, (ServiceRequestError, ServiceResponseError))

    def _name(self, key: Any) -> str:
        return f"{self.base_path}{bytes_to_str(key)}"

    def load(self, key: Any) -> Stored | None:
        """Read a blob with its tag, None when there is none."""
        try:
            found = self._container.download_blob(self._name(key))
            return Stored(found.readall(), found.properties.etag)
        except ResourceNotFoundError:
            return None

    def replace(self, key: Any, value: Any, version: Any) -> bool:
        """Write a blob if that tag is still there; None: if there is none."""
        condition: dict[str, Any] = {"overwrite": version is not None}
        if version is not None:
            condition.update(etag=version, match_condition=MatchConditions.IfNotModified)
        try:
            self._upload(self._name(key), ensure_bytes(value), condition)
        except (ResourceExistsError, ResourceModifiedError):
            return False
        return True

    def _upload(self, name: str, content: bytes, condition: dict[str, Any]) -> None:
        try:
            self._container.upload_blob(name, content, **condition)
        except ResourceNotFoundError:
            # It exists when another process has just made it, or when the blob is what is gone.
            with suppress(ResourceExistsError):
                self._container.create_container()
            self._container.upload_blob(name, content, **condition)

    def delete(self, key: Any) -> None:
        """Delete a blob; a missing one is fine."""
        try:
            self._container.delete_blob(self._name(key))
        except ResourceNotFoundError:
            return

    def cleanup(self) -> None:
        """Delete what was stored longer ago than ``result_expires``."""
        if not self.expires:
            return
        oldest = datetime.now(UTC) - timedelta(seconds=self.expires)
        for prefix in (self.task_keyprefix, self.group_keyprefix):
            for blob in self._container.list_blobs(name_starts_with=self._name(prefix)):
                if blob.last_modified < oldest:
                    self._delete_version(blob)

    def _delete_version(self, blob: Any) -> None:
        try:
            self._container.delete_blob(
                blob.name, etag=blob.etag, match_condition=MatchConditions.IfNotModified
            )
        except (ResourceModifiedError, ResourceNotFoundError):
            # Written in the meantime, or cleaned by another process.
            return


def _credential(name: str) -> Any:
    try:
        import azure.identity
    except ImportError as exc:
        raise ImproperlyConfigured(E_NO_IDENTITY.format(name)) from exc
    return getattr(azure.identity, name)()
