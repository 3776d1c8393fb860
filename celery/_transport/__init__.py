"""Broker transports of our own, behind kombu's transport interface.

`celery._transport.connection` has the connection class that an app uses, and the table of URL
schemes that it serves with transports from here. All other schemes stay kombu's.
"""
