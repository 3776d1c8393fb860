"""JSON bodies at speed: what kombu's serializer writes and reads, without its set-up per message.

kombu makes an encoder and a decoder anew for each message and looks at every mapping for
tagged values. Here both are made once, and a text that tags nothing is read by the C
decoder alone. Everything else, and a ``json`` serializer that was replaced, goes to kombu.
"""

from __future__ import annotations

import json
from typing import Any

from kombu.exceptions import DecodeError, EncodeError
from kombu.serialization import dumps as kombu_dumps
from kombu.serialization import loads as kombu_loads
from kombu.serialization import registry
from kombu.utils import json as kombu_json

JSON_TYPE = "application/json"
JSON_ENCODING = "utf-8"

#: Marks a value that JSON itself has no form for, see `kombu.utils.json.register_type`.
TAG = '"__type__"'

_encode = kombu_json.JSONEncoder().encode
_decoder: Any = json.JSONDecoder()
_scan = _decoder.scan_once
_decode_tagged = json.JSONDecoder(object_hook=kombu_json.object_hook).decode


def dumps(value: Any, serializer: str) -> tuple[str, str, Any]:
    """Serialize *value*; returns content type, encoding and payload.

    Raises:
        kombu.exceptions.EncodeError: The serializer can't carry *value*.
        kombu.exceptions.SerializerNotInstalled: There is no such serializer.
    """
    if serializer == "json" and registry._encoders["json"].encoder is kombu_json.dumps:
        try:
            return JSON_TYPE, JSON_ENCODING, _encode(value)
        except Exception as exc:
            raise EncodeError(exc) from exc
    return kombu_dumps(value, serializer=serializer)  # type: ignore[no-any-return]


def decode_plain(text: str) -> Any:
    """Read JSON that tags nothing; *text* is nearly always one value without blanks around it.

    Raises:
        ValueError: It is not JSON.
    """
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        return _decoder.decode(text)
    return value if end == len(text) else _decoder.decode(text)


def loads(data: Any, content_type: str, content_encoding: str | None, accept: Any = None) -> Any:
    """Deserialize a body whose *content_type* is among those in *accept*.

    Raises:
        kombu.exceptions.ContentDisallowed: It is not.
        kombu.exceptions.DecodeError: The body is broken.
    """
    if (
        content_type != JSON_TYPE
        or accept is None
        or JSON_TYPE not in accept
        or registry._decoders.get(JSON_TYPE) is not kombu_json.loads
    ):
        return kombu_loads(data, content_type, content_encoding, accept=accept)
    try:
        text = data if isinstance(data, str) else str(data, "utf-8")
        return _decode_tagged(text) if TAG in text else decode_plain(text)
    except Exception as exc:
        raise DecodeError(exc) from exc
