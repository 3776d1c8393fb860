"""ArangoDB's HTTP interface: databases, collections, documents, and the query of our clean-up."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

from t.standins._http import Reply, Request, StandIn, main

CLEAN_UP = re.compile(
    r"FOR (\w+) IN @@collection FILTER \1\.(\w+) != null AND \1\.\2 < @(\w+)"
    r" REMOVE \1 IN @@collection"
)


class ArangoDB(StandIn):
    """Documents with revisions, in collections, in databases."""

    def __init__(self) -> None:
        super().__init__()
        self.rev = 0
        self.databases: dict[str, dict[str, dict[str, dict[str, Any]]]] = {
            "_system": {},
            "jobs": {},
        }
        self.route("GET", "/_api/version", lambda _: Reply({"version": "3.11.0"}))
        self.route("GET", "/_api/user/[^/]+/database", self.list_databases)
        self.route("GET", "/_api/database/user", self.list_databases)
        self.route("POST", "/_api/database", self.create_database)
        self.route("GET", "/_db/([^/]+)/_api/collection", self.list_collections)
        self.route("POST", "/_db/([^/]+)/_api/collection", self.create_collection)
        self.route("POST", "/_db/([^/]+)/_api/document/([^/]+)", self.insert)
        self.route("PUT", "/_db/([^/]+)/_api/document/([^/]+)", self.read_many)
        self.route("GET HEAD", "/_db/([^/]+)/_api/document/([^/]+)/([^/]+)", self.read)
        self.route("PUT", "/_db/([^/]+)/_api/document/([^/]+)/([^/]+)", self.replace)
        self.route("DELETE", "/_db/([^/]+)/_api/document/([^/]+)/([^/]+)", self.delete)
        self.route("POST", "/_db/([^/]+)/_api/cursor", self.query)

    # -- databases and collections

    def list_databases(self, request: Request) -> Reply:
        login = request.headers.get("Authorization", "").partition(" ")[2]
        if base64.b64decode(login).endswith(b":wrong"):
            return error(401, 11, "not authorized to execute this request")
        return Reply({"error": False, "code": 200, "result": dict.fromkeys(self.databases, "rw")})

    def create_database(self, request: Request) -> Reply:
        name = request.json["name"]
        if name in self.databases:
            return error(409, 1207, "duplicate database name")
        self.databases[name] = {}
        return Reply({"error": False, "code": 201, "result": True}, 201)

    def list_collections(self, request: Request) -> Reply:
        found = [described(name) for name in self.databases[request.names[0]]]
        return Reply({"error": False, "code": 200, "result": found})

    def create_collection(self, request: Request) -> Reply:
        collections, name = self.databases[request.names[0]], request.json["name"]
        if name in collections:
            return error(409, 1207, "duplicate name")
        collections[name] = {}
        return Reply({"error": False, "code": 200, **described(name)})

    # -- documents

    def stamped(self, collection: str, document: dict[str, Any]) -> dict[str, Any]:
        """Give a document its identity and a new revision."""
        self.rev += 1
        key = document["_key"]
        return {**document, "_id": f"{collection}/{key}", "_rev": f"_r{self.rev}"}

    def insert(self, request: Request) -> Reply:
        database, collection = request.names
        documents, document = self.databases[database].get(collection), request.json
        if documents is None:
            return no_collection(collection)
        if document["_key"] in documents:
            return error(409, 1210, "unique constraint violated")
        documents[document["_key"]] = made = self.stamped(collection, document)
        return Reply(identity(made), 202)

    def read(self, request: Request) -> Reply:
        database, collection, key = request.names
        documents = self.databases[database].get(collection)
        if documents is None:
            return no_collection(collection)
        found = documents.get(key)
        return error(404, 1202, "document not found") if found is None else Reply(found)

    def read_many(self, request: Request) -> Reply:
        database, collection = request.names
        assert request.query.get("onlyget") == "true"
        documents = self.databases[database].get(collection)
        if documents is None:
            return no_collection(collection)
        absent = {"error": True, "errorNum": 1202, "errorMessage": "document not found"}
        return Reply([documents.get(key, absent) for key in request.json])

    def replace(self, request: Request) -> Reply:
        database, collection, key = request.names
        documents = self.databases[database].get(collection)
        if documents is None:
            return no_collection(collection)
        if key not in documents:
            return error(404, 1202, "document not found")
        expected = request.headers.get("If-Match", "").strip('"')
        if expected and documents[key]["_rev"] != expected:
            return error(412, 1200, "conflict, _rev values do not match")
        documents[key] = made = self.stamped(collection, {**request.json, "_key": key})
        return Reply(identity(made), 202)

    def delete(self, request: Request) -> Reply:
        database, collection, key = request.names
        documents = self.databases[database].get(collection)
        if documents is None:
            return no_collection(collection)
        found = documents.pop(key, None)
        if found is None:
            return error(404, 1202, "document not found")
        return Reply(identity(found), 202)

    # -- queries

    def query(self, request: Request) -> Reply:
        text, bound = request.json["query"], request.json.get("bindVars", {})
        text = " ".join(text.split())
        if text.startswith(("RETURN DOCUMENT", "UPSERT")):
            return self.query_of_others(text, self.databases[request.names[0]], bound)
        match = CLEAN_UP.fullmatch(text)
        if match is None:
            return error(501, 1501, f"the stand-in can't read: {json.dumps(request.json)}")
        _, field, parameter = match.groups()
        documents = self.databases[request.names[0]][bound["@collection"]]
        for key, document in list(documents.items()):
            if document.get(field) is not None and document[field] < bound[parameter]:
                del documents[key]
        return answered([])

    def query_of_others(self, text: str, collections: Any, bound: dict[str, Any]) -> Reply:
        """Do what Celery 5.7.0 asks for, which reads and writes by queries."""
        name, key = bound["@collection"], bound["key"]
        if text.startswith("RETURN"):
            return answered([collections[name].get(key, {}).get("task")])
        before = collections[name].get(key, {"_key": key})
        collections[name][key] = self.stamped(name, {**before, "task": bound["value"]})
        return answered([])


def answered(rows: list[Any]) -> Reply:
    """Return the rows that a query has found."""
    return Reply({"error": False, "code": 201, "result": rows, "hasMore": False}, 201)


def no_collection(name: str) -> Reply:
    """Return the error for a collection that is not there."""
    return error(404, 1203, f"collection or view not found: {name}")


def described(name: str) -> dict[str, Any]:
    """Return what is told of a collection."""
    return {"id": name, "name": name, "type": 2, "status": 3, "isSystem": False}


def identity(document: dict[str, Any]) -> dict[str, Any]:
    """Return what is told of a document that was written."""
    return {name: document[name] for name in ("_id", "_key", "_rev")}


def error(status: int, number: int, text: str) -> Reply:
    """Return an error in ArangoDB's form."""
    content = {"error": True, "code": status, "errorNum": number, "errorMessage": text}
    return Reply(content, status)


if __name__ == "__main__":
    main(ArangoDB())
