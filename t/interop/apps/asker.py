"""Send remote commands to two workers; prints the replies to each as JSON."""

import json
import sys

from interop_app import app

replies = {}
for command in json.load(sys.stdin):
    name, arguments = command
    replies[name] = app.control.broadcast(
        name, arguments=arguments, reply=True, limit=2, timeout=30
    )
print(json.dumps(replies, default=repr))
