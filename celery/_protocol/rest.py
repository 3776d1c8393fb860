"""The rest of a chain, handed from task to task without being decoded.

Each message of a chain carries all that comes after it, so a long chain would be decoded and
encoded again at every step, of which only the next one is needed. Here the rest stays the
JSON text it came as: `split_body` finds it in a body, `Rest.next` decodes its last element,
which is the next step, and `spliced` puts the text before that into the next body.

Only bodies in the exact layout that Python's `json` gives them are taken apart; whatever looks
different is decoded as a whole, and reads the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence
from typing import Any

from celery._protocol.jsontext import TAG, decode, plain, tagged

#: Characters from which on it is worth it.
LONG = 4096

#: How a signature begins. In a string the quote would be escaped, so this opens an object.
SIGNATURE = '{"task": '
#: What follows the rest when no chord waits for the task.
END = '], "chord": null}]'
#: Signatures inside the next step (members of a group) to look behind at most.
NESTED = 16


class Rest(MutableSequence[Any]):
    """The steps to come, next one last, as JSON text until somebody looks at them.

    Args:
        text: Elements of a JSON list, without the brackets; at least one.
    """

    __slots__ = ("_steps", "_text")

    #: It is what messages are made of: there are no signatures in it.
    is_plain = True

    def __init__(self, text: str) -> None:
        self._text: str | None = text
        self._steps: list[Any] = []

    @property
    def text(self) -> str | None:
        """The text of the elements; None once they were decoded, and perhaps changed."""
        return self._text

    def steps(self) -> list[Any]:
        """Return the list that this stands for; changes of it are changes of this."""
        text, self._text = self._text, None
        if text is not None:
            self._steps = decode(f"[{text}]")
        return self._steps

    def next(self) -> tuple[Any, MutableSequence[Any]]:
        """Return the next step, and what is left when it is taken off."""
        text = self._text
        start = None if text is None else _last_signature(text)
        if text is None or start is None:
            *left, step = self.steps()
            return step, left
        return decode(text[start:]), Rest(text[: start - len(", ")]) if start else []

    def __len__(self) -> int:
        return len(self.steps())

    def __bool__(self) -> bool:
        return self._text is not None or bool(self._steps)

    def __getitem__(self, index: Any) -> Any:
        return self.steps()[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.steps()[index] = value

    def __delitem__(self, index: Any) -> None:
        del self.steps()[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.steps())

    def insert(self, index: int, value: Any) -> None:
        """Put *value* in front of the step at *index*."""
        self.steps().insert(index, value)

    def __eq__(self, other: object) -> bool:
        return self.steps() == other

    __hash__ = None  # type: ignore[assignment] # steps come and go

    def __repr__(self) -> str:
        return repr(self.steps())

    def __json__(self) -> list[Any]:
        return self.steps()

    def __reduce__(self) -> Any:
        return list, (self.steps(),)


def _last_signature(text: str) -> int | None:
    """Return where the last element begins; None when that can't be said at little cost.

    An object that begins later belongs to that element, and ends before the text does.
    """
    start = len(text)
    for _ in range(NESTED):
        start = text.rfind(SIGNATURE, 0, start)
        if start < 0 or (start and not text.endswith(", ", 0, start)):
            return None
        try:
            end = plain.scan_once(text, start)[1]
        except (StopIteration, ValueError):
            return None
        if end == len(text):
            return start
    return None


def split_body(text: str) -> tuple[Any, Any, dict[str, Any]] | None:
    """Take the body of a task message apart, leaving a long rest of its chain undecoded.

    Returns:
        Arguments, keyword arguments, and the embedded mapping with a `Rest` as its chain; or
        None when the body has to be decoded as a whole.
    """
    if len(text) < LONG or not text.startswith("[") or not text.endswith(END):
        return None
    decoder = tagged if TAG in text else plain
    parts: list[Any] = []
    position = 0
    for lead in ("[", ", ", ', {"callbacks": ', ', "errbacks": '):
        if not text.startswith(lead, position):
            return None
        try:
            value, position = decoder.scan_once(text, position + len(lead))
        except (StopIteration, ValueError):
            return None
        parts.append(value)
    lead = f', "chain": [{SIGNATURE}'
    if not text.startswith(lead, position):
        return None
    rest = Rest(text[position + len(lead) - len(SIGNATURE) : -len(END)])
    args, kwargs, callbacks, errbacks = parts
    return args, kwargs, {
        "callbacks": callbacks, "errbacks": errbacks, "chain": rest, "chord": None,
    }  # fmt: skip


def carried(body: Any) -> Rest | None:
    """Return the undecoded rest in a body that is to be sent, if there is one."""
    if type(body) is tuple and len(body) == 3 and type(body[2]) is dict:
        chain = body[2].get("chain")
        if type(chain) is Rest:
            return chain
    return None


def spliced(body: Any, rest: Rest, encode: Callable[[Any], str]) -> str:
    """Encode a body that carries *rest*: the same text as if that were encoded with it."""
    args, kwargs, embed = body
    if rest.text is None:
        return encode((args, kwargs, {**embed, "chain": rest.steps()}))
    return (
        f'[{encode(args)}, {encode(kwargs)}, {{"callbacks": {encode(embed["callbacks"])}, '
        f'"errbacks": {encode(embed["errbacks"])}, "chain": [{rest.text}], '
        f'"chord": {encode(embed["chord"])}}}]'
    )
