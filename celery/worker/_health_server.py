"""The HTTP side of `celery.worker.health`; its own module, as few workers load it."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import AF_INET6
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from celery.utils.log import get_logger

__all__ = ("Answer", "new_server")

logger = get_logger("celery.worker.health")

#: Seconds that a client may take to send its question.
CLIENT_TIMEOUT_S = 5.0

#: Status, content type and body.
Answer = tuple[int, str, bytes]


def new_server(
    address: tuple[str, int], answers: dict[str, Callable[[float], Answer]], patience_s: float
) -> ThreadingHTTPServer:
    """Return what answers at *address*, not yet served.

    Args:
        answers: By path; their argument is the patience in seconds.
        patience_s: Where the question does not say.
    """

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        client_timeout_s = CLIENT_TIMEOUT_S
        # A stopping worker does not wait for its questioners.
        block_on_close = False
        if ":" in address[0]:
            address_family = AF_INET6

        def handle_error(self, request: Any, client_address: Any) -> None:
            # Whoever asks may hang up; anything else is our mistake.
            level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
            logger.log(level, "health: cannot answer %s", client_address, exc_info=True)

    class Handler(_Handler):
        pass

    Handler.answers, Handler.patience_s = answers, patience_s
    server = Server(address, Handler)
    # Processes of the pool must not keep the port when this one is gone.
    os.register_at_fork(after_in_child=server.socket.close)
    return server


class _Handler(BaseHTTPRequestHandler):
    """One question."""

    timeout = CLIENT_TIMEOUT_S
    answers: ClassVar[dict[str, Callable[[float], Answer]]]
    patience_s: ClassVar[float]

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        parts = urlsplit(self.path)
        answer = self.answers.get(parts.path.rstrip("/") or "/")
        try:
            patience_s = float(parse_qs(parts.query).get("max_age", [self.patience_s])[0])
        except ValueError:
            status, content_type, body = 400, "text/plain", b"max_age has to be a number\n"
        else:
            if answer is None:
                status, content_type, body = (
                    404,
                    "text/plain",
                    b"There are:\n" + self.answers["/"](0)[2],
                )
            else:
                status, content_type, body = answer(patience_s)
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Write a line about each question only where everything is logged."""
        logger.debug("health: %s", format % args)
