"""What stand-ins that speak HTTP have in common: routes, JSON, a clock that tests can turn."""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

#: PUT with a number of seconds: the stand-in believes that they have passed.
PASS_TIME = "/standin/pass-time"


class Request(NamedTuple):
    """One request."""

    method: str
    #: With what the groups of the route matched, decoded.
    names: tuple[str, ...]
    query: dict[str, str]
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON, None when there is none."""
        return json.loads(self.body) if self.body else None


class Reply(NamedTuple):
    """One answer; *content* is sent as it is when it is bytes, else as JSON."""

    content: Any = None
    status: int = 200
    headers: dict[str, str] = {}


Handler = Callable[[Request], Reply]


class StandIn:
    """Answers requests by a table of routes, one at a time."""

    def __init__(self) -> None:
        self._routes: list[tuple[str, re.Pattern[str], Handler]] = []
        self._ahead_s = 0.0
        self._lock = threading.Lock()
        self.route("PUT", PASS_TIME, self._pass_time)

    def route(self, methods: str, path: str, handler: Handler) -> None:
        """Let *handler* answer requests to paths that match the expression *path* as a whole."""
        for method in methods.split():
            self._routes.append((method, re.compile(path), handler))

    def now(self) -> float:
        """Seconds of the clock."""
        return time.time() + self._ahead_s

    def _pass_time(self, request: Request) -> Reply:
        self._ahead_s += float(request.body)
        return Reply()

    def answer(self, method: str, target: str, headers: Any, body: bytes) -> Reply:
        """Answer one request."""
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        for known, pattern, handler in self._routes:
            match = pattern.fullmatch(parts.path)
            if known == method and match:
                names = tuple(unquote(name) for name in match.groups())
                with self._lock:
                    return handler(Request(method, names, query, headers, body))
        return Reply({"error": f"the stand-in knows no {method} {target}"}, 501)

    def serve(self, port: int) -> None:
        """Serve on loopback until the process ends."""
        standin = self

        class Connection(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True
            # One packet for an answer.
            wbufsize = -1

            def _answer(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                body = self.rfile.read(size)
                reply = standin.answer(self.command, self.path, self.headers, body)
                content = reply.content
                if not isinstance(content, bytes):
                    content = json.dumps(content).encode()
                kinds = {"Content-Type": "application/json", **reply.headers}
                self.send_response(reply.status)
                for name, value in kinds.items():
                    self.send_header(name, value)
                if reply.status not in {204, 304}:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD" and reply.status not in {204, 304}:
                    self.wfile.write(content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _answer

            def log_request(self, code: Any = "-", size: Any = "-") -> None:
                print(self.command, self.path, code, file=sys.stderr, flush=True)

        class Listener(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

        with Listener(("127.0.0.1", port), Connection) as server:
            server.serve_forever()


def main(standin: StandIn) -> None:
    """Serve *standin* on the port of the command line."""
    standin.serve(int(sys.argv[1]))
