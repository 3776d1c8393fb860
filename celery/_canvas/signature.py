"""Signatures: the call of a task as data, to be passed on, combined, and applied later.

A signature is a dictionary with the six keys of the wire form, so it goes into messages as it
is. `Signature` is the call of one task; chains, groups and chords are subclasses that keep their
parts in ``kwargs``. What a subclass has to say is how it is revived from plain data
(`_revive_kwargs`), copied (`_copy_kwargs`), frozen and applied.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, Never, Self, cast, overload

from celery import _state
from celery._canvas import stamping
from celery._types import Generic
from celery.utils.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from typing_extensions import TypeVar

    from celery import result as results
    from celery._canvas.chain import _chain
    from celery._canvas.stamping import StampingVisitor
    from celery.app.base import Celery
    from celery.app.task import Task

    R = TypeVar("R", default=Any)
    H = TypeVar("H", default=results.AsyncResult[R])
    S = TypeVar("S", bound="Signature[Any, Any]")
    NextR = TypeVar("NextR")
    NextH = TypeVar("NextH")
else:
    from typing import TypeVar

    R = TypeVar("R")
    H = TypeVar("H")

#: Options that hold signatures; each a list, or one signature as given by the user.
LINKS = ("link", "link_error")
_SIGNATURE_OPTIONS = frozenset({*LINKS, "chord", "chain"})


def task_name_from(task: Any) -> str:
    """Return the name of a task object, or the name itself."""
    return cast("str", getattr(task, "name", task))


def as_list(value: Any) -> list[Any]:
    """Return an option that may hold nothing, one thing or several as a new list."""
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _copied_link(link: Any) -> Any:
    return link._copy() if isinstance(link, Signature) else link


def copied_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options that can be changed without changing the original's lists and links."""
    result = dict(options)
    for name, value in options.items():
        if name in LINKS:
            result[name] = [_copied_link(link) for link in as_list(value)]
        elif isinstance(value, (dict, list)) and name != "chord":
            result[name] = value.copy()
    return result


