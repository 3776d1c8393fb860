"""Cassandra's native protocol, version 4, and as much of CQL as one table of results takes.

Rows live in the partition of their first key column, in the order of the others; a row written
with ``USING TTL`` is gone after that. Statements hold literals, or markers for bound values.
"""

from __future__ import annotations

import asyncio
import hashlib
import ipaddress
import json
import re
import struct
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ERROR, STARTUP, READY, OPTIONS, SUPPORTED = 0x00, 0x01, 0x02, 0x05, 0x06
QUERY, RESULT, PREPARE, EXECUTE, REGISTER = 0x07, 0x08, 0x09, 0x0A, 0x0B
VOID, ROWS, SET_KEYSPACE, PREPARED, SCHEMA_CHANGE = 1, 2, 3, 4, 5
BAD_VERSION, INVALID, ALREADY_EXISTS, UNPREPARED = 0x000A, 0x2200, 0x2400, 0x2500
VERSION = 4
TYPES = {"blob": 0x03, "boolean": 0x04, "int": 0x09, "timestamp": 0x0B, "text": 0x0D,
         "uuid": 0x0C, "inet": 0x10, "set<text>": 0x22}  # fmt: skip

TOKEN = re.compile(
    r"""\s*(?: (?P<text>'(?:[^']|'')*') | (?P<blob>0x[0-9a-fA-F]*) | (?P<name>"[^"]*"|[A-Za-z_]\w*)
    | (?P<number>-?\d+) | (?P<mark>[^\s\w]) )""",
    re.VERBOSE,
)


class Refused(Exception):
    """An answer with an error code."""

    def __init__(self, code: int, text: str, *more: bytes) -> None:
        super().__init__(text)
        self.code, self.text, self.more = code, text, more


@dataclass
class Table:
    """Rows by their key, with the time when they end."""

    name: tuple[str, str]
    types: dict[str, str]
    keys: list[str]
    newest_first: bool = False
    rows: dict[tuple[Any, ...], tuple[dict[str, Any], float | None]] = field(default_factory=dict)

    def find(self, where: dict[str, Any]) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        """Return the rows whose columns have these values, in their order."""
        now = time.time()
        self.rows = {k: (row, end) for k, (row, end) in self.rows.items() if not end or end > now}
        found = [
            (key, row)
            for key, (row, _) in self.rows.items()
            if all(row.get(name) == value for name, value in where.items())
        ]
        return sorted(found, key=lambda pair: pair[0][1:], reverse=self.newest_first)


class Words:
    """The words of a statement, one after the other; markers take the bound values."""

    def __init__(self, text: str, values: list[Any] | None) -> None:
        self.words = [
            (str(found.lastgroup), found[str(found.lastgroup)]) for found in TOKEN.finditer(text)
        ]
        self.at = 0
        self.values = values
        #: Columns that markers stand for, in order.
        self.marks: list[tuple[str, str]] = []

    def peek(self) -> str:
        return self.words[self.at][1].upper() if self.at < len(self.words) else ""

    def next(self) -> str:
        self.at += 1
        return self.words[self.at - 1][1]

    def name(self) -> str:
        word = self.next()
        return word[1:-1] if word[0] == '"' else word.lower()

    def skip(self, *words: str) -> bool:
        """Pass *words*, if they are what comes."""
        here = [word.upper() for _, word in self.words[self.at : self.at + len(words)]]
        if here != list(words):
            return False
        self.at += len(words)
        return True

    def need(self, *words: str) -> None:
        if not self.skip(*words):
            raise Refused(INVALID, f"expected {' '.join(words)} at {self.peek()!r}")

    def value(self, column: str, kind: str) -> Any:
        """Return a literal or bound value as the bytes of its type."""
        shape, word = self.words[self.at]
        self.at += 1
        if word == "?":
            self.marks.append((column, kind))
            return self.values[len(self.marks) - 1] if self.values is not None else b""
        if word.upper() == "NULL":
            return None
        if shape == "blob":
            return bytes.fromhex(word[2:])
        text = word[1:-1].replace("''", "'") if shape == "text" else word
        return encode(text, kind)

    def names(self) -> list[str]:
        """Return a list of names in parentheses or not."""
        found = [self.name()]
        while self.skip(","):
            found.append(self.name())
        return found


