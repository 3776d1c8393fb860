"""Couchbase's binary protocol as far as one node with one kind of bucket and its keys go.

The steps are those of the product: hello, error map, SCRAM login, the map of the cluster, a bucket,
then requests with a version (CAS) and an end of life for each key.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import socketserver
import struct
import sys
import threading
import time
from typing import Any, NamedTuple

HEADER = struct.Struct(">BBHBBHIIQ")
REQUEST, RESPONSE = 0x80, 0x81

GET, SET, ADD, REPLACE, DELETE, NOOP = 0x00, 0x01, 0x02, 0x03, 0x04, 0x0A
HELLO, MECHANISMS, LOGIN, LOGIN_STEP = 0x1F, 0x20, 0x21, 0x22
SELECT_BUCKET, CONFIG, ERROR_MAP = 0x89, 0xB5, 0xFE

FINE, ABSENT, EXISTS, TOO_BIG, REFUSED, GO_ON, UNKNOWN = 0, 1, 2, 3, 0x20, 0x21, 0x81
#: What is granted of what a client can do: no delay, extended errors, buckets by name, JSON.
FEATURES = {0x03, 0x07, 0x08, 0x0B}
#: Lives above this are a time of day.
LONGEST_LIFE_S = 30 * 24 * 3600
VALUE_SIZE = 20 * 1024 * 1024
PARTITIONS = 64
ITERATIONS = 1000
USER, PASSWORD = "ann", "secret"


class Entry(NamedTuple):
    """A key."""

    value: bytes
    flags: int
    cas: int
    end: float | None


class Store:
    """The keys of all buckets, one request at a time."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[bytes, Entry]] = {}
        self.cas = time.time_ns()
        self.lock = threading.Lock()

    def entry(self, bucket: str, key: bytes) -> Entry | None:
        found = self.buckets.setdefault(bucket, {}).get(key)
        if found is not None and found.end is not None and found.end <= time.time():
            del self.buckets[bucket][key]
            return None
        return found

    def get(self, bucket: str, key: bytes) -> tuple[int, bytes, bytes, int]:
        """Return status, extras, value and version."""
        found = self.entry(bucket, key)
        if found is None:
            return ABSENT, b"", b"", 0
        return FINE, struct.pack(">I", found.flags), found.value, found.cas

    def write(
        self, opcode: int, bucket: str, key: bytes, extras: bytes, value: bytes, cas: int
    ) -> tuple[int, int]:
        """Write a key; return status and version."""
        before = self.entry(bucket, key)
        if len(value) > VALUE_SIZE:
            return TOO_BIG, 0
        if opcode == ADD and before is not None:
            return EXISTS, 0
        if before is None and (opcode == REPLACE or cas):
            return ABSENT, 0
        if cas and before is not None and before.cas != cas:
            return EXISTS, 0
        flags, life = struct.unpack(">II", extras)
        end = None if not life else float(life) if life > LONGEST_LIFE_S else time.time() + life
        self.cas += 1
        self.buckets[bucket][key] = Entry(value, flags, self.cas, end)
        return FINE, self.cas

    def delete(self, bucket: str, key: bytes, cas: int) -> int:
        before = self.entry(bucket, key)
        if before is None:
            return ABSENT
        if cas and before.cas != cas:
            return EXISTS
        del self.buckets[bucket][key]
        return FINE


class Login:
    """The server's side of SCRAM."""

    def __init__(self, mechanism: str) -> None:
        self.digest = mechanism.removeprefix("SCRAM-").lower().replace("-", "")
        self.salt = os.urandom(16)
        self.first = self.challenge = ""

    def begin(self, message: bytes) -> bytes:
        self.first = message.decode().split(",", 2)[2]
        nonce = dict(part.split("=", 1) for part in self.first.split(","))["r"]
        salt = base64.b64encode(self.salt).decode()
        own = base64.b64encode(os.urandom(18)).decode()
        self.challenge = f"r={nonce}{own},s={salt},i={ITERATIONS}"
        return self.challenge.encode()

    def end(self, message: bytes) -> bytes | None:
        """Return the proof that the server knows the password, None if the client does not."""
        text, _, proof = message.decode().rpartition(",p=")
        salted = hashlib.pbkdf2_hmac(self.digest, PASSWORD.encode(), self.salt, ITERATIONS)
        signed = f"{self.first},{self.challenge},{text}".encode()
        client_key = self.sign(salted, b"Client Key")
        signature = self.sign(hashlib.new(self.digest, client_key).digest(), signed)
        expected = bytes(a ^ b for a, b in zip(client_key, signature, strict=True))
        user = dict(part.split("=", 1) for part in self.first.split(","))["n"]
        if user != USER or not hmac.compare_digest(expected, base64.b64decode(proof)):
            return None
        return b"v=" + base64.b64encode(self.sign(self.sign(salted, b"Server Key"), signed))

    def sign(self, key: bytes, text: bytes) -> bytes:
        return hmac.digest(key, text, self.digest)


