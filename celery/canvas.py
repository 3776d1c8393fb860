"""Composing tasks: signatures, chains, groups, chords, map, chunks, stamps.

This is the public face; the parts are in `celery._canvas`.
"""

from __future__ import annotations

from celery._canvas.chain import _chain as _chain, chain
from celery._canvas.chord import _chord as _chord, chord as chord
from celery._canvas.group import group, maybe_unroll_group
from celery._canvas.mapping import _basemap as _basemap, chunks, xmap, xstarmap
from celery._canvas.signature import Signature, maybe_signature, signature, task_name_from
from celery._canvas.stamping import StampingVisitor
from celery.utils.abstract import CallableSignature

__all__ = (
    "Signature",
    "chain",
    "chord",
    "chunks",
    "group",
    "maybe_signature",
    "signature",
    "xmap",
    "xstarmap",
)

#: Names of older versions.
subtask = signature
maybe_subtask = maybe_signature
_chunks = chunks

CallableSignature.register(Signature)

# Pickles, documentation and messages of errors name the place that stays.
for _public in (
    Signature, StampingVisitor, _basemap, _chain, _chord, chain, chunks, group, xmap, xstarmap,
    maybe_signature, maybe_unroll_group, signature, task_name_from,
):  # fmt: skip
    _public.__module__ = __name__
del _public
