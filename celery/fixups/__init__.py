"""Fixups: what makes an app at home in a framework.

A fixup is named in ``app.builtin_fixups``; it is asked once, when the app is made, and says itself
whether the framework is in use.
"""

from __future__ import annotations