def config(port: int, bucket: str | None) -> dict[str, Any]:
    """Return the map of the cluster: one node, which has all partitions."""
    node = {"thisNode": True, "hostname": "127.0.0.1", "services": {"kv": port}}
    found: dict[str, Any] = {"rev": 1, "revEpoch": 1, "nodesExt": [node]}
    if bucket is not None:
        found |= {
            "name": bucket,
            "uuid": "0123456789abcdef0123456789abcdef",
            "nodeLocator": "vbucket",
            "bucketCapabilities": ["cccp", "nodesExt"],
            "nodes": [{"hostname": "127.0.0.1", "ports": {"direct": port}}],
            "vBucketServerMap": {
                "hashAlgorithm": "CRC",
                "numReplicas": 0,
                "serverList": [f"127.0.0.1:{port}"],
                "vBucketMap": [[0]] * PARTITIONS,
            },
        }
    return found


class Connection(socketserver.StreamRequestHandler):
    """One connection of a client."""

    disable_nagle_algorithm = True
    server: Node

    def setup(self) -> None:
        super().setup()
        self.bucket: str | None = None
        self.is_known = False
        self.login: Login | None = None

    def handle(self) -> None:
        while len(header := self.rfile.read(HEADER.size)) == HEADER.size:
            magic, opcode, key_size, extras_size, _, _, size, opaque, cas = HEADER.unpack(header)
            if magic != REQUEST:
                return
            body = self.rfile.read(size)
            extras, rest = body[:extras_size], body[extras_size:]
            key, value = rest[:key_size], rest[key_size:]
            status, extras, value, cas = self.answer(opcode, key, extras, value, cas)
            print(hex(opcode), key, status, file=sys.stderr, flush=True)
            size = len(extras) + len(value)
            answer = HEADER.pack(RESPONSE, opcode, 0, len(extras), 0, status, size, opaque, cas)
            self.wfile.write(answer + extras + value)

    def answer(
        self, opcode: int, key: bytes, extras: bytes, value: bytes, cas: int
    ) -> tuple[int, bytes, bytes, int]:
        """Return status, extras, value and version."""
        if opcode == HELLO:
            asked = struct.unpack(f">{len(value) // 2}H", value)
            granted = [feature for feature in asked if feature in FEATURES]
            return FINE, b"", struct.pack(f">{len(granted)}H", *granted), 0
        if opcode == ERROR_MAP:
            return FINE, b"", b'{"version": 1, "revision": 1, "errors": {}}', 0
        if opcode == MECHANISMS:
            return FINE, b"", b"SCRAM-SHA512 SCRAM-SHA256 SCRAM-SHA1", 0
        if opcode == LOGIN:
            self.login = Login(key.decode())
            return GO_ON, b"", self.login.begin(value), 0
        if opcode == LOGIN_STEP and self.login is not None:
            proof = self.login.end(value)
            self.is_known = proof is not None
            return (REFUSED, b"", b"", 0) if proof is None else (FINE, b"", proof, 0)
        if not self.is_known:
            return REFUSED, b"", b"", 0
        if opcode == CONFIG:
            text = json.dumps(config(self.server.server_address[1], self.bucket))
            return FINE, b"", text.encode(), 0
        if opcode == SELECT_BUCKET:
            self.bucket = key.decode()
            return FINE, b"", b"", 0
        if opcode == NOOP:
            return FINE, b"", b"", 0
        return self.key(opcode, key, extras, value, cas)

    def key(
        self, opcode: int, key: bytes, extras: bytes, value: bytes, cas: int
    ) -> tuple[int, bytes, bytes, int]:
        """Answer a request about a key."""
        store, bucket = self.server.store, self.bucket or ""
        with store.lock:
            if opcode == GET:
                return store.get(bucket, key)
            if opcode in {SET, ADD, REPLACE}:
                status, version = store.write(opcode, bucket, key, extras, value, cas)
                return status, b"", b"", version
            if opcode == DELETE:
                return store.delete(bucket, key, cas), b"", b"", 0
        return UNKNOWN, b"", b"", 0


class Node(socketserver.ThreadingTCPServer):
    """The one node."""

    allow_reuse_address = True
    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Connection)
        self.store = Store()


if __name__ == "__main__":
    with Node(int(sys.argv[1])) as node:
        node.serve_forever()
