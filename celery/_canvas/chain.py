"""Chains: tasks that run one after the other, each given the value of the one before.

Only the first task is sent. The rest travels with it, reversed, and each worker takes the last
element off and sends it with what is left. Whatever could not be passed on like that, a group
in the middle say, is folded into a chord before (`celery._canvas.algebra`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, TypeAlias, TypeVar, cast, overload

from celery import states
from celery._canvas import algebra
from celery._canvas.chord import ends_in_group, oldest
from celery._canvas.signature import (
    H,
    R,
    Signature,
    as_list,
    copied_options,
    maybe_signature,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from celery._canvas.stamping import StampingVisitor
    from celery.app.base import Celery
    from celery.result import EagerResult, GroupResult

    T = TypeVar("T")
    AnyStep: TypeAlias = Signature[Any, Any]

#: States of an eager step after which a chain does not go on, and has this state itself.
_STOPPED = frozenset({states.IGNORED, states.REJECTED})


class _chain(Signature[R, H]):
    """Steps in order, kept as they are given; see `chain`, which makes them."""

    def __init__(self, *tasks: Any, **options: Any) -> None:
        app = options.pop("app", None)
        args = options.pop("args", ())
        kwargs = options.pop("kwargs", None) or {}
        super().__init__(
            "celery.chain",
            args,
            {**kwargs, "tasks": _operands(tasks)},
            options,
            subtask_type="chain",
            app=app,
        )

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Build a chain of plain data."""
        return chain._revive(d, app)

    @classmethod
    def _revive_kwargs(cls, kwargs: Mapping[str, Any], app: Celery | None) -> dict[str, Any]:
        return {**kwargs, "tasks": [maybe_signature(task, app) for task in kwargs["tasks"]]}

    def _copy_kwargs(self) -> dict[str, Any]:
        kwargs = self["kwargs"]
        tasks = [maybe_signature(task, self._app)._copy() for task in kwargs["tasks"]]
        return {**kwargs, "tasks": tasks}

    @classmethod
    def _of(cls, tasks: list[Any], app: Celery | None = None) -> chain:
        """Return a chain of just these steps."""
        new = dict.__new__(chain)
        Signature.__init__(new, "celery.chain", (), {"tasks": tasks}, subtask_type="chain", app=app)
        return new

    @classmethod
    def _join(cls, left: Signature[Any, Any], right: Any) -> Any:
        app = left._app
        result = algebra.joined(left, right, lambda steps: cls._of(steps, app))
        if isinstance(left, _chain) and isinstance(result, _chain) and result is not left:
            # How the chain is to start stays said; how it was to end has gone to its last step.
            kept = copied_options(left["options"])
            for name in ("link", "link_error", "task_id"):
                kept.pop(name, None)
            result["options"].update(kept)
            result["args"], result["immutable"] = left["args"], left["immutable"]
        return result

    # -- Parts -------------------------------------------------------------------------

    @property
    def tasks(self) -> Any:
        """The steps in order."""
        return self["kwargs"]["tasks"]

    @tasks.setter
    def tasks(self, tasks: Any) -> None:
        self["kwargs"]["tasks"] = tasks

    def _first_member(self) -> Signature | None:
        tasks = self.tasks
        return cast("Signature", maybe_signature(tasks[0])) if tasks else None

    def awaited(self) -> Iterator[Signature[Any, Any]]:
        """Yield the tasks whose results stand for that of the chain: those of the last step."""
        if self.tasks:
            yield from maybe_signature(self.tasks[-1], self._app).awaited()

    def clone(self, *args: Any, **kwargs: Any) -> Self:
        """Return a copy with arguments for the first task put in front and options replaced."""
        return super().clone(*args, **kwargs)

    def unchain_tasks(self) -> list[Any]:
        """Return copies of the steps that carry the chain's own links."""
        options = self["options"]
        steps = [maybe_signature(task, self._app) for task in self.tasks]
        errbacks, callbacks = as_list(options.get("link_error")), as_list(options.get("link"))
        if not (errbacks or callbacks):
            return steps
        steps = [step._copy() for step in steps]
        for errback in errbacks:
            for step in steps:
                step.link_error(errback)
        for callback in callbacks:
            steps[-1].link(callback)
        return steps

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Self:
        """Put stamps on all steps; see `Signature.stamp`."""
        self._stamp_parts("chain", lambda: self.tasks, visitor, append_stamps, headers)
        return self

    # -- Identity and results --------------------------------------------------------------

    def _steps(self, tasks: Iterable[Any], app: Any) -> list[Any]:
        """Return the steps to take, copied, in a form that can be passed on one by one."""
        steps: list[Any] = []
        simple = True
        for task in tasks:
            sig = maybe_signature(task, app)
            if type(sig) is Signature and sig["subtask_type"] is None:
                steps.append(sig)
                continue
            simple = False
            if sig["subtask_type"] == "chain":
                steps.extend(sig.unchain_tasks())
                continue
            expand = getattr(sig, "group", None)
            steps.append(sig if expand is None else expand())
        if simple:
            return [step._copy() for step in steps]
        steps = algebra.folded(steps, lambda steps: self._of(steps, app))
        return [maybe_signature(step, app)._copy() for step in steps]

    def prepare_steps(
        self,
        args: Iterable[Any] | None,
        kwargs: Mapping[str, Any] | None,
        tasks: Iterable[Any],
        root_id: str | None = None,
        parent_id: str | None = None,
        link_error: Any = None,
        app: Any = None,
        last_task_id: str | None = None,
        group_id: str | None = None,
        chord_body: Any = None,
        clone: bool = True,
        from_dict: Callable[..., Any] = Signature.from_dict,
        group_index: int | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """Freeze the steps and return them with their results, both in reversed order.

        Args:
            args: Arguments to put in front of those of the first step.
            kwargs: Keyword arguments for the first step.
            tasks: The steps.
            root_id: For the first step.
            parent_id: For the first step.
            link_error: Errbacks for all steps.
            app: The app; that of the chain when None.
            last_task_id: Id of the last step, which is that of the chain.
            group_id: Group that the last step is a member of.
            chord_body: Body of the chord that the last step is in the header of.
            clone: Steps are always copied; accepted for old callers.
            from_dict: Makes a signature of plain data.
            group_index: Place of the last step in its group.
        """
        app = app or self.app
        steps = self._steps((from_dict(task, app=app) if type(task) is dict else task
                             for task in tasks), app)  # fmt: skip
        if not steps:
            return [], []
        if chord_body is not None and ends_in_group(steps[-1]):
            collect = Signature("celery.accumulate", (), {"index": 0}, app=app)
            steps = self._steps([*steps, collect], app)
        if args or kwargs:
            steps[0] = steps[0].clone(args, kwargs)
        for errback in as_list(link_error):
            for step in steps:
                step.link_error(errback)
        place: dict[str, Any] = {
            "_id": last_task_id,
            "group_id": group_id,
            "chord": chord_body,
            "group_index": group_index,
        }
        ids: dict[str, Any] = {"root_id": root_id, "parent_id": parent_id}
        results: list[Any] = []
        last = len(steps) - 1
        before = None
        for index, step in enumerate(steps):
            if index == last:
                ids.update(place)
            result = step.freeze(**ids)
            if before is not None:
                oldest(result).parent = before
            results.append(result)
            before, ids = result, {}
        return steps[::-1], results[::-1]

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> H:
        """Give all steps ids and return the result of the last; None for an empty chain."""
        options = self["options"]
        steps, results = self.prepare_steps(
            None,
            None,
            self.tasks,
            root_id=root_id,
            parent_id=parent_id,
            last_task_id=options.get("task_id") or _id,
            group_id=group_id,
            chord_body=chord,
            group_index=group_index,
        )
        if not results:
            return None  # type: ignore[return-value]
        self.tasks = steps[::-1]
        result: H = results[0]
        options["task_id"] = results[0].id
        return result

    # -- Applying --------------------------------------------------------------------------

    def __call__(  # type: ignore[override]  # a chain is sent
        self, *args: Any, **kwargs: Any
    ) -> H:
        """Send the first task; see `apply_async`."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> H:
        """Send the first task, and with it what comes next.

        Args:
            args: Arguments to put in front of those of the first task.
            kwargs: Keyword arguments for the first task.
            route_name: Name to route the first task by.
            **options: Options of the first task; ``link`` goes to the last one, ``link_error``
                to all, and ``task_id`` is the id of the last one.

        Returns:
            The result of the last task, whose parents are the others; None for an empty chain.
        """
        if not self.tasks:
            return None  # type: ignore[return-value]
        if self.app.conf.task_always_eager:
            return self.apply(  # type: ignore[misc,return-value]  # with what `H` says
                args, kwargs, **options
            )
        if route_name is not None:
            options["route_name"] = route_name
        return self.run(  # type: ignore[no-any-return]
            args, kwargs, **self._merge(None, None, options)[2]
        )

    def run(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        group_id: str | None = None,
        chord: Any = None,
        task_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        publisher: Any = None,
        producer: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        app: Any = None,
        group_index: int | None = None,
        **options: Any,
    ) -> Any:
        """Send the first task; see `apply_async`, which hands the chain's own options over."""
        app = app or self.app
        if self["immutable"]:
            args, kwargs = self["args"], None
        else:
            args = (*(args or ()), *self["args"])
        tasks = self.tasks
        rest = options.pop("chain", None)
        if rest and ends_in_group(self):
            tasks, rest = [*tasks, *reversed(rest)], None
        steps, results = self.prepare_steps(
            args,
            kwargs,
            tasks,
            root_id=root_id,
            parent_id=parent_id,
            link_error=link_error,
            app=app,
            last_task_id=task_id,
            group_id=group_id,
            chord_body=chord,
            group_index=group_index,
        )
        if not results:
            return None
        for callback in as_list(link):
            steps[0].link(callback)
        if app.conf.task_protocol == 1:
            self._nest(steps)
        first = steps.pop()
        following = [*(rest or ()), *steps]
        if following:
            options["chain"] = following
        first.apply_async(producer=producer or publisher, **options)
        return results[0]

    @staticmethod
    def _nest(steps: list[Any]) -> None:
        """Make each step the callback of the one before, all that protocol 1 can express."""
        for later, earlier in zip(list(steps), steps[1:], strict=False):
            earlier.link(later)
        del steps[:-1]

    @overload
    def apply(
        self: _chain[Any, GroupResult[T]], args: Any = None, kwargs: Any = None, **options: Any
    ) -> GroupResult[T]: ...
    @overload
    def apply(
        self: _chain[T], args: Any = None, kwargs: Any = None, **options: Any
    ) -> EagerResult[T]: ...
    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run the steps in this process; the error of one before the last is raised."""
        merged = self._merge(None, None, options)[2]
        callbacks, errbacks = (as_list(merged.pop(n, None)) for n in ("link", "link_error"))
        task_id = merged.pop("task_id", None)
        for name in ("producer", "chain", "group_id", "group_index", "chord"):
            merged.pop(name, None)
        steps = self._steps(self.tasks, self.app)
        result: Any = None
        for index, step in enumerate(steps):
            for errback in errbacks:
                step.link_error(errback)
            if index == 0:
                step_args = self["args"] if self["immutable"] else (*(args or ()), *self["args"])
                step_kwargs = None if self["immutable"] else kwargs
            else:
                if getattr(result, "state", None) in _STOPPED:
                    return result
                step_args = (result.get(disable_sync_subtasks=False),)
                step_kwargs = None
            own = {**merged}
            if index == len(steps) - 1:
                for callback in callbacks:
                    step.link(callback)
                if task_id is not None:
                    own["task_id"] = task_id
            before, result = result, step.apply(step_args, step_kwargs, **own)
            if before is not None:
                oldest(result).parent = before
        return result

    # -- Showing -----------------------------------------------------------------------------

    def __repr__(self) -> str:
        from celery.utils.text import remove_repeating_from_task

        tasks = [maybe_signature(task) for task in self.tasks]
        if not tasks:
            return "<chain: empty>"
        return remove_repeating_from_task(tasks[0]["task"], " | ".join(map(repr, tasks)))


def _operands(tasks: tuple[Any, ...]) -> list[Any]:
    """Return the operands of ``chain(…)``: the arguments, or what a lone iterable holds."""
    if len(tasks) == 1 and not isinstance(tasks[0], dict):
        return list(tasks[0])
    return list(tasks)


@Signature.register_type()
class chain(_chain[R, H]):
    """Tasks that run one after the other, each given the value of the one before.

    What comes out may be a group or a chord where the steps come down to one. A group followed
    by a task is a chord, chains within the chain are spliced, and empty groups left out.

    Args:
        *tasks: Signatures, or one iterable of them.
        **kwargs: Options of the chain; ``app``.
    """

    if TYPE_CHECKING:
        # What the value is says the last of the steps.
        @overload
        def __new__(cls, last: Signature[R, H], /, **kwargs: Any) -> chain[R, H]: ...
        @overload
        def __new__(cls, _: AnyStep, last: Signature[R, H], /, **kwargs: Any) -> chain[R, H]: ...
        @overload
        def __new__(
            cls, _: AnyStep, _2: AnyStep, last: Signature[R, H], /, **kwargs: Any
        ) -> chain[R, H]: ...
        @overload
        def __new__(
            cls, _: AnyStep, _2: AnyStep, _3: AnyStep, last: Signature[R, H], /, **kwargs: Any
        ) -> chain[R, H]: ...
        @overload
        def __new__(cls, *tasks: Any, **kwargs: Any) -> chain[Any, Any]: ...

    def __new__(cls, *tasks: Any, **kwargs: Any) -> Any:  # type: ignore[misc]  # last by position
        """Return the chain, group or chord that *tasks* make."""
        app = kwargs.pop("app", None)
        operands = _operands(tasks)
        made: Any
        if len(operands) == 1 and getattr(operands[0], "subtask_type", None) != "chain":
            made = cls._of([maybe_signature(operands[0], app)], app)
        else:
            made = algebra.in_sequence(operands, app, lambda steps: cls._of(steps, app))
        if kwargs:
            made = made._copy()
            made["options"].update(kwargs)
        return made

    if not TYPE_CHECKING:  # mypy would ask this about the arguments

        def __init__(self, *tasks, **kwargs):
            """Do nothing: `__new__` has made all of it."""
