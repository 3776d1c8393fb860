"""Firestore, as far as counters of chords need it: documents by name, and writes on condition.

``python -m t.standins.firestore PORT``. Speaks gRPC with the driver's own messages. It knows
set, create, update and delete, increments, and conditions on existence and on the time of the last
update; no queries and no transactions.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
from google.cloud.firestore_v1.types import (
    document as documents,
    firestore as messages,
    write as writes,
)

SERVICE = "google.firestore.v1.Firestore"


class Refused(Exception):
    """A write whose condition does not hold."""

    def __init__(self, code: grpc.StatusCode, name: str) -> None:
        super().__init__(f"{code.name}: {name}")
        self.code = code


class Firestore:
    """All documents, by their full name."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._documents: dict[str, documents.Document] = {}
        self._time = datetime.now(UTC)

    def _now(self) -> datetime:
        # Two updates never have the same time, which conditions rely on.
        self._time = max(datetime.now(UTC), self._time + timedelta(microseconds=1))
        return self._time

    # -- Requests

    def commit(
        self, request: messages.CommitRequest, context: grpc.ServicerContext
    ) -> messages.CommitResponse:
        """Do all writes, or none."""
        with self._lock:
            before = dict(self._documents)
            now = self._now()
            try:
                results = [self._write(write, now) for write in request.writes]
            except Refused as exc:
                self._documents = before
                context.abort(exc.code, str(exc))
        return messages.CommitResponse(write_results=results, commit_time=now)

    def batch_get(
        self, request: messages.BatchGetDocumentsRequest, context: grpc.ServicerContext
    ) -> Iterator[messages.BatchGetDocumentsResponse]:
        """Send each document, or say that it is missing."""
        with self._lock:
            now = self._now()
            found = [(name, self._documents.get(name)) for name in request.documents]
        for name, document in found:
            answer = {"missing": name} if document is None else {"found": document}
            yield messages.BatchGetDocumentsResponse(read_time=now, **answer)

    # -- Writes

    def _write(self, write: writes.Write, now: datetime) -> writes.WriteResult:
        kind = writes.Write.pb(write).WhichOneof("operation")
        name = write.delete if kind == "delete" else write.update.name
        old = self._documents.get(name)
        self._check(write, name, old)
        if kind == "delete":
            self._documents.pop(name, None)
            return writes.WriteResult(update_time=now)
        fields = dict(old.fields) if old is not None and "update_mask" in write else {}
        mask = write.update_mask.field_paths if "update_mask" in write else write.update.fields
        for path in mask:
            if path in write.update.fields:
                fields[path] = write.update.fields[path]
            else:
                fields.pop(path, None)
        results = []
        for transform in write.update_transforms:
            # The only kind that is known here.
            total = transform.increment.integer_value
            if transform.field_path in fields:
                total += fields[transform.field_path].integer_value
            fields[transform.field_path] = documents.Value(integer_value=total)
            results.append(fields[transform.field_path])
        self._documents[name] = documents.Document(
            name=name,
            fields=fields,
            create_time=now if old is None else old.create_time,
            update_time=now,
        )
        return writes.WriteResult(update_time=now, transform_results=results)

    def _check(self, write: writes.Write, name: str, old: documents.Document | None) -> None:
        condition = writes.Write.pb(write).current_document.WhichOneof("condition_type")
        wanted = write.current_document
        if condition == "exists" and wanted.exists != (old is not None):
            codes = grpc.StatusCode
            raise Refused(codes.NOT_FOUND if wanted.exists else codes.ALREADY_EXISTS, name)
        if condition == "update_time" and (old is None or old.update_time != wanted.update_time):
            raise Refused(grpc.StatusCode.FAILED_PRECONDITION, name)


def serve(port: int) -> None:
    """Answer until the process ends."""
    store = Firestore()

    def handler(make: Any, answer: Any, request: Any, response: Any) -> Any:
        return make(
            answer, request_deserializer=request.deserialize, response_serializer=response.serialize
        )

    methods = {
        "Commit": handler(
            grpc.unary_unary_rpc_method_handler,
            store.commit,
            messages.CommitRequest,
            messages.CommitResponse,
        ),
        "BatchGetDocuments": handler(
            grpc.unary_stream_rpc_method_handler,
            store.batch_get,
            messages.BatchGetDocumentsRequest,
            messages.BatchGetDocumentsResponse,
        ),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, methods)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    serve(int(sys.argv[1]))
