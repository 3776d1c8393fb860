"""Publishes tasks of another library: ``python fault_client.py MODULE`` under its interpreter.

Each line that comes in is a pause in seconds, and perhaps a gate; each line that goes out is the
id of the task, which the broker has by then.
"""

import importlib
import sys


def main():
    """Publish until the input ends."""
    publish = importlib.import_module(sys.argv[1]).make_publisher()
    for line in sys.stdin:
        pause_s, _, gate = line.strip().partition(" ")
        print(publish(float(pause_s), gate or None), flush=True)


if __name__ == "__main__":
    main()
