"""JSON bodies at speed: what kombu's serializer writes and reads, without its set-up per message.

kombu makes an encoder and a decoder anew for each message and looks at every mapping for
tagged values. Here both are made once, and a text that tags nothing is read by the C
decoder alone. Everything else, and a ``json`` serializer that was replaced, goes to kombu.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kombu.exceptions import DecodeError, EncodeError
from kombu.serialization import dumps as kombu_dumps, loads as kombu_loads, registry
from kombu.utils import json as kombu_json

from celery._protocol import rest
from celery._protocol.jsontext import chunks, decode, encode

JSON_TYPE = "application/json"
JSON_ENCODING = "utf-8"

#: What a body says about a call without callbacks, chain or chord.
_NOTHING_EMBEDDED = encode(dict.fromkeys(("callbacks", "errbacks", "chain", "chord")))


def is_standard(serializer: str) -> bool:
    """Say whether *serializer* is JSON as kombu writes it."""
    return serializer == "json" and registry._encoders["json"].encoder is kombu_json.dumps


def dumps_call(args: Sequence[Any], kwargs: Mapping[str, Any], embedded: str | None = None) -> str:
    """Return the JSON body of a version 2 message: the text that `dumps` gives.

    Args:
        embedded: What the body carries beside the arguments, as JSON; None for nothing.

    Raises:
        Exception: It can't be encoded; `dumps` says why.
    """
    text = "".join(chunks(args, 0))
    named = "".join(chunks(kwargs, 0)) if kwargs else "{}"
    return f"[{text}, {named}, {embedded or _NOTHING_EMBEDDED}]"


def dumps(value: Any, serializer: str) -> tuple[str, str, Any]:
    """Serialize *value*; returns content type, encoding and payload.

    Raises:
        kombu.exceptions.EncodeError: The serializer can't carry *value*.
        kombu.exceptions.SerializerNotInstalled: There is no such serializer.
    """
    undecoded = rest.carried(value)
    if is_standard(serializer):
        try:
            if undecoded is not None:
                return JSON_TYPE, JSON_ENCODING, rest.spliced(value, undecoded, encode)
            return JSON_TYPE, JSON_ENCODING, encode(value)
        except Exception as exc:
            raise EncodeError(exc) from exc
    if undecoded is not None:
        args, kwargs, embed = value
        value = args, kwargs, {**embed, "chain": undecoded.steps()}
    return kombu_dumps(value, serializer=serializer)  # type: ignore[no-any-return]


def loads(data: Any, content_type: str, content_encoding: str | None, accept: Any = None) -> Any:
    """Deserialize a body whose *content_type* is among those in *accept*.

    The rest of a long chain may be a `celery._protocol.rest.Rest`.

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
        return rest.split_body(text) or decode(text)
    except Exception as exc:
        raise DecodeError(exc) from exc
