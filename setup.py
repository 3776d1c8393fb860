"""Package description of celery; tool settings live in pyproject.toml."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent


def requirements(path: Path) -> list[str]:
    """Read one requirements file, without comments and blank lines."""
    text = path.read_text(encoding="utf-8")
    lines = (line.split("#", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line]


def version() -> str:
    """Read the version from the package without importing it."""
    source = (HERE / "celery" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"', source, re.MULTILINE)
    if match is None:
        raise RuntimeError("celery/__init__.py has no __version__ line")
    return match[1]


setup(
    name="celery",
    version=version(),
    description="Distributed task queue: an independent, open implementation.",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="BSD-3-Clause",
    packages=find_packages(include=["celery", "celery.*"]),
    package_data={"celery": ["py.typed"], "celery.utils.static": ["*.png"]},
    python_requires=">=3.11",
    install_requires=requirements(HERE / "requirements" / "default.txt"),
    extras_require={
        path.stem: requirements(path)
        for path in sorted((HERE / "requirements" / "extras").glob("*.txt"))
    },
    entry_points={"console_scripts": ["celery = celery.__main__:main"]},
    zip_safe=False,
)
