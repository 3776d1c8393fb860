"""Map, starmap and chunks: one function over many arguments, in few messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from celery._canvas.group import group
from celery._canvas.signature import H, R, Signature, maybe_signature
from celery.utils.functional import chunks as in_chunks, regen

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from celery.app.base import Celery
    from celery.result import GroupResult


class _OverItems(Signature[R, H]):
    """A task that is given a signature and the items to call it with."""

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Celery | None = None) -> Any:
        """Build the signature of plain data."""
        return cls._revive(d, app)

    @classmethod
    def _revive_kwargs(cls, kwargs: Mapping[str, Any], app: Celery | None) -> dict[str, Any]:
        return {**kwargs, "task": maybe_signature(kwargs["task"], app)}

    def _copy_kwargs(self) -> dict[str, Any]:
        kwargs = self["kwargs"]
        return {**kwargs, "task": maybe_signature(kwargs["task"])._copy()}

    def _first_member(self) -> Signature | None:
        member: Signature = maybe_signature(self["kwargs"]["task"])
        return member


def _signature_of(task: Any, app: Celery | None) -> Any:
    return maybe_signature(task, app) if isinstance(task, dict) else Signature(task, app=app)


class _basemap(_OverItems[R]):
    _task_name = ""
    _shown = ""

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        app = options.pop("app", None)
        super().__init__(
            self._task_name,
            (),
            {"task": _signature_of(task, app), "it": regen(it)},
            options,
            immutable=True,
            app=app,
        )

    def _merge(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> tuple[Sequence[Any], dict[str, Any], dict[str, Any]]:
        own_args, own_kwargs, merged = super()._merge(args, kwargs, options)
        # Plain data: a generator of items goes through no serializer.
        call = {"task": dict(own_kwargs["task"]), "it": list(own_kwargs["it"])}
        return own_args, {**own_kwargs, **call}, merged

    def __repr__(self) -> str:
        name = maybe_signature(self["kwargs"]["task"])["task"]
        return f"[{name}({self._shown}) for x in {self['kwargs']['it']!r}]"


@Signature.register_type()
class xmap(_basemap[R]):
    """Call a task with each item, one after the other; the result is the list of values."""

    _task_name = "celery.map"
    _shown = "x"


@Signature.register_type()
class xstarmap(_basemap[R]):
    """Call a task with each item as its arguments; the result is the list of values."""

    _task_name = "celery.starmap"
    _shown = "*x"


@Signature.register_type()
class chunks(_OverItems["list[R]", "GroupResult[R]"]):
    """A starmap cut into pieces that run side by side.

    Args:
        task: Task or signature to call.
        it: Argument lists.
        n: How many of them go into one piece.
        **options: Options for all pieces.
    """

    def __init__(self, task: Any, it: Iterable[Any], n: int, **options: Any) -> None:
        app = options.pop("app", None)
        super().__init__(
            "celery.chunks",
            (),
            {"task": _signature_of(task, app), "it": regen(it), "n": n},
            options,
            immutable=True,
            app=app,
        )

    def __call__(self, **options: Any) -> GroupResult[R]:  # type: ignore[override]
        """Send all pieces; see `apply_async`."""
        return self.apply_async(**options)

    def group(self) -> group[R]:
        """Return the pieces as a group of starmaps."""
        kwargs, app = self["kwargs"], self._app
        pieces = in_chunks(iter(kwargs["it"]), kwargs["n"])
        return group(
            [xstarmap(maybe_signature(kwargs["task"])._copy(), piece, app=app) for piece in pieces],
            app=app,
            **self["options"],
        )

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        route_name: str | None = None,
        **opts: Any,
    ) -> GroupResult[R]:
        """Send all pieces; the result is a `GroupResult` with a list for each."""
        if route_name is not None:
            opts["route_name"] = route_name
        return self.group().apply_async(args, kwargs, **opts)

    def apply(  # type: ignore[override]  # the result of a group
        self,
        args: Iterable[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> GroupResult[R]:
        """Run all pieces in this process."""
        return self.group().apply(args, kwargs, **options)

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Celery | None = None) -> Any:
        """Cut *it* into pieces of *n* and send them."""
        return cls(task, it, n, app=app)()
