"""The embedded store: queues, messages and results in one SQLite file, without a server.

`store` opens the file, `bell` tells other processes that something was written, `location` turns
URLs into paths. The broker is `celery._transport.sqlite`, the result back-end
`celery.backends.sqlite`. Why it is so: ``docs/internals/decisions/0008-embedded-store.rst``.
"""
