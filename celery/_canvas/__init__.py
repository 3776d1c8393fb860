"""Canvas in its parts; `celery.canvas` is the public face.

From the ground up: `stamping` and `signature` (plain data), `group`, `mapping`, `chord`,
`algebra` (what ``|`` and ``chain()`` make of their operands), `chain`.
"""
