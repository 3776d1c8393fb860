"""How a back-end turns documents into bytes and back, bound once per back-end.

kombu looks a serializer up by name for every call and builds a JSON encoder for each. A store does
both for every task, so the common case, kombu's own JSON, is bound here to one encoder and a
decoder that runs its Python hook only when a document has typed values in it. Every other
serializer, and JSON registered anew by the user, goes through kombu's registry.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from kombu import serialization
from kombu.exceptions import DecodeError, EncodeError, SerializerNotInstalled
from kombu.utils import json as kombu_json

from celery._protocol import jsontext


class Codec(NamedTuple):
    """One serializer, ready for use."""

    content_type: str
    content_encoding: str
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def make_codec(serializer: str, accept: Collection[str] | None) -> Codec:
    """Bind the serializer *serializer*.

    Args:
        serializer: Name in kombu's registry.
        accept: Content types that may be decoded; None accepts all that are enabled.

    Raises:
        kombu.exceptions.SerializerNotInstalled: There is no such serializer.
    """
    known = serialization.registry._encoders.get(serializer)
    if known is None:
        raise SerializerNotInstalled(f"result_serializer: there is no serializer {serializer!r}")
    content_type, content_encoding, encoder = known
    if encoder is kombu_json.dumps and (accept is None or content_type in accept):
        return Codec(content_type, content_encoding, encode_json, decode_json)

    def encode(data: Any) -> Any:
        return serialization.dumps(data, serializer=serializer)[2]

    def decode(payload: Any) -> Any:
        return serialization.loads(
            payload, content_type=content_type, content_encoding=content_encoding, accept=accept
        )

    return Codec(content_type, content_encoding, encode, decode)


def encode_json(data: Any) -> str:
    """Encode as kombu's JSON serializer does.

    Raises:
        kombu.exceptions.EncodeError: There is no JSON for a value in *data*.
    """
    try:
        return jsontext.encode(data)
    except Exception as exc:
        raise EncodeError(exc) from exc


def decode_json(payload: Any) -> Any:
    """Decode what kombu's JSON serializer encoded, from text or bytes.

    Raises:
        kombu.exceptions.DecodeError: It is not JSON.
    """
    if isinstance(payload, (bytearray, memoryview)):
        payload = bytes(payload)
    try:
        text = payload.decode("utf-8") if isinstance(payload, bytes) else payload
        return jsontext.decode(text)
    except Exception as exc:
        raise DecodeError(exc) from exc
