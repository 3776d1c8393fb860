"""Schedulers of other packages, unmodified, in an environment of their own.

What their users do: name the class on the command line, and add, change and remove entries while
beat runs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections import Counter

import pytest
import redis

from t.harness.worker import eventually
from t.interop.environments import ROOT, THIS, interpreter

PLUGINS = ("django-celery-beat", "celery-redbeat", "redis")


@pytest.fixture(scope="session")
def plugin_python():
    """Interpreter with the plug-ins and this package."""
    return interpreter(".venv-beat-plugins", "BEAT_PLUGINS_VENV", *THIS, *PLUGINS)


class Plugged:
    """One beat with a scheduler of another package."""

    def __init__(self, python, app, scheduler, redis_url, folder):
        self.queue = f"plugin-{uuid.uuid4()}"
        self.broker = redis.Redis.from_url(redis_url)
        self.python, self.app, self.folder = python, app, folder
        self.env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "t/interop/apps"))),
            "PLUGIN_BROKER": redis_url,
            "PLUGIN_QUEUE": self.queue,
            "PLUGIN_DATABASE": str(folder / "db.sqlite3"),
        }
        self.command = [
            python, "-m", "celery", "-A", f"{app}:app", "beat", "-S", scheduler, "-l", "INFO",
        ]  # fmt: skip

    def do(self, *words):
        script = ROOT / "t/interop/apps" / f"{self.app}.py"
        subprocess.run([self.python, script, *words], env=self.env, check=True, timeout=60)

    def __enter__(self):
        self.log = (self.folder / "beat.log").open("w+b")
        self.process = subprocess.Popen(
            self.command, cwd=self.folder, env=self.env, stdout=self.log, stderr=self.log
        )
        return self

    def __exit__(self, *error):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
        self.broker.delete(self.queue)
        print((self.folder / "beat.log").read_text())

    def counts(self):
        messages = [json.loads(text) for text in self.broker.lrange(self.queue, 0, -1)]
        assert all(message["headers"]["celery_beat_task"] is True for message in messages)
        return Counter(message["headers"]["task"] for message in messages)

    def comes(self, task, times=2):
        seen = self.counts()[task]
        eventually(lambda: self.counts()[task] >= seen + times)

    def stop(self):
        self.process.terminate()
        return self.process.wait(30)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("app", "scheduler", "prepare"),
    [
        ("redbeat_app", "redbeat.RedBeatScheduler", None),
        ("django_beat_app", "django", "migrate"),
    ],
)
def test_entries_are_edited_while_beat_runs(
    plugin_python, redis_url, tmp_path, app, scheduler, prepare
):
    """B-BEAT-047: a custom scheduler by ``-S class``, or by the name that its package gave it."""
    beat = Plugged(plugin_python, app, scheduler, redis_url, tmp_path)
    if prepare:
        beat.do(prepare)
    with beat:
        beat.comes("t.given")
        beat.do("mine", "t.added", "1")
        beat.comes("t.added")
        beat.do("mine", "t.changed", "1")
        beat.comes("t.changed")
        beat.do("mine", "t.changed", "0")
        # What was removed comes no more, while the other one goes on.
        beat.comes("t.given", times=2)
        before = beat.counts()
        beat.comes("t.given", times=2)
        assert beat.counts()["t.changed"] == before["t.changed"]
        assert beat.counts()["t.added"] == before["t.added"]
        assert beat.stop() == 0
    assert sys.executable != plugin_python