def encode(value: Any, kind: str) -> bytes:
    """Return a value as the protocol has it."""
    if kind == "int":
        return struct.pack(">i", int(value))
    if kind == "boolean":
        return b"\x01" if value else b"\x00"
    if kind == "timestamp":
        if re.fullmatch(r"-?\d+", value):
            return struct.pack(">q", int(value))
        when = datetime.fromisoformat(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return struct.pack(">q", round(when.timestamp() * 1000))
    if kind == "uuid":
        return uuid.UUID(value).bytes
    if kind == "inet":
        return ipaddress.ip_address(value).packed
    if kind == "set<text>":
        parts = b"".join(struct.pack(">i", len(item)) + item.encode() for item in value)
        return struct.pack(">i", len(value)) + parts
    return value.encode() if isinstance(value, str) else bytes(value)


def string(text: str) -> bytes:
    data = text.encode()
    return struct.pack(">H", len(data)) + data


def option(kind: str) -> bytes:
    code = struct.pack(">H", TYPES[kind])
    return code + struct.pack(">H", TYPES["text"]) if kind == "set<text>" else code


def columns(where: tuple[str, str], named: list[tuple[str, str]]) -> bytes:
    """Return the description of columns."""
    specs = b"".join(string(name) + option(kind) for name, kind in named)
    return struct.pack(">ii", 1, len(named)) + string(where[0]) + string(where[1]) + specs


def rows(where: tuple[str, str], named: list[tuple[str, str]], found: list[list[Any]]) -> bytes:
    """Return an answer with rows."""
    cells = b"".join(
        struct.pack(">i", -1) if value is None else struct.pack(">i", len(value)) + value
        for line in found
        for value in line
    )
    return struct.pack(">i", ROWS) + columns(where, named) + struct.pack(">i", len(found)) + cells


class Cassandra:
    """One node, which keeps its schema in a file and its rows in memory."""

    def __init__(self, port: int, schema: Path) -> None:
        self.port = port
        self.schema = schema
        self.tables: dict[tuple[str, str], Table] = {}
        self.prepared: dict[bytes, str] = {}
        #: Statements that came, for those who want to know.
        self.log: Callable[[str], None] = lambda text: None
        for line in schema.read_text().splitlines() if schema.exists() else []:
            keyspace, text = json.loads(line)
            self.create(Words(text, None), keyspace)

    # -- statements

    def run(self, text: str, values: list[Any] | None, keyspace: str) -> bytes:
        """Carry a statement out."""
        self.log(text)
        words = Words(text.strip().rstrip(";"), values)
        verb = words.peek()
        if verb == "USE":
            words.next()
            return struct.pack(">i", SET_KEYSPACE) + string(words.name())
        if verb == "CREATE":
            made = self.create(words, keyspace)
            with self.schema.open("a") as file:
                file.write(json.dumps([keyspace, text]) + "\n")
            return (
                struct.pack(">i", SCHEMA_CHANGE)
                + string("CREATED") + string("TABLE") + string(made.name[0]) + string(made.name[1])
            )  # fmt: skip
        if verb == "SELECT" and re.search(r"\bsystem\w*\.", text):
            return self.system(text)
        actions = {"SELECT": self.select, "INSERT": self.insert, "UPDATE": self.update,
                   "DELETE": self.delete}  # fmt: skip
        if verb not in actions:
            raise Refused(INVALID, f"no such statement here: {text!r}")
        words.next()
        return actions[verb](words, keyspace)

    def marks(self, text: str, keyspace: str) -> tuple[Table, list[tuple[str, str]]]:
        """Return the table of a statement, and what its markers stand for."""
        words = Words(text.strip().rstrip(";"), None)
        table = self.table_of(words, keyspace)
        words.at = 1
        # A run without values, on a copy without rows, finds the markers.
        kept, table.rows = table.rows, {}
        try:
            {"SELECT": self.select, "INSERT": self.insert, "UPDATE": self.update,
             "DELETE": self.delete}[words.words[0][1].upper()](words, keyspace)  # fmt: skip
        finally:
            table.rows = kept
        return table, words.marks

    def table_of(self, words: Words, keyspace: str) -> Table:
        while words.peek() not in {"FROM", "INTO", "UPDATE", ""}:
            words.next()
        words.next()
        return self.known(words, keyspace)

    def known(self, words: Words, keyspace: str) -> Table:
        name = self.table_name(words, keyspace)
        if name not in self.tables:
            raise Refused(INVALID, f"unconfigured table {name[1]}")
        return self.tables[name]

    def table_name(self, words: Words, keyspace: str) -> tuple[str, str]:
        first = words.name()
        return (first, words.name()) if words.skip(".") else (keyspace, first)

    def create(self, words: Words, keyspace: str) -> Table:
        words.need("CREATE", "TABLE")
        gentle = words.skip("IF", "NOT", "EXISTS")
        name = self.table_name(words, keyspace)
        if name in self.tables:
            if gentle:
                return self.tables[name]
            raise Refused(ALREADY_EXISTS, "it exists", *map(string, name))
        words.need("(")
        types: dict[str, str] = {}
        keys: list[str] = []
        while not words.skip(")"):
            if words.skip("PRIMARY", "KEY"):
                while not words.skip(")"):
                    if words.peek() in "(,":
                        words.next()
                    else:
                        keys.append(words.name())
                words.skip(")")
                if words.skip(","):
                    keys.append(words.name())
                    words.skip(")")
                continue
            column = words.name()
            types[column] = words.name().replace("varchar", "text")
            if words.skip("PRIMARY", "KEY"):
                keys.append(column)
            words.skip(",")
        rest = " ".join(word.upper() for _, word in words.words[words.at :])
        table = self.tables[name] = Table(name, types, keys, " DESC" in rest)
        return table

    def insert(self, words: Words, keyspace: str) -> bytes:
        words.need("INTO")
        table = self.known(words, keyspace)
        words.need("(")
        names = words.names()
        words.need(")")
        words.need("VALUES")
        words.need("(")
        row: dict[str, Any] = {}
        for name in names:
            row[name] = words.value(name, table.types[name])
            words.skip(",")
        words.need(")")
        only_new = words.skip("IF", "NOT", "EXISTS")
        end = self.end(words)
        key = tuple(row[name] for name in table.keys)
        present = table.find({name: row[name] for name in table.keys})
        if not only_new or not present:
            merged = {**(present[0][1] if present else {}), **row}
            table.rows[key] = (merged, end)
        if not only_new:
            return struct.pack(">i", VOID)
        return self.applied(table, present[0][1] if present else None)

    def update(self, words: Words, keyspace: str) -> bytes:
        table = self.known(words, keyspace)
        end = self.end(words)
        words.need("SET")
        changes = dict(self.assignments(words, table, ","))
        words.need("WHERE")
        where = dict(self.assignments(words, table, "AND"))
        condition = dict(self.assignments(words, table, "AND")) if words.skip("IF") else None
        present = table.find(where)
        before = present[0][1] if present else {}
        good = condition is None or (
            bool(present) and all(before.get(name) == v for name, v in condition.items())
        )
        if good:
            row = {**before, **where, **changes}
            table.rows[tuple(row[name] for name in table.keys)] = (row, end)
        if condition is None:
            return struct.pack(">i", VOID)
        return self.applied(table, None if good else before)

    def delete(self, words: Words, keyspace: str) -> bytes:
        words.need("FROM")
        table = self.known(words, keyspace)
        words.need("WHERE")
        where = dict(self.assignments(words, table, "AND"))
        found = table.find(where)
        for key, _ in found:
            del table.rows[key]
        if words.skip("IF", "EXISTS"):
            return self.applied(table, None) if found else self.applied(table, {})
        return struct.pack(">i", VOID)

    def select(self, words: Words, keyspace: str) -> bytes:
        names = words.names() if not words.skip("*") else []
        words.need("FROM")
        table = self.known(words, keyspace)
        where = dict(self.assignments(words, table, "AND")) if words.skip("WHERE") else {}
        backwards = words.skip("ORDER", "BY") and bool(words.name()) and words.skip("ASC")
        limit = int(words.next()) if words.skip("LIMIT") else None
        names = names or list(table.types)
        found = [row for _, row in table.find(where)]
        if backwards:
            found.reverse()
        found = found[:limit]
        named = [(name, table.types[name]) for name in names]
        return rows(table.name, named, [[row.get(name) for name in names] for row in found])

    def assignments(self, words: Words, table: Table, joint: str) -> Iterator[tuple[str, Any]]:
        while True:
            name = words.name()
            words.need("=")
            yield name, words.value(name, table.types[name])
            if not words.skip(joint):
                return

    def end(self, words: Words) -> float | None:
        if not words.skip("USING", "TTL"):
            return None
        value = words.value("[ttl]", "int")
        seconds = struct.unpack(">i", value)[0] if value else 0
        return time.time() + seconds if seconds else None

    def applied(self, table: Table, present: dict[str, Any] | None) -> bytes:
        """Return the answer to a conditional statement; *present* is why it was not done."""
        named = [("[applied]", "boolean")]
        line: list[Any] = [encode(present is None, "boolean")]
        if present:
            named += list(table.types.items())
            line += [present.get(name) for name in table.types]
        return rows(table.name, named, [line])

    def system(self, text: str) -> bytes:
        """Answer what drivers ask a node about itself."""
        if re.search(r"system\.peers_v2", text):
            raise Refused(INVALID, "unconfigured table peers_v2")
        if not re.search(r"system\.local", text):
            return rows(("system", "peers"), [("peer", "inet")], [])
        here, name = "127.0.0.1", str(uuid.UUID(int=1))
        facts = [
            ("key", "text", "local"), ("cluster_name", "text", "stand-in"),
            ("data_center", "text", "datacenter1"), ("rack", "text", "rack1"),
            ("host_id", "uuid", name), ("schema_version", "uuid", name),
            ("partitioner", "text", "org.apache.cassandra.dht.Murmur3Partitioner"),
            ("release_version", "text", "3.11.0"), ("native_protocol_version", "text", "4"),
            ("cql_version", "text", "3.4.4"), ("tokens", "set<text>", ["0"]),
            ("broadcast_address", "inet", here), ("rpc_address", "inet", here),
            ("listen_address", "inet", here),
        ]  # fmt: skip
        named = [(column, kind) for column, kind, _ in facts]
        return rows(("system", "local"), named, [[encode(value, kind) for _, kind, value in facts]])

    # -- frames

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it goes."""
        keyspace = ""
        try:
            while True:
                version, _, stream, code, size = struct.unpack(
                    ">BBhBi", await reader.readexactly(9)
                )
                body = await reader.readexactly(size)
                try:
                    if version & 0x7F != VERSION:
                        text = "Invalid or unsupported protocol version; supported versions: 4/v4"
                        raise Refused(BAD_VERSION, text)
                    kind, answer = self.answer(code, body, keyspace)
                except Refused as error:
                    kind, answer = ERROR, struct.pack(">i", error.code) + string(error.text)
                    answer += b"".join(error.more)
                if kind == RESULT and answer[:4] == struct.pack(">i", SET_KEYSPACE):
                    keyspace = answer[6:].decode()
                head = struct.pack(">BBhBi", 0x80 | VERSION, 0, stream, kind, len(answer))
                writer.write(head + answer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def answer(self, code: int, body: bytes, keyspace: str) -> tuple[int, bytes]:
        """Return the kind and the body of the answer to a frame."""
        if code == OPTIONS:
            offers = {"CQL_VERSION": "3.4.4", "COMPRESSION": ""}
            text = b"".join(
                string(name) + struct.pack(">H", 1) + string(value)
                for name, value in offers.items()
            )
            return SUPPORTED, struct.pack(">H", len(offers)) + text
        if code in {STARTUP, REGISTER}:
            return READY, b""
        if code == QUERY:
            size = struct.unpack(">i", body[:4])[0]
            text = body[4 : 4 + size].decode()
            return RESULT, self.run(text, bound(body[4 + size :]), keyspace)
        if code == PREPARE:
            size = struct.unpack(">i", body[:4])[0]
            text = body[4 : 4 + size].decode()
            table, marks = self.marks(text, keyspace)
            name = hashlib.md5(f"{keyspace} {text}".encode()).digest()
            self.prepared[name] = text
            specs = b"".join(string(column) + option(kind) for column, kind in marks)
            keys = [n for n, (column, _) in enumerate(marks) if column == table.keys[0]][:1]
            return RESULT, (
                struct.pack(">iH", PREPARED, len(name)) + name
                + struct.pack(">iii", 1, len(marks), len(keys))
                + b"".join(struct.pack(">H", n) for n in keys)
                + string(table.name[0]) + string(table.name[1]) + specs
                + struct.pack(">ii", 4, 0)
            )  # fmt: skip
        if code == EXECUTE:
            size = struct.unpack(">H", body[:2])[0]
            name = body[2 : 2 + size]
            if name not in self.prepared:
                raise Refused(UNPREPARED, "not prepared", struct.pack(">H", size) + name)
            return RESULT, self.run(self.prepared[name], bound(body[2 + size :]), keyspace)
        raise Refused(INVALID, f"no such frame here: {code}")


def bound(body: bytes) -> list[Any] | None:
    """Return the values that come with a statement."""
    flags = body[2]
    if not flags & 1:
        return None
    count = struct.unpack(">H", body[3:5])[0]
    values, at = [], 5
    for _ in range(count):
        size = struct.unpack(">i", body[at : at + 4])[0]
        at += 4
        values.append(None if size < 0 else body[at : at + size])
        at += max(size, 0)
    return values


async def serve(port: int, schema: Path, *, verbose: bool = False) -> None:
    """Serve until the process ends."""
    node = Cassandra(port, schema)
    if verbose:
        node.log = lambda text: print(text, flush=True)
    server = await asyncio.start_server(node.serve, "127.0.0.1", port)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), Path("schema.json"), verbose="-v" in sys.argv))
