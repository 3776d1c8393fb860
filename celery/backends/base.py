"""The public face of result back-ends: what adapters derive from.

The parts live in private siblings: `_backend` the port, `_keyvalue` stores of keys and values,
`_wait` polling.
"""

from __future__ import annotations

from typing import Any, NoReturn

from celery._protocol.meta import COMPRESSED_MARK
from celery._state import get_current_task as get_current_task
from celery.backends._backend import (
    E_CHORD_NO_BACKEND,
    E_NO_BACKEND,
    E_UNKNOWN_COMPRESSION as E_UNKNOWN_COMPRESSION,
    EXCEPTION_ABLE_CODECS as EXCEPTION_ABLE_CODECS,
    MESSAGE_BUFFER_MAX as MESSAGE_BUFFER_MAX,
    W_COMPRESSION_UNSUPPORTED as W_COMPRESSION_UNSUPPORTED,
    W_FAILURE_EXPIRES_UNSUPPORTED as W_FAILURE_EXPIRES_UNSUPPORTED,
    Backend as Backend,
    compress_payload,
    decompress_payload,
    pending_results_t,
    unpickle_backend,
)
from celery.backends._keyvalue import (
    BaseKeyValueStoreBackend as BaseKeyValueStoreBackend,
    KeyValueStoreBackend,
)
from celery.backends._wait import SyncBackendMixin

__all__ = ("BaseBackend", "DisabledBackend", "KeyValueStoreBackend")


class BaseBackend(Backend, SyncBackendMixin):
    """A back-end that is asked again and again for results."""


BaseDictBackend = BaseBackend

COMPRESSED_PAYLOAD_MAGIC = COMPRESSED_MARK


class DisabledBackend(BaseBackend):
    """Stores nothing, and says so when asked."""

    def store_result(self, *args: Any, **kwargs: Any) -> None:
        """Drop the result: nobody configured a place for it."""

    def ensure_chords_allowed(self) -> NoReturn:
        """Refuse: chords need stored results."""
        raise NotImplementedError(E_CHORD_NO_BACKEND.strip())

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Do nothing: no chord can have started."""

    def _is_disabled(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(E_NO_BACKEND.strip())

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        """Return ``disabled://``."""
        return "disabled://"

    get_state = get_status = get_result = get_traceback = _is_disabled
    get_task_meta_for = wait_for = get_many = _get_task_meta_for = _is_disabled


#: Moved to the public path: it is what pickles, docs and tracebacks show.
for _public in (
    Backend,
    BaseKeyValueStoreBackend,
    KeyValueStoreBackend,
    SyncBackendMixin,
    pending_results_t,
    unpickle_backend,
    compress_payload,
    decompress_payload,
):
    _public.__module__ = __name__
del _public
