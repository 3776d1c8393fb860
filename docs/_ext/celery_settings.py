"""The directive ``setting``: a setting with what the table of settings says about it.

Type, default and former name come from ``celery.app.defaults``, so the page cannot disagree with
the code; only the sentences are written by hand.
"""

from __future__ import annotations

from typing import Any

from docutils import nodes
from docutils.parsers.rst import Directive
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from celery.app.defaults import NAMESPACES, NEW_TO_OLD, flatten

OPTIONS = dict(flatten(NAMESPACES))


class SettingDirective(SphinxDirective, Directive):
    """Show one setting of the table."""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """Make a definition out of the name, the facts and the sentences."""
        name = self.arguments[0]
        if name not in OPTIONS:
            raise self.error(f"{name} is no setting")
        option = OPTIONS[name]
        facts = (
            f"*Type:* {option.type} · *Default:* ``{option.default!r}`` · "
            f"*Before version 4:* ``{NEW_TO_OLD[name]}``"
        )
        lines = [f".. describe:: {name}", "", f"   {facts}", ""]
        lines += [f"   {line}" for line in self.content]
        container = nodes.container()
        self.state.nested_parse(
            StringList(lines, source=self.state_machine.get_source(self.lineno)),
            self.content_offset,
            container,
        )
        target = nodes.target("", "", ids=[f"setting-{name}".replace("_", "-")])
        return [target, *container.children]


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("setting", SettingDirective)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
