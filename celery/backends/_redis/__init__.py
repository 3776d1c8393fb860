"""Parts of the Redis back-end: scripts, connection settings, connections, channels."""
