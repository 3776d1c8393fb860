"""Send remote commands to two workers; prints the replies to each as JSON.

Each command is a list of its name, its arguments and, where they differ, options of the call.
"""

import json
import sys

from interop_app import app

replies = {}
for command in json.load(sys.stdin):
    name, arguments, *options = command
    how = {"reply": True, "limit": 2, "timeout": 30, **(options[0] if options else {})}
    replies[name] = app.control.broadcast(name, arguments=arguments, **how)
print(json.dumps(replies, default=repr))
