"""Chords: a group, and a task that gets the list of its values.

The group is called header, the task body. The header's tasks carry the body in their messages;
the back-end counts them and sends the body when the last one has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

from celery._canvas import stamping
from celery._canvas.group import group
from celery._canvas.signature import H, R, Signature, as_list, maybe_signature, plain
from celery.utils.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from celery._canvas.signature import NextH, NextR
    from celery._canvas.stamping import StampingVisitor
    from celery.app.base import Celery
    from celery.result import EagerResult, GroupResult

    T = TypeVar("T")

#: Options that say when the header may start; the body starts when the header has ended.
_START_OPTIONS = ("countdown", "eta")

#: Options that place the chord in something larger; its end, the body, takes the place.
_PLACE_OPTIONS = ("group_id", "group_index", "chord")


def ends_in_group(sig: Any) -> bool:
    """Say whether the value of *sig* would be that of several tasks."""
    kind = sig.get("subtask_type")
    if kind == "group":
        return True
    if kind == "chord":
        body = sig["kwargs"]["body"]
        return body is not None and ends_in_group(body)
    if kind == "chain":
        tasks = sig["kwargs"]["tasks"]
        return bool(tasks) and ends_in_group(tasks[-1])
    return False


def oldest(result: Any) -> Any:
    """Return the first ancestor of *result*, or itself."""
    while result.parent is not None:
        result = result.parent
    return result


@Signature.register_type(name="chord")
class _chord(Signature[R, H]):
    """A group, and a task that gets the list of its values; the result is that of the task.

    Args:
        header: Signatures that run side by side.
        body: Signature that is called with the list of their values.
        task: Name of the task that stands for chords in messages.
        args: Arguments to put in front of those of each header task.
        kwargs: Keyword arguments for each header task.
        app: The app; that of the header when None.
        **options: Options for header and body.
    """

    if TYPE_CHECKING:
        # What the value is says the body.
        @overload
        def __init__(
            self: _chord[NextR, NextH], header: Any, body: Signature[NextR, NextH], **o: Any
        ) -> None: ...
        @overload
        def __init__(
            self: _chord[Any, Any], header: Any, body: Any = None, **options: Any
        ) -> None: ...

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        app: Celery | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            task,
            args,
            {
                "kwargs": dict(kwargs or {}),
                "header": self._header_tasks(header, app),
                "body": maybe_signature(body, app),
            },
            options,
            subtask_type="chord",
            app=app,
        )

    @staticmethod
    def _header_tasks(header: Any, app: Celery | None) -> Any:
        if isinstance(header, group):
            given = {k: v for k, v in header["options"].items() if v is not None}
            # A group with options or arguments of its own is more than its tasks.
            return header if given or header["args"] else header.tasks
        return group(header, app=app).tasks

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Build a chord of plain data."""
        return cls._revive(d, app)

    @classmethod
    def _revive_kwargs(cls, kwargs: Mapping[str, Any], app: Celery | None) -> dict[str, Any]:
        header = kwargs["header"]
        if isinstance(header, dict):
            header = maybe_signature(header, app)
        else:
            header = [maybe_signature(task, app) for task in header]
        body = maybe_signature(kwargs.get("body"), app)
        return {**kwargs, "kwargs": kwargs.get("kwargs") or {}, "header": header, "body": body}

    def _copy_kwargs(self) -> dict[str, Any]:
        kwargs, app = self["kwargs"], self._app
        header, body = kwargs["header"], kwargs["body"]
        if isinstance(header, Signature):
            header = header._copy()
        else:
            header = [maybe_signature(task, app)._copy() for task in header]
        if body is not None:
            body = maybe_signature(body, app)._copy()
        return {**kwargs, "kwargs": dict(kwargs["kwargs"]), "header": header, "body": body}

    def _with_body(self, body: Any) -> _chord[Any, Any]:
        """Return a chord with the same header and another body."""
        new = dict.__new__(type(self))
        new.update(self)
        new._app = self._app
        new["kwargs"] = {**self["kwargs"], "body": body}
        new["options"] = dict(self["options"])
        return new

    # -- Parts -----------------------------------------------------------------------

    @property
    def tasks(self) -> Any:
        """The header: a list of signatures, or a group once frozen."""
        return self["kwargs"]["header"]

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self["kwargs"]["header"] = tasks

    @property
    def body(self) -> Any:
        """The task that gets the values; None when it is to be given at the call."""
        return self["kwargs"]["body"]

    @body.setter
    def body(self, body: Any) -> None:
        self["kwargs"]["body"] = body

    def header_group(self) -> group:
        """Return the header as a group, which holds the same signatures."""
        tasks = self.tasks
        return tasks if isinstance(tasks, group) else group(tasks, app=self._app)

    def _first_member(self) -> Signature | None:
        tasks = self.tasks
        if isinstance(tasks, group):
            return tasks._first_member() or self.body
        for task in tasks:
            return cast("Signature", maybe_signature(task))
        return cast("Signature | None", self.body)

    def awaited(self) -> Iterator[Signature[Any, Any]]:
        """Yield the tasks whose results stand for that of the chord: those of the body."""
        if self.body is not None:
            yield from maybe_signature(self.body, self._app).awaited()

    def clone(self, *args: Any, **kwargs: Any) -> Self:
        """Return a copy with arguments for the header put in front and options replaced."""
        return self._clone(*args, **kwargs)

    def _clone(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **opts: Any,
    ) -> Self:
        new = super().clone(args, None, **opts)
        if kwargs:
            new["kwargs"]["kwargs"].update(kwargs)
        return new

    def link(self, callback: Any) -> Any:
        """Have *callback* called with the result of the body; return *callback*."""
        self.body = self._own_body()
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Have *errback* called when header or body fail; return *errback*.

        With ``task_allow_error_cb_on_chord_header`` it is called for each failing header
        task as well.
        """
        if self.app.conf.task_allow_error_cb_on_chord_header:
            header = self.header_group()._copy()
            header.link_error(errback)
            self.tasks = header if isinstance(self.tasks, group) else header.tasks
        self.body = self._own_body()
        self.body.link_error(errback)
        return errback

    def _own_body(self) -> Any:
        """Return a copy of the body, which may be part of other chords as well."""
        if self.body is None:
            raise AttributeError("this chord has no body yet; make it with chord(header, body)")
        return maybe_signature(self.body, self._app)._copy()

    def set_immutable(self, immutable: bool) -> None:
        """Say whether the header tasks refuse further arguments."""
        for task in self.header_group().tasks:
            task.set_immutable(immutable)

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Self:
        """Put stamps on header and body; see `Signature.stamp`."""
        found = self._stamp_parts(
            "chord_header", lambda: self.header_group().tasks, visitor, append_stamps, headers
        )
        if self.body is not None:
            if visitor is not None:
                found = stamping.combine(found, visitor.on_chord_body(self, **found))
            self.body.stamp(visitor, append_stamps, **found)
        return self

    # -- Identity and results ------------------------------------------------------------

    def _header_to_run(self) -> group:
        """Return a group of the header tasks where each has one value.

        A header task that ends in a group counts once, and its value is the list of the
        group's values; a last task collects them.
        """
        header = self.header_group()
        members = list(header._members())
        for index, member in enumerate(members):
            if ends_in_group(member):
                app = self.app
                collect = Signature("celery.accumulate", (), {"index": 0}, app=app)
                members[index] = member | collect
        return header._with_tasks(members)

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> H:
        """Give header and body ids and return the body's result.

        The chord's own id is that of its header.
        """
        options = self["options"]
        body = self._own_body()
        header = self._header_to_run()
        own_id = options["task_id"] = options.get("task_id") or header.id or new_id()
        header.id = own_id
        header_result = header.freeze(own_id, root_id=root_id, parent_id=parent_id)
        result: H = body.freeze(_id, group_id=group_id, chord=chord, group_index=group_index)
        self.tasks, self.body = header, body
        oldest(result).parent = header_result
        return result

    # -- Applying ------------------------------------------------------------------------

    if TYPE_CHECKING:

        def __or__(  # type: ignore[override]  # a chord with a longer body, or a chain
            self, other: Signature[NextR, NextH]
        ) -> Signature[NextR, NextH]: ...

    @overload
    def __call__(self, body: Signature[NextR, NextH], **options: Any) -> NextH: ...
    @overload
    def __call__(self, body: None = None, **options: Any) -> H: ...
    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send the header, with *body* if given; see `apply_async`."""
        target = self if body is None else self._with_body(maybe_signature(body, self._app))
        return target.apply_async(**options)

    def apply_async(  # type: ignore[override] # some options have a meaning of their own here
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        publisher: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        **options: Any,
    ) -> H:
        """Send the header tasks; the last of them to end sends the body.

        Args:
            args: Arguments to put in front of those of each header task.
            kwargs: Keyword arguments for each header task.
            task_id: Id of the body.
            producer: Producer to use; one of the app's pool when None.
            publisher: The same under its old name.
            connection: Accepted as by tasks.
            router: Accepted as by tasks.
            result_cls: Accepted as by tasks and not used.
            **options: Options for header and body. ``countdown`` and ``eta`` delay the header;
                ``link`` and ``link_error`` go to the body.
        """
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(  # type: ignore[misc,return-value]  # with what `H` says
                args, kwargs, task_id=task_id, **options
            )
        body = self._own_body()
        partial_args, header_kwargs, merged = self._call(args, kwargs, options)
        header = self._header_to_run()
        if self["options"].get("task_id"):
            header.id = self["options"]["task_id"]
        merged.pop("task_id", None)
        rest = merged.pop("chain", None)
        for callback in as_list(merged.pop("link", None)):
            body.link(callback)
        for errback in as_list(merged.pop("link_error", None)):
            body.link_error(errback)
        for following in reversed(rest or ()):
            body = body | maybe_signature(following, self._app)
        place = {name: merged.pop(name, None) for name in _PLACE_OPTIONS}
        start = {name: merged.pop(name) for name in _START_OPTIONS if name in merged}
        shared = {k: v for k, v in merged.items() if k not in ("root_id", "parent_id")}
        body["options"].update({k: v for k, v in shared.items() if k != "add_to_parent"})
        if connection is not None:
            merged["connection"] = connection
        if router is not None:
            merged["router"] = router
        return self.run(  # type: ignore[no-any-return]
            header,
            body,
            partial_args,
            app=app,
            task_id=task_id,
            kwargs=header_kwargs,
            header_delay=start.pop("countdown", None),
            producer=producer or publisher,
            place=place,
            **start,
            **merged,
        )

    def _call(
        self,
        args: Iterable[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        partial_args, _, merged = self._merge(args, None, options)
        own = self["kwargs"]["kwargs"]
        header_kwargs = own if self["immutable"] or not kwargs else {**own, **kwargs}
        return partial_args, header_kwargs, merged

    def run(
        self,
        header: Any,
        body: Any,
        partial_args: Iterable[Any],
        app: Any = None,
        interval: float | None = None,
        countdown: float = 1,
        max_retries: int | None = None,
        eager: bool = False,
        task_id: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        header_delay: float | None = None,
        place: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Tell the back-end of the chord, and send the header.

        Args:
            header: Group to run.
            body: Task that gets the values.
            partial_args: Arguments to put in front of those of each header task.
            app: The app; that of the chord when None.
            interval: Seconds between two looks, where the back-end has to poll; from the
                settings when None.
            countdown: Seconds until the first look.
            max_retries: How often to look at most; None for no limit.
            eager: Run everything in this process.
            task_id: Id of the body.
            kwargs: Keyword arguments for each header task.
            header_delay: Seconds until the header tasks may start.
            place: Where the chord stands in something larger, as options of the body.
            **options: Options for the header tasks.
        """
        app = app or self.app
        if eager:
            return self._with_body(body).apply(partial_args, kwargs, task_id=task_id)
        header = header if isinstance(header, group) else group(header, app=app)
        place = {k: v for k, v in (place or {}).items() if v is not None}
        header_result = header.freeze()
        place.setdefault("group_id", header_result.id)
        result = body.freeze(task_id, **place)
        oldest(result).parent = header_result
        if not header_result.results:
            body.delay([])
            return result
        app.backend.ensure_chords_allowed()
        app.backend.apply_chord(
            (header_result.id, header_result.results),
            body,
            interval=interval,
            countdown=countdown,
            max_retries=max_retries,
        )
        if header_delay is not None:
            options["countdown"] = header_delay
        header.apply_async(partial_args, kwargs, chord=plain(body), **options)
        return result

    @overload
    def apply(
        self: _chord[Any, GroupResult[T]], args: Any = None, kwargs: Any = None, **options: Any
    ) -> GroupResult[T]: ...
    @overload
    def apply(
        self: _chord[T], args: Any = None, kwargs: Any = None, **options: Any
    ) -> EagerResult[T]: ...
    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        propagate: bool = True,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Run header and body in this process; the error of a header task is raised."""
        target = self if body is None else self._with_body(maybe_signature(body, self._app))
        ending = target._own_body()
        partial_args, header_kwargs, merged = self._call(args, kwargs, options)
        body_options = {
            name: merged.pop(name) for name in ("link", "link_error", "task_id") if name in merged
        }
        for name in (*_PLACE_OPTIONS, *_START_OPTIONS):
            merged.pop(name, None)
        for following in reversed(merged.pop("chain", None) or ()):
            ending = ending | maybe_signature(following, self._app)
        for callback in as_list(body_options.pop("link", None)):
            ending.link(callback)
        for errback in as_list(body_options.pop("link_error", None)):
            ending.link_error(errback)
        if body_options.get("task_id") in (None, self["options"].get("task_id")):
            body_options.pop("task_id", None)
        header_result = target._header_to_run().apply(partial_args, header_kwargs, **merged)
        values = header_result.get(propagate=propagate, disable_sync_subtasks=False)
        result = ending.apply((values,), **body_options)
        oldest(result).parent = header_result
        return result

    # -- Showing -------------------------------------------------------------------------

    def __repr__(self) -> str:
        from celery.utils.text import remove_repeating_from_task

        body = self.body
        tasks = list(self.header_group().tasks)
        if body is None:
            return f"<chord without body: {tasks!r}>"
        if body.get("subtask_type") == "chain" and body["kwargs"]["tasks"]:
            first, *rest = (maybe_signature(task) for task in body["kwargs"]["tasks"])
            text = " | ".join([first.reprcall(tasks), *map(repr, rest)])
            return "%" + remove_repeating_from_task(first["task"], text)
        body = maybe_signature(body)
        if body.get("subtask_type") in ("group", "chord"):
            return f"%({body!r})({tasks!r})"
        return "%" + remove_repeating_from_task(body["task"], body.reprcall(tasks))


chord = _chord
