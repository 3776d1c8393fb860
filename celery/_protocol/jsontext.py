"""Reading JSON as kombu writes it, without a new decoder for each text.

Values that JSON has no form for are tagged by kombu. Recognising them costs a call of Python for
every object in a text, so a text without a tag is read by the decoder in C alone.
"""

from __future__ import annotations

import json
from typing import Any

from kombu.utils import json as kombu_json

__all__ = ("TAG", "decode", "decode_plain", "plain", "tagged")

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
