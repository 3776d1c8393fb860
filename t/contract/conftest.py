"""Fixtures of the conformance suites."""

from __future__ import annotations

from t.contract.backends import case

__all__ = ("case",)
