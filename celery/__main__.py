"""Entry point of the console script ``celery`` and of ``python -m celery``."""

from __future__ import annotations

import sys

__all__ = ("main",)


def main() -> None:
    """Run the command line and exit with its code."""
    if "multi" not in sys.argv[1:]:
        # Green threads have to patch the standard library before anything else is imported.
        from celery import maybe_patch_concurrency

        maybe_patch_concurrency()
    from celery.utils.garbage import collect_rarely

    collect_rarely()
    from celery.bin.celery import main as run

    sys.exit(run())


if __name__ == "__main__":
    main()
