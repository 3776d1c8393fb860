"""Groups: tasks that run side by side.

A group inside a group is kept in the data and flattened when the outer one is frozen or applied:
all tasks are then members of the outer group, numbered through by ``group_index``.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain as concatenated, count
from typing import TYPE_CHECKING, Any, Self, cast, overload

from celery._canvas.signature import Signature, as_list, copied_options, maybe_signature, signature
from celery.utils.functional import regen
from celery.utils.ids import new_id

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from typing_extensions import TypeVar

    from celery._canvas.chord import _chord
    from celery._canvas.signature import NextH, NextR
    from celery._canvas.stamping import StampingVisitor
    from celery.app.base import Celery
    from celery.result import AsyncResult, GroupResult

    T = TypeVar("T", default=Any)

#: Options that name the group itself, or its place in something larger, not its members.
_OWN_OPTIONS = ("task_id", "group_id", "group_index", "chain")


def _checked(task: Any, app: Celery | None) -> Signature:
    sig = maybe_signature(task, app)
    if not isinstance(sig, Signature):
        raise TypeError(f"a group is made of signatures, not of {task!r}")
    return sig


def _checked_all(tasks: Any, app: Celery | None) -> Any:
    if isinstance(tasks, (list, tuple)):
        return [_checked(task, app) for task in tasks]
    # Other iterables may be long or costly: read when asked, not now.
    return regen(_checked(task, app) for task in tasks)


def as_members(tasks: Any, app: Celery | None = None) -> Any:
    """Return the signatures that a group made of *tasks* has.

    Args:
        tasks: Signatures or their plain data; one signature, one iterable or one group alone
            stand for what they hold.
    """
    if isinstance(tasks, group):
        return tasks["kwargs"]["tasks"]
    if isinstance(tasks, dict):
        return [_checked(tasks, app)]
    if not isinstance(tasks, Iterable) or isinstance(tasks, (str, bytes)):
        raise TypeError(f"a group is made of signatures, not of {tasks!r}")
    return _checked_all(tasks, app)


def flattened(tasks: Iterable[Any], app: Celery | None) -> Iterator[Signature]:
    """Yield all tasks, with those of nested groups, as copies, in place of these."""
    for task in tasks:
        sig = maybe_signature(task, app)
        if type(sig) is Signature:
            yield sig
            continue
        expand = getattr(sig, "group", None)
        if expand is not None:  # chunks are a group in waiting
            sig = expand()
        if not isinstance(sig, group):
            yield sig
            continue
        options = {k: v for k, v in sig["options"].items() if k not in _OWN_OPTIONS}
        # These are written by `freeze`, which says nothing about the members by them.
        options = {k: v for k, v in options.items() if k not in ("root_id", "parent_id")}
        errbacks = as_list(options.pop("link_error", None))
        for member in flattened(sig["kwargs"]["tasks"], app):
            if not member["immutable"] and (sig["args"] or sig["kwargs"].keys() - {"tasks"}):
                extra = {k: v for k, v in sig["kwargs"].items() if k != "tasks"}
                member = member.clone(sig["args"], extra)
            else:
                member = member._copy()
            member["options"].update(copied_options(options))
            for errback in errbacks:
                member.link_error(errback)
            yield member


def _with_errbacks(sig: Signature, errbacks: Iterable[Any]) -> Signature:
    """Return a copy of *sig* that has further errbacks."""
    sig = sig._copy()
    for errback in errbacks:
        sig.link_error(errback)
    return sig


@Signature.register_type()
class group(Signature["list[T]", "GroupResult[T]"]):
    """Tasks that run side by side; the result is a `GroupResult`.

    Args:
        *tasks: Signatures; or one iterable of them, which is read when needed.
        **options: Options for all of them; ``app``.
    """

    if TYPE_CHECKING:
        # A group within the group adds its members, whose values are anything.
        @overload
        def __init__(self: group[T], *tasks: Signature[T, AsyncResult[T]], **o: Any) -> None: ...
        @overload
        def __init__(
            self: group[T], tasks: Iterable[Signature[T, AsyncResult[T]]], /, **o: Any
        ) -> None: ...
        @overload
        def __init__(self: group[Any], *tasks: Any, **options: Any) -> None: ...

    def __init__(self, *tasks: Any, **options: Any) -> None:  # type: ignore[misc]  # overload 2
        app = options.pop("app", None)
        args = options.pop("args", ())
        kwargs = options.pop("kwargs", None) or {}
        members = as_members(tasks[0] if len(tasks) == 1 else tasks, app)
        super().__init__(
            "celery.group",
            args,
            {**kwargs, "tasks": members},
            options,
            subtask_type="group",
            app=app,
        )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Build a group of plain data."""
        return cls._revive(d, app)

    @classmethod
    def _revive_kwargs(cls, kwargs: Mapping[str, Any], app: Celery | None) -> dict[str, Any]:
        return {**kwargs, "tasks": _checked_all(list(kwargs["tasks"]), app)}

    def _copy_kwargs(self) -> dict[str, Any]:
        kwargs = self["kwargs"]
        return {**kwargs, "tasks": [maybe_signature(t, self._app)._copy() for t in kwargs["tasks"]]}

    def __reduce__(self) -> Any:
        kwargs = self["kwargs"]
        return signature, ({**self, "kwargs": {**kwargs, "tasks": list(self.tasks)}},)

    def __json__(self) -> dict[str, Any]:
        kwargs = self["kwargs"]
        return {**self, "kwargs": {**kwargs, "tasks": list(self.tasks)}}

    # -- Parts ---------------------------------------------------------------------

    @property
    def tasks(self) -> Any:
        """The members as they were given, nested groups among them."""
        return self["kwargs"]["tasks"]

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self["kwargs"]["tasks"] = tasks

    def _first_member(self) -> Signature | None:
        for task in self.tasks:
            return cast("Signature", maybe_signature(task))
        return None

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        # A dict is falsy when it has no entries; a group always has its six.
        return True

    def _members(self) -> Iterator[Signature]:
        """Yield all tasks to run, the call's own arguments not yet put in."""
        return flattened(self.tasks, self._app)

    def _with_tasks(self, tasks: list[Any]) -> group:
        """Return a group of other tasks with the same options."""
        new = dict.__new__(type(self))
        new.update(self)
        new._app = self._app
        new["kwargs"] = {**self["kwargs"], "tasks": tasks}
        new["options"] = copied_options(self["options"])
        return new

    def awaited(self) -> Iterator[Signature[Any, Any]]:
        """Yield the tasks whose results stand for that of the group."""
        for task in self.tasks:
            yield from maybe_signature(task, self._app).awaited()

    def set_immutable(self, immutable: bool) -> None:
        """Say whether the members refuse further arguments."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Have the members start one after the other.

        Args:
            start: Seconds until the first member starts.
            stop: Seconds that no member waits longer than; None for no limit.
            step: Seconds between two members.
        """
        for position, task in enumerate(self.tasks):
            countdown = start + position * step
            if stop is not None:
                countdown = min(countdown, stop) if step >= 0 else max(countdown, stop)
            task.set(countdown=countdown)
        return self

    def link(self, sig: Any) -> Any:
        """Have *sig* called with the result of each member; return *sig*."""
        return self._link_members("link", sig)

    def link_error(self, sig: Any) -> Any:
        """Have *sig* called for each member that fails; return *sig*."""
        return self._link_members("link_error", sig)

    def _link_members(self, name: str, sig: Any) -> Any:
        # Copies, because a member may be part of other groups as well.
        self.tasks = [maybe_signature(task, self._app)._copy() for task in self.tasks]
        for task in self.tasks:
            getattr(task, name)(sig)
        return sig

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Self:
        """Put stamps on all members; see `Signature.stamp`."""
        self._stamp_parts("group", lambda: self.tasks, visitor, append_stamps, headers)
        return self

    # -- Identity and results ----------------------------------------------------------

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> GroupResult[T]:
        """Give the group and its members ids and return the `GroupResult` they will have."""
        options = self["options"]
        own_id = options.get("task_id") or _id or new_id()
        options["task_id"] = own_id
        options["root_id"] = root_id
        options["parent_id"] = parent_id
        place = {
            "group_id": options.get("group_id") or group_id,
            "group_index": group_index,
            "chord": chord,
        }
        options.update((name, value) for name, value in place.items() if value is not None)
        members = [member._copy() for member in self._members()]
        self.tasks = members
        results = [member.freeze(group_index=index) for index, member in enumerate(members)]
        result: GroupResult[T] = self.app.GroupResult(own_id, results)
        return result

    # -- Applying ------------------------------------------------------------------------

    if TYPE_CHECKING:

        def __or__(  # type: ignore[override]  # a group with something after it is a chord
            self, other: Signature[NextR, NextH]
        ) -> _chord[NextR, NextH]: ...

    def __call__(  # type: ignore[override]  # a group is sent
        self, *partial_args: Any, **options: Any
    ) -> GroupResult[T]:
        """Send all members; see `apply_async`."""
        return self.apply_async(partial_args, **options)

    def apply_async(  # type: ignore[override] # some options have a meaning of their own here
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        add_to_parent: bool = True,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> GroupResult[T]:
        """Send all members through one producer, many at a time where the transport can.

        Args:
            args: Arguments to put in front of each member's own.
            kwargs: Keyword arguments for each member.
            add_to_parent: Note the group as a child of the task that runs now.
            producer: Producer to use; one of the app's pool when None.
            link: Not possible; use a chord.
            link_error: Errbacks for each member.
            **options: Options that win over those of the members.

        Raises:
            TypeError: *link* was given.
            celery.exceptions.TasksNotSent: Some members did not reach the broker, or not for sure.
        """
        if link is not None:
            raise TypeError("Cannot add link to group: use a chord")
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(args, kwargs, link_error=link_error, **options)
        partial_args, partial_kwargs, merged = self._call(args, kwargs, options)
        rest = merged.pop("chain", None)
        if rest:
            return self._followed_by(rest).apply_async(  # type: ignore[no-any-return]
                args, kwargs, producer=producer, link_error=link_error, **options
            )
        group_id = merged.pop("task_id", None) or new_id()
        merged.pop("group_id", None)
        merged.pop("group_index", None)
        errbacks = [*as_list(link_error), *as_list(merged.pop("link_error", None))]
        results = []
        members = self._members()
        first = next(members, None)
        if first is not None:
            merged.update(add_to_parent=False, group_id=group_id)
            with app._series(producer) as series:
                send = series.send
                for index, member in zip(count(), concatenated((first,), members)):
                    if errbacks:
                        member = _with_errbacks(member, errbacks)
                    place = {**merged, "group_index": index}
                    results.append(send(member, partial_args, partial_kwargs, place))
        result: GroupResult[T] = app.GroupResult(group_id, results)
        running = app.current_worker_task
        if add_to_parent and running is not None:
            running.add_trail(result)
        return result

    def _call(
        self,
        args: Iterable[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any],
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Return arguments and options for each member; None among the ids says nothing."""
        partial_args, merged_kwargs, merged = self._merge(args, kwargs, options)
        merged_kwargs = {k: v for k, v in merged_kwargs.items() if k != "tasks"}
        for name in ("root_id", "parent_id"):
            if merged.get(name) is None:
                merged.pop(name, None)
        return partial_args, merged_kwargs, merged

    def _followed_by(self, rest: list[Any]) -> Signature[Any, Any]:
        """Return the workflow of this group and then *rest*, in the reversed order of messages."""
        step: Any = self._copy()
        step["options"].pop("chain", None)
        for following in reversed(rest):
            step = step | maybe_signature(following, self._app)
        return cast("Signature[Any, Any]", step)

    def apply(  # type: ignore[override]  # the result of a group
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GroupResult[T]:
        """Run all members in this process, one after the other."""
        app = self.app
        partial_args, partial_kwargs, merged = self._call(args, kwargs, options)
        group_id = merged.pop("task_id", None) or new_id()
        for name in ("group_id", "group_index", "chain", "producer", "add_to_parent"):
            merged.pop(name, None)
        errbacks = as_list(merged.pop("link_error", None))
        results = []
        for member in self._members():
            if errbacks:
                member = _with_errbacks(member, errbacks)
            results.append(member.apply(partial_args, partial_kwargs, **merged))
        result: GroupResult[T] = app.GroupResult(group_id, results)
        return result

    # -- Showing -------------------------------------------------------------------------

    def __repr__(self) -> str:
        from celery.utils.text import remove_repeating_from_task

        if not self.tasks:
            return "group(<empty>)"
        first = maybe_signature(self.tasks[0])
        return remove_repeating_from_task(first["task"], f"group({tuple(self.tasks)!r})")


def maybe_unroll_group(group: Any) -> Any:
    """Return the only member of a group of one, and anything else as it is."""
    # Counting would read a lazy group to its end; two members are enough to know.
    tasks = group.tasks
    known = tasks if isinstance(tasks, (list, tuple)) else list(tasks)
    return known[0] if len(known) == 1 else group