def merged_options(own: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return options where *given* wins, but the stamps of both are stamps."""
    result = {**own, **given}
    if stamping.STAMPED in own and stamping.STAMPED in given:
        result[stamping.STAMPED] = list(
            dict.fromkeys([*(own[stamping.STAMPED] or ()), *(given[stamping.STAMPED] or ())])
        )
    return result


def plain(value: Any) -> Any:
    """Return signatures, or lists of them, as the dictionaries and lists that they stand for.

    Messages are made of these: not every serializer takes subclasses of `dict`, and those that
    do would read the length of a group as its number of entries.
    """
    if isinstance(value, Signature):
        result = dict(value)
        options = value["options"]
        if not _SIGNATURE_OPTIONS.isdisjoint(options):
            result["options"] = {
                k: plain(v) if k in _SIGNATURE_OPTIONS else v for k, v in options.items()
            }
        if type(value) is not Signature:
            result["kwargs"] = {k: plain(v) for k, v in value["kwargs"].items()}
        return result
    if isinstance(value, (list, tuple, MutableSequence)):
        if getattr(value, "is_plain", False):
            return value
        # The rest of a chain arrives as plain data, and leaves as such.
        return [item if type(item) is dict else plain(item) for item in value]
    return value


class Signature(dict[str, Any], Generic[R, H]):
    """The call of a task: name, arguments, options.

    To type checkers it is generic in the value of its result, and in what sending it gives: an
    `AsyncResult` of the value, or a `GroupResult` where it ends in a group.

    Args:
        task: Task, name of a task, or a signature's plain data.
        args: Positional arguments.
        kwargs: Keyword arguments.
        options: Options of `apply_async`.
        type: The task object, where *task* is a name.
        subtask_type: Which kind of composite this is; None for tasks.
        immutable: Take no further arguments.
        app: The app; that of the task or the current one when None.
        **ex: Further options.
    """

    #: Kinds of signatures by their ``subtask_type``.
    TYPES: ClassVar[dict[str, type[Signature]]] = {}

    _app: Celery | None = None
    _type: Task | None = None

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[S]], type[S]]:
        """Return a decorator that makes a class known as the kind *name*."""

        def register(subclass: type[S]) -> type[S]:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Celery | None = None,
        **ex: Any,
    ) -> None:
        if app is not None:
            self._app = app
        if isinstance(task, dict):
            self.update(task)
            return
        if isinstance(task, str):
            name = task
            if type is not None:
                self._type = type
        else:
            name = task_name_from(task)
            self._type = task
        self["task"] = name
        self["args"] = tuple(args) if args else ()
        self["kwargs"] = dict(kwargs) if kwargs else {}
        self["options"] = {**options, **ex} if options else ex
        self["subtask_type"] = subtask_type
        self["immutable"] = immutable

    # -- Plain data --------------------------------------------------------------

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Build the signature that plain data stands for, of the kind the data names."""
        kind = d.get("subtask_type")
        target = Signature.TYPES.get(kind, Signature) if kind else Signature
        return target._revive(d, app)

    @classmethod
    def _revive(cls, d: Mapping[str, Any], app: Celery | None) -> Self:
        new = dict.__new__(cls)
        new.update(d)
        for key, default in (("args", ()), ("kwargs", {}), ("options", {})):
            if new.get(key) is None:
                new[key] = default
        new.setdefault("subtask_type", None)
        new.setdefault("immutable", False)
        if app is not None:
            new._app = app
        if isinstance(d, Signature):
            new._type = d._type
        new["kwargs"] = cls._revive_kwargs(new["kwargs"], app)
        new["options"] = dict(new["options"])
        return new

    @classmethod
    def _revive_kwargs(cls, kwargs: Mapping[str, Any], app: Celery | None) -> dict[str, Any]:
        return dict(kwargs)

    def _copy(self) -> Self:
        """Return a copy that shares arguments and nothing else."""
        new = dict.__new__(type(self))
        new.update(self)
        new["kwargs"] = self._copy_kwargs()
        options = self["options"]
        new["options"] = copied_options(options) if options else {}
        if self._app is not None:
            new._app = self._app
        if self._type is not None:
            new._type = self._type
        return new

    def _copy_kwargs(self) -> dict[str, Any]:
        return dict(self["kwargs"])

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        new = self._copy()
        memo[id(self)] = new
        for key in ("args", "kwargs", "options"):
            new[key] = deepcopy(self[key], memo)
        return new

    def __reduce__(self) -> Any:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

    def items(self) -> Any:
        """Return the pairs of the wire form."""
        return super().items()

    # -- Combining -----------------------------------------------------------------

    def _merge(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Sequence[Any], dict[str, Any], dict[str, Any]]:
        """Return arguments and options of a call; arguments come in front of ours."""
        own = self["options"]
        merged = merged_options(own, options) if options else dict(own)
        if self["immutable"]:
            return self["args"], self["kwargs"], merged
        return (
            (*args, *self["args"]) if args else self["args"],
            {**self["kwargs"], **kwargs} if kwargs else self["kwargs"],
            merged,
        )

    def clone(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **opts: Any,
    ) -> Self:
        """Return a copy with arguments put in front and options replaced."""
        new = self._copy()
        if not self["immutable"]:
            if args:
                new["args"] = (*args, *new["args"])
            if kwargs:
                new["kwargs"].update(kwargs)
        if opts:
            new["options"] = merged_options(new["options"], opts)
        return new

    partial = clone

    def replace(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return a copy where what is given stands for what was there."""
        new = self._copy()
        if args is not None:
            new["args"] = tuple(args)
        if kwargs is not None:
            new["kwargs"] = dict(kwargs)
        if options is not None:
            new["options"] = dict(options)
        return new

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Change options in place and return the signature."""
        if immutable is not None:
            self.set_immutable(immutable)
        self["options"].update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether the signature refuses further arguments."""
        self["immutable"] = immutable

    def __or__(  # type: ignore[override]  # a dictionary makes a dictionary of this
        self, other: Signature[NextR, NextH]
    ) -> _chain[NextR, NextH]:
        return Signature.TYPES["chain"]._join(self, other)  # type: ignore[no-any-return]

    if TYPE_CHECKING:
        # mypy asks the right operand first; that of a dictionary would make a dictionary.
        def __ror__(self, other: Never, /) -> Any: ...  # type: ignore[override]

    def __ior__(self, other: Any) -> Any:  # type: ignore[misc]  # likewise
        return self | other

    @classmethod
    def _join(cls, left: Signature[Any, Any], right: Any) -> Any:
        raise NotImplementedError  # the chain, which knows all kinds, says what ``|`` makes

    # -- Links ---------------------------------------------------------------------

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Append *value* to the option *key* unless it is there; return *value*."""
        self.extend_list_option(key, [value])
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Append each of *value*, one or several, to the option *key* unless it is there."""
        values = as_list(self["options"].get(key))
        for item in as_list(value):
            if item not in values:
                values.append(item)
        self["options"][key] = values

    def link(self, callback: Any) -> Any:
        """Have *callback* called with the result; return *callback*."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Have *errback* called on failure; return *errback*."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """Have *errback* called on failure; return the signature."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Any]:
        """Return the signature and all it links to, recursively."""
        found: list[Any] = [self]
        for link in as_list(self["options"].get("link")):
            found.extend(maybe_signature(link, app=self._app).flatten_links())
        return found

    # -- Stamps --------------------------------------------------------------------

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Self:
        """Put stamps on the signature and on what it links to.

        Args:
            visitor: Asked for the stamps of each part.
            append_stamps: Keep the former values of a stamp, in a list.
            **headers: Stamps for all parts; with a ``stamped_headers`` list, the keys on it.
        """
        self.stamp_links(visitor, append_stamps, **headers)
        found = headers
        if visitor is not None:
            found = stamping.combine(headers, visitor.on_signature(self, **headers))
        self["options"] = stamping.stamped(self["options"], found, append_stamps)
        return self

    def stamp_links(
        self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Put stamps on callbacks and errbacks only."""
        options = self["options"]
        for name in LINKS:
            if not options.get(name):
                continue
            links = [maybe_signature(link, app=self._app) for link in as_list(options[name])]
            options[name] = links
            for link in links:
                found = headers
                if visitor is not None:
                    hook = visitor.on_callback if name == "link" else visitor.on_errback
                    found = stamping.combine(headers, hook(link, **headers))
                link.stamp(visitor, append_stamps, **found)

    def _stamp_parts(
        self,
        kind: str,
        parts: Callable[[], Iterable[Signature]],
        visitor: StampingVisitor | None,
        append_stamps: bool,
        headers: dict[str, Any],
    ) -> dict[str, Any]:
        """Put stamps on links and parts of a workflow, and return them.

        Args:
            kind: How the visitor's methods call it: they are asked before and told after.
            parts: Gives the parts, once the visitor, which may change them, was asked.
        """
        found = headers
        if visitor is not None:
            ask = getattr(visitor, f"on_{kind}_start")
            found = stamping.combine(headers, ask(self, **headers))
        self.stamp_links(visitor, append_stamps, **found)
        for part in parts():
            part.stamp(visitor, append_stamps, **found)
        if visitor is not None:
            getattr(visitor, f"on_{kind}_end")(self, **found)
        return found

    # -- Identity and results --------------------------------------------------------

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> H:
        """Give the signature its ids and return the result it will have, without sending.

        An id that it has already is kept.
        """
        options = self["options"]
        app = self._app or self.app
        task_id = options.get("task_id")
        if task_id is None:
            task_id = options["task_id"] = _id or new_id()
        if "reply_to" not in options:
            options["reply_to"] = app.thread_oid
        if root_id is not None:
            options["root_id"] = root_id
        if parent_id is not None:
            options["parent_id"] = parent_id
        if group_id is not None and options.get("group_id") is None:
            # The body of a chord that is itself part of a header belongs to that header.
            options["group_id"] = group_id
        if group_index is not None:
            options["group_index"] = group_index
        if chord is not None:
            options["chord"] = chord
        task = self._known_type()
        return (app if task is None else task).AsyncResult(task_id)  # type: ignore[return-value]

    def awaited(self) -> Iterator[Signature[Any, Any]]:
        """Yield the tasks whose results stand for that of the signature, once it is frozen."""
        yield self

    @property
    def AsyncResult(self) -> Callable[..., results.AsyncResult[Any]]:
        """What makes a result of an id."""
        task = self._known_type()
        return self.app.AsyncResult if task is None else task.AsyncResult

    # -- Applying ----------------------------------------------------------------------

    def _known_type(self) -> Task | None:
        """Return the task, or None when it is not registered here."""
        task = self._type
        if task is None:
            task = self.app.tasks.get(self["task"])
        return task

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> R:
        """Run the task in this process."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs)
        return cast("R", self.type(*args, **kwargs))

    def __invert__(self) -> R:
        return self.apply_async().get()  # type: ignore[attr-defined,no-any-return]

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> H:
        """Send the task with these arguments in front; see `apply_async`."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> results.EagerResult[R]:
        """Run the task in this process."""
        merged_args, merged_kwargs, merged = self._merge(args, kwargs, options)
        return self.type.apply(  # type: ignore[no-any-return]
            merged_args, merged_kwargs, **merged
        )

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> H:
        """Send the task.

        Args:
            args: Arguments to put in front of the stored ones.
            kwargs: Arguments that win over the stored ones.
            route_name: Name to route by, instead of that of the task.
            **options: Options that win over the stored ones.
        """
        merged_args, merged_kwargs, merged = self._merge(args, kwargs, options)
        if route_name is not None:
            merged["route_name"] = route_name
        task = self._known_type()
        if task is None:
            sent: H = self.app.send_task(self["task"], merged_args, merged_kwargs, **merged)
            return sent
        return task.apply_async(merged_args, merged_kwargs, **merged)  # type: ignore[return-value]

    async def adelay(self, *partial_args: Any, **partial_kwargs: Any) -> H:
        """Do what `delay` does on an event loop, without blocking it."""
        return await self.aapply_async(partial_args, partial_kwargs)

    async def aapply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> H:
        """Do what `apply_async` does on an event loop, without blocking it."""
        # Who awaits has imported asyncio; others need not.
        from celery.utils.bridge import call_for

        return await call_for(self.app, self.apply_async, args, kwargs, **options)

    def election(self) -> Any:
        """Have the workers elect one of them to run the task; return its result."""
        app = self.app
        task_id = self["options"].get("task_id") or new_id()
        with app.producer_or_acquire(None) as producer:
            extra = app.backend.on_task_call(producer, task_id) or {}
            app.control.election(
                task_id,
                "task",
                self.clone(task_id=task_id, **extra),
                connection=producer.connection,
            )
        return self.AsyncResult(task_id)

    # -- Showing -----------------------------------------------------------------------

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Show the call with these arguments put in front."""
        from kombu.utils.functional import reprcall  # takes long to import

        shown_args, shown_kwargs, _ = self._merge(args, kwargs)
        return cast("str", reprcall(self["task"], shown_args, shown_kwargs))

    def __repr__(self) -> str:
        return self.reprcall()

    # -- Fields ------------------------------------------------------------------------

    def _first_member(self) -> Signature | None:
        """Return a part whose app is ours as well, when no app was given."""
        return None

    @property
    def name(self) -> str:
        """Name of the task."""
        return cast("str", self["task"])

    @property
    def type(self) -> Any:
        """The task object; NotRegistered is raised when there is none of this name."""
        return self._type if self._type is not None else self.app.tasks[self["task"]]

    @property
    def app(self) -> Any:
        """The app: the one given, that of the task or the first part, or the current one."""
        if self._app is not None:
            return self._app
        if self._type is not None and (app := getattr(self._type, "app", None)) is not None:
            return app
        member = self._first_member()
        return _state.get_current_app() if member is None else member.app

    @app.setter
    def app(self, app: Any) -> None:
        self._app = app

    def _option(name: str, doc: str) -> Any:  # type: ignore[misc]
        def read(self: Signature) -> Any:
            return self["options"].get(name)

        def write(self: Signature, value: Any) -> None:
            self["options"][name] = value

        return property(read, write, doc=doc)

    def _field(name: str, doc: str) -> Any:  # type: ignore[misc]
        def read(self: Signature) -> Any:
            return self.get(name)

        def write(self: Signature, value: Any) -> None:
            self[name] = value

        return property(read, write, doc=doc)

    id = _option("task_id", "Id of the task; None until frozen.")
    parent_id = _option("parent_id", "Id of the task that sends this one.")
    root_id = _option("root_id", "Id of the first task of the whole workflow.")
    task = _field("task", "Name of the task.")
    args = _field("args", "Positional arguments.")
    kwargs = _field("kwargs", "Keyword arguments; the parts of a composite.")
    options = _field("options", "Options of `apply_async`.")
    subtask_type = _field("subtask_type", "Kind of composite; None for tasks.")
    immutable = _field("immutable", "Whether further arguments are refused.")

    del _option, _field


@overload
def signature(varies: S, *args: Any, **kwargs: Any) -> S: ...
@overload
def signature(varies: Task[..., R], *args: Any, **kwargs: Any) -> Signature[R]: ...
@overload
def signature(varies: str, *args: Any, **kwargs: Any) -> Signature: ...
@overload
def signature(varies: Any, *args: Any, **kwargs: Any) -> Signature[Any, Any]: ...
def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """Make a signature of a task, a task's name, or plain data; copy one that is given."""
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, dict):
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


def maybe_signature(d: Any, app: Any = None, clone: bool = False) -> Any:
    """Make sure that plain data is a signature; None stays None.

    Args:
        d: Signature, plain data, or None.
        app: App for a signature that has none.
        clone: Copy *d* when it is a signature.
    """
    if d is None:
        return None
    if isinstance(d, Signature):
        if clone:
            d = d.clone()
        if app is not None and d._app is None:
            d._app = app
        return d
    if isinstance(d, dict):
        return Signature.from_dict(d, app=app)
    return d
