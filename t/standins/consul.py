"""Consul's HTTP interface as far as its key-value store, sessions and transactions go."""

from __future__ import annotations

import base64
import uuid
from typing import Any

from t.standins._http import Reply, Request, StandIn, main

#: Seconds that a session may live, and the bytes that a value may have, as the product has it.
TTL_S = (10, 86_400)
VALUE_SIZE = 512 * 1024


class Consul(StandIn):
    """Keys with versions, some of them held by sessions that end."""

    def __init__(self) -> None:
        super().__init__()
        self.index = 10
        self.keys: dict[str, dict[str, Any]] = {}
        self.sessions: dict[str, dict[str, Any]] = {}
        self.route("GET", "/v1/agent/self", lambda _: Reply({"Config": {"NodeName": "standin"}}))
        self.route("PUT", "/v1/session/create", self.create_session)
        self.route("PUT", "/v1/session/renew/(.*)", self.renew_session)
        self.route("PUT", "/v1/session/destroy/(.*)", self.destroy_session)
        self.route("GET", "/v1/session/list", self.list_sessions)
        self.route("GET", "/v1/kv/(.*)", self.read)
        self.route("PUT", "/v1/kv/(.*)", self.write)
        self.route("DELETE", "/v1/kv/(.*)", self.delete)
        self.route("PUT", "/v1/txn", self.transaction)

    # -- sessions

    def create_session(self, request: Request) -> Reply:
        # The product does not mind the case of names, and drivers differ.
        wanted = {name.lower(): value for name, value in (request.json or {}).items()}
        ttl = wanted.get("ttl", "")
        seconds = float(ttl.removesuffix("s")) if ttl else None
        if seconds is not None and not TTL_S[0] <= seconds <= TTL_S[1]:
            text = f"Invalid Session TTL '{ttl}', must be between [10s=24h0m0s]"
            return Reply(text.encode(), 500)
        name = str(uuid.uuid4())
        self.sessions[name] = {
            "ID": name,
            "TTL": ttl,
            "Name": wanted.get("name", ""),
            "Behavior": wanted.get("behavior", "release"),
            "LockDelay": wanted.get("lockdelay", "15s"),
            "seconds": seconds,
            "end": None if seconds is None else self.now() + seconds,
        }
        return Reply({"ID": name})

    def renew_session(self, request: Request) -> Reply:
        self.end_sessions()
        session = self.sessions.get(request.names[0])
        if session is None:
            return Reply(b"Session id not found", 404)
        session["end"] = self.now() + session["seconds"]
        return Reply([session])

    def destroy_session(self, request: Request) -> Reply:
        self.end_session(request.names[0])
        return Reply(True)

    def list_sessions(self, request: Request) -> Reply:
        return Reply(list(self.sessions.values()), headers={"X-Consul-Index": str(self.index)})

    def end_sessions(self) -> None:
        """End the sessions whose time is over."""
        for name, session in list(self.sessions.items()):
            if session["end"] is not None and session["end"] < self.now():
                self.end_session(name)

    def end_session(self, name: str) -> None:
        """End a session; what it holds is deleted or released, as it said."""
        session = self.sessions.pop(name, None)
        if session is None:
            return
        for key, entry in list(self.keys.items()):
            if entry.get("Session") != name:
                continue
            if session["Behavior"] == "delete":
                del self.keys[key]
            else:
                del entry["Session"]

    # -- keys

    def read(self, request: Request) -> Reply:
        self.end_sessions()
        key = request.names[0]
        headers = {"X-Consul-Index": str(self.index)}
        if "recurse" in request.query or "keys" in request.query:
            found = [entry for name, entry in sorted(self.keys.items()) if name.startswith(key)]
        else:
            found = [self.keys[key]] if key in self.keys else []
        if not found:
            return Reply(None, 404, headers)
        if "keys" in request.query:
            return Reply([entry["Key"] for entry in found], headers=headers)
        return Reply(found, headers=headers)

    def write(self, request: Request) -> Reply:
        self.end_sessions()
        key, query = request.names[0], request.query
        if len(request.body) > VALUE_SIZE:
            return Reply(b"Request body too large, max size: 524288 bytes", 413)
        flags = int(query.get("flags") or 0)
        if query.get("acquire"):
            return Reply(self.lock(key, request.body, flags, query["acquire"]))
        if query.get("release"):
            entry = self.keys.get(key)
            if entry is None or entry.get("Session") != query["release"]:
                return Reply(False)
            del entry["Session"]
            return Reply(True)
        if "cas" in query and not self.is_version(key, int(query["cas"])):
            return Reply(False)
        self.put(key, request.body, flags)
        return Reply(True)

    def is_version(self, key: str, index: int) -> bool:
        entry = self.keys.get(key)
        return entry is None if index == 0 else entry is not None and entry["ModifyIndex"] == index

    def put(self, key: str, value: bytes, flags: int, session: str | None = None) -> None:
        self.index += 1
        before = self.keys.get(key, {})
        holder = session or before.get("Session")
        self.keys[key] = {
            "Key": key,
            "Value": base64.b64encode(value).decode(),
            "Flags": flags,
            "CreateIndex": before.get("CreateIndex", self.index),
            "ModifyIndex": self.index,
            "LockIndex": before.get("LockIndex", 0) + (holder != before.get("Session")),
            **({"Session": holder} if holder else {}),
        }

    def lock(self, key: str, value: bytes, flags: int, session: str) -> bool:
        """Write a key for a session, unless another one holds it."""
        if session not in self.sessions:
            return False
        if self.keys.get(key, {}).get("Session", session) != session:
            return False
        self.put(key, value, flags, session)
        return True

    def delete(self, request: Request) -> Reply:
        key, query = request.names[0], request.query
        if "recurse" in query:
            for name in [name for name in self.keys if name.startswith(key)]:
                del self.keys[name]
            return Reply(True)
        if "cas" in query and not self.is_version(key, int(query["cas"])):
            return Reply(False)
        self.keys.pop(key, None)
        return Reply(True)

    # -- transactions

    def transaction(self, request: Request) -> Reply:
        """All or nothing; errors name the operation that failed."""
        self.end_sessions()
        before, index, results = dict(self.keys), self.index, []
        for number, operation in enumerate(request.json):
            wanted = operation["KV"]
            error = self.operate(wanted)
            if error:
                self.keys, self.index = before, index
                return Reply({"Results": None, "Errors": [{"OpIndex": number, "What": error}]}, 409)
            entry = self.keys.get(wanted["Key"])
            if entry is not None:
                results.append({"KV": {**entry, "Value": None}})
        return Reply({"Results": results, "Errors": None})

    def operate(self, wanted: dict[str, Any]) -> str | None:
        """Do one operation of a transaction; return what is wrong with it."""
        verb, key = wanted["Verb"], wanted["Key"]
        value, flags = base64.b64decode(wanted.get("Value") or ""), wanted.get("Flags", 0)
        if len(value) > VALUE_SIZE:
            return "value is too large"
        if verb == "set":
            self.put(key, value, flags)
        elif verb in {"lock", "unlock"} and wanted["Session"] not in self.sessions:
            return "invalid session"
        elif verb == "unlock":
            if self.keys.get(key, {}).get("Session") != wanted["Session"]:
                return (
                    f"failed to unlock key {key!r}, lock isn't held, or is held by another session"
                )
            self.put(key, value, flags)
            del self.keys[key]["Session"]
        elif verb == "lock":
            if not self.lock(key, value, flags, wanted["Session"]):
                return f"failed to lock key {key!r}, lock is already held"
        elif verb == "cas":
            if not self.is_version(key, wanted["Index"]):
                return f"failed to set key {key!r}, index is stale"
            self.put(key, value, flags)
        elif verb == "check-index":
            if not self.is_version(key, wanted["Index"]):
                return f"failed index check for key {key!r}"
        elif verb == "check-not-exists":
            if key in self.keys:
                return f"key {key!r} exists"
        elif verb == "delete":
            self.keys.pop(key, None)
        else:
            return f"the stand-in knows no verb {verb!r}"
        return None


if __name__ == "__main__":
    main(Consul())
