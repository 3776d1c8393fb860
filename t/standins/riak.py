"""Riak KV's HTTP interface as far as objects go, with siblings in buckets of the type ``many``."""

from __future__ import annotations

import base64
import hashlib
from email.utils import formatdate
from typing import Any, NamedTuple

from t.standins._http import Reply, Request, StandIn, main

#: Type of buckets in which writers that did not know of each other leave one value each.
MANY = "many"


class Value(NamedTuple):
    """One value of an object."""

    content: bytes
    kind: str
    modified: str


class Riak(StandIn):
    """Objects with a clock, and one value or more."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = 0
        #: By type, bucket and key: the clock, and the values.
        self.objects: dict[tuple[str, ...], tuple[str, list[Value]]] = {}
        path = "/types/([^/]+)/buckets/([^/]+)/keys/([^/]+)"
        self.route("GET", "/ping", lambda _: Reply(b"OK"))
        self.route("GET", path, self.read)
        self.route("PUT", path, self.write)
        self.route("DELETE", path, self.delete)

    def read(self, request: Request) -> Reply:
        found = self.objects.get(request.names)
        if found is None:
            return Reply(b"not found\n", 404)
        clock, values = found
        headers = {"X-Riak-Vclock": clock, "ETag": tag(values)}
        if len(values) == 1:
            [value] = values
            headers |= {"Content-Type": value.kind, "Last-Modified": value.modified}
            return Reply(value.content, 200, headers)
        if "multipart/mixed" not in request.headers.get("Accept", ""):
            return Reply(b"Siblings:\n", 300, headers)
        parts = [
            f"\r\n--border\r\nContent-Type: {value.kind}\r\nLast-Modified: {value.modified}\r\n\r\n"
            .encode() + value.content
            for value in values
        ]  # fmt: skip
        headers["Content-Type"] = "multipart/mixed; boundary=border"
        return Reply(b"".join(parts) + b"\r\n--border--\r\n", 300, headers)

    def write(self, request: Request) -> Reply:
        clock, values = self.objects.get(request.names, ("", []))
        headers = request.headers
        if headers.get("If-None-Match") == "*" and values:
            return Reply(b"", 412)
        if headers.get("If-Match") and (not values or headers["If-Match"] != tag(values)):
            return Reply(b"", 412)
        kind = headers.get("Content-Type", "application/octet-stream")
        value = Value(request.body, kind, formatdate(self.now(), usegmt=True))
        if request.names[0] == MANY and headers.get("X-Riak-Vclock", "") != clock:
            values = [*values, value]
        else:
            values = [value]
        self.clock += 1
        made = base64.b64encode(str(self.clock).encode()).decode()
        self.objects[request.names] = (made, values)
        return Reply(b"", 204)

    def delete(self, request: Request) -> Reply:
        found = self.objects.pop(request.names, None)
        return Reply(b"", 404 if found is None else 204)


def tag(values: list[Any]) -> str:
    """Return the tag of an object with these values."""
    return f'"{hashlib.sha1(repr(values).encode()).hexdigest()}"'


if __name__ == "__main__":
    main(Riak())
