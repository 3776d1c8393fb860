"""
Documentation of tasks with Sphinx.

Add ``celery.contrib.sphinx`` to the ``extensions`` of ``conf.py``: autodoc then finds tasks, and
``.. autotask::`` and ``.. task::`` document single ones. ``celery_task_prefix`` is what stands
before their names, ``(task)`` by default.
"""

from __future__ import annotations

from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

from docutils import nodes
from sphinx.domains.python import PyFunction
from sphinx.ext.autodoc import FunctionDocumenter

from celery.app.task import Task
from celery.local import PromiseProxy

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def _is_task(member: Any) -> bool:
    return isinstance(member, (Task, PromiseProxy)) and hasattr(member, "run")


class TaskDocumenter(FunctionDocumenter):
    """Documents tasks like functions."""

    objtype = "task"
    member_order = 11

    @classmethod
    def can_document_member(cls, member: Any, membername: str, isattr: bool, parent: Any) -> bool:
        """Say whether *member* is a task."""
        return isinstance(member, Task) and bool(member.run)

    def format_args(self, **kwargs: Any) -> str:
        """Return the arguments of the task as text, without ``self`` of a bound one."""
        function = getattr(self.object, "__wrapped__", None)
        if function is None:
            return ""
        found = signature(function)
        parameters = list(found.parameters.values())
        if parameters and parameters[0].name == "self":
            parameters = parameters[1:]
        plain = [p.replace(annotation=Parameter.empty) for p in parameters]
        return str(found.replace(parameters=plain, return_annotation=Parameter.empty))

    def document_members(self, all_members: bool = False) -> None:
        """Document no members: a task has none of its own."""

    def check_module(self) -> bool:
        """Say whether the task is defined in the documented module."""
        # The task itself may be a proxy, and name the module of that.
        function = getattr(self.object, "__wrapped__", None)
        return getattr(function, "__module__", None) == self.modname or super().check_module()


class TaskDirective(PyFunction):
    """The directive ``task``."""

    def get_signature_prefix(self, sig: str) -> list[Any]:
        """Return what stands before the name."""
        return [nodes.Text(self.env.config.celery_task_prefix), nodes.Text(" ")]


def autodoc_skip_member_handler(
    app: Any, what: str, name: str, obj: Any, skip: bool, options: Any
) -> bool | None:
    """Keep documented tasks: to autodoc their docstring looks like that of their class."""
    if (
        not skip
        or name.startswith("_")
        or name in (getattr(options, "exclude_members", None) or ())
    ):
        return None
    function = getattr(obj, "__wrapped__", None) if _is_task(obj) else None
    return False if getattr(function, "__doc__", None) else None


def _use_documenters(app: Sphinx, config: Any) -> None:
    """Have Sphinx 9 ask documenters for members, which it otherwise does for its own kinds only."""
    if "autodoc_use_legacy_class_based" in config:
        config.autodoc_use_legacy_class_based = True


def setup(app: Sphinx) -> dict[str, Any]:
    """Set the extension up; called by Sphinx."""
    app.setup_extension("sphinx.ext.autodoc")
    app.add_autodocumenter(TaskDocumenter)
    app.add_directive_to_domain("py", "task", TaskDirective)
    app.add_config_value("celery_task_prefix", "(task)", "env")
    app.connect("autodoc-skip-member", autodoc_skip_member_handler)
    # Before autodoc looks at its configuration.
    app.connect("config-inited", _use_documenters, priority=100)
    return {"parallel_read_safe": True}
