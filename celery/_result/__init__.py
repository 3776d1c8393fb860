"""Results in their parts; `celery.result` is the public face.

From the ground up: `joining` (may this code wait?), `node` (parents, and the plain form of
a result), `graph` (what lies below a result), `awaiting` (on an event loop), `single`, `sets`,
`eager`.
"""
