"""The wire: field names of messages, result documents and events, and nothing else.

No module in this package knows an app, a clock or a socket; all of them are
functions from plain data to plain data, pinned by the documents in ``t/golden``.
"""
