"""How the documentation is built; ``make docs`` does it."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

import celery  # noqa: E402

project = "celery"
author = "the authors of this implementation"
version = release = celery.__version__
extensions = ["celery_settings"]
exclude_patterns = ["_build", "**/_*.rst"]
html_theme = "alabaster"
html_theme_options = {"page_width": "1000px", "description": "Tasks, done elsewhere."}
html_show_copyright = False
nitpicky = False
