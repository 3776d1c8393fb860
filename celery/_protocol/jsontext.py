"""JSON as kombu reads and writes it, without a new decoder and encoder for each text.

Values that JSON has no form for are tagged by kombu. Recognising them costs a call of Python for
every object in a text, so a text without a tag is read by the decoder in C alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from json import encoder as json_encoder
from typing import Any

from kombu.utils import json as kombu_json

__all__ = ("TAG", "chunks", "decode", "decode_plain", "encode", "plain", "tagged")

#: Marks a value that JSON itself has no form for, see `kombu.utils.json.register_type`.
TAG = '"__type__"'

plain: Any = json.JSONDecoder()
tagged: Any = json.JSONDecoder(object_hook=kombu_json.object_hook)

_scan = plain.scan_once


def decode(text: str) -> Any:
    """Decode *text* as kombu does, values that it tags among it.

    Raises:
        ValueError: It is not JSON.
    """
    return tagged.decode(text) if TAG in text else decode_plain(text)


def decode_plain(text: str) -> Any:
    """Decode *text* that tags nothing; see `decode`."""
    try:
        # What `plain.decode` does, without looking for blanks, which nobody sends.
        value, end = _scan(text, 0)
    except StopIteration:
        return plain.decode(text)
    return value if end == len(text) else plain.decode(text)


_encode_carefully = kombu_json.JSONEncoder().encode


def _chunk_encoder() -> Callable[[Any, int], Sequence[str]]:
    """Return the encoder in C that `JSONEncoder.encode` makes anew for each value."""
    encoder = kombu_json.JSONEncoder()
    make = getattr(json_encoder, "c_make_encoder", None)
    if make is None:
        # Python without its accelerator.
        return lambda value, _level: (encoder.encode(value),)
    # Without the note of what is open: a value that contains itself meets the limit of recursion.
    chunks: Callable[[Any, int], Sequence[str]] = make(
        None, encoder.default, json_encoder.encode_basestring_ascii, None, ": ", ", ",
        False, False, True,
    )  # fmt: skip
    return chunks


#: Returns the pieces of a text, for a value and the number 0; the text of an error may be poor.
chunks = _chunk_encoder()


def encode(value: Any) -> str:
    """Encode *value* as kombu does: the same text, ASCII.

    Raises:
        TypeError: A value has no form in JSON, nor one that was registered with kombu.
        ValueError: It contains itself.
    """
    try:
        return "".join(chunks(value, 0))
    except Exception:  # noqa: BLE001 - whatever it is, the other one says it better
        return _encode_carefully(value)
