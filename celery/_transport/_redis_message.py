"""Messages of the Redis transport: the envelope on the wire, and what a consumer gets.

The envelope is kombu's: a JSON object with body, content type and encoding, headers and
properties. It is read and written here by the shortest way that gives the same text.

The standard library's base64 takes a byte at a time, most of what a message of 100 KB costs here;
pybase64, where it is installed, a tenth of that.
"""

from __future__ import annotations

import os
import secrets
from binascii import a2b_base64, b2a_base64
from itertools import count
from typing import Any

from kombu.utils.json import loads as kombu_loads

from celery._protocol.jsontext import decode_plain, encode
from celery._transport._kombu import KombuMessage
from celery.local import try_import

__all__ = (
    "LONG",
    "ClaimedMessage",
    "decode_envelope",
    "encode_envelope",
    "from_base64",
    "next_tag",
    "to_base64",
)

pybase64: Any = try_import("pybase64")
if pybase64 is None:
    from_base64 = a2b_base64

    def to_base64(data: bytes) -> bytes:
        """Return *data* as base64, without line feeds."""
        return b2a_base64(data, newline=False)

else:
    from_base64, to_base64 = pybase64.b64decode, pybase64.b64encode

_tag_prefix = secrets.token_hex(8)
_tag_counter = count(1)


def next_tag() -> str:
    """Return a tag that no other message has."""
    return f"{_tag_prefix}-{next(_tag_counter)}"


def _new_tag_prefix() -> None:
    global _tag_prefix  # noqa: PLW0603 - one per process, by design
    _tag_prefix = secrets.token_hex(8)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_new_tag_prefix)

#: Characters from which on a body is long: it is not searched for what is or must be escaped.
LONG = 4096
#: How envelopes begin.
LEAD = b'{"body": "'


def encode_envelope(value: Any) -> str:
    """Encode a message, or a part of one, as JSON.

    Base64 has no characters that JSON escapes, so a long body is put in as it is.
    """
    if type(value) is dict and "body" in value:
        body = value["body"]
        if (
            type(body) is str
            and len(body) >= LONG
            and value["properties"].get("body_encoding") == "base64"
        ):
            others = {name: field for name, field in value.items() if name != "body"}
            return f'{{"body": "{body}", {encode(others)[1:]}'
    return encode(value)


#: Part of a text that holds values that plain JSON has no words for.
MARKER = b'"__type__"'


def decode_envelope(raw: bytes) -> dict[str, Any]:
    """Return the message of which *raw* is the text.

    Raises:
        ValueError: It is no message.
    """
    payload: Any = _split(raw) if len(raw) >= LONG and raw.startswith(LEAD) else None
    if payload is None:
        payload = _decoded(raw)
    if not isinstance(payload, dict) or "properties" not in payload:
        raise ValueError("not a message of kombu")
    return payload


def _decoded(raw: bytes) -> Any:
    # The hook that recognises such values costs a call for every object in the text.
    return kombu_loads(raw) if MARKER in raw else decode_plain(raw.decode())


def _split(raw: bytes) -> dict[str, Any] | None:
    """Decode what stands behind a long body, which is base64; None where it is not."""
    start = len(LEAD)
    end = raw.find(b'"', start)
    if not raw.startswith(b', "', end + 1):
        # It goes on: the quote was an escaped one.
        return None
    others = _decoded(b"{" + raw[end + 3 :])
    properties = others.get("properties")
    if "body" in others or not isinstance(properties, dict):
        return None
    if properties.get("body_encoding") != "base64":
        return None
    return {"body": str(memoryview(raw)[start:end], "ascii"), **others}


class ClaimedMessage(KombuMessage):  # type: ignore[misc]  # kombu's, untyped
    """A message that is filed on the server until it is settled.

    Args:
        payload: The decoded envelope.
        tag: What it is filed under. Not the tag in the envelope, which the sender chose and
            which stays the same when the message is delivered again.
        queue: Where it came from, and goes back to.
        claims: What settles it.
    """

    # Read for every message; the base class makes a list of it.
    errors: Any = ()

    def __init__(
        self, payload: dict[str, Any], channel: Any, tag: str, queue: str, claims: Any
    ) -> None:
        headers = payload.get("headers") or {}
        properties = payload["properties"]
        if "compression" in headers:
            # Unpacking, and what becomes of errors in it, are kombu's.
            self.errors = []
            super().__init__(payload, channel=channel)
        else:
            self._raw = payload
            self.channel = channel
            self.content_type = payload.get("content-type")
            self.content_encoding = payload.get("content-encoding")
            self.delivery_info = properties.get("delivery_info") or {}
            self.headers = headers
            self.properties = properties
            self.accept = None
            self._decoded_cache = None
            self._state = "RECEIVED"
            body = payload.get("body")
            if body:
                encoding = properties.get("body_encoding")
                if encoding == "base64":
                    body = from_base64(body)
                else:
                    body = channel.decode_body(body, encoding)
            self.body = body.encode() if isinstance(body, str) else body
        self.delivery_tag = tag
        self.queue = queue
        self._claims = claims

    def ack(self, multiple: bool = False) -> None:
        """Acknowledge: the message is done."""
        if self._state != "RECEIVED":
            raise self.MessageStateError(f"Message already acknowledged with state: {self._state}")
        self._claims.ack(self.delivery_tag)
        self._state = "ACK"

    def leave(self, delay_s: float, crowded: bool = False) -> bool:
        """Let the message wait on the server until its time; False if it has to be kept here.

        Args:
            delay_s: Seconds until then.
            crowded: Too many messages are kept here already.
        """
        if self._state == "RECEIVED" and self._claims.delayed.leave(self, delay_s, crowded):
            self._state = "REQUEUED"
            return True
        return False
