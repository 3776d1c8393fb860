"""What is done with events: lines of text, snapshots."""

from __future__ import annotations

import io
from typing import Any

from celery.events.dumper import Dumper, humanize_type
from celery.events.snapshot import Polaroid
from t.unit.events.conftest import Cluster


def dumped(*events: dict[str, Any]) -> list[str]:
    out = io.StringIO()
    dumper = Dumper(out=out)
    for event in events:
        dumper.on_event({"hostname": "w1@h", "timestamp": 0.0, **event})
    return out.getvalue().splitlines()


def test_a_worker_event_is_one_line_with_sorted_fields() -> None:
    """B-CLI-034: HOST [TIMESTAMP] started: k=v, … with the keys sorted."""
    assert dumped({"type": "worker-online", "pid": 7, "freq": 2.0}) == [
        "w1@h [1970-01-01 00:00:00+00:00] started: freq=2.0, pid=7"
    ]
    assert dumped({"type": "worker-offline"}) == ["w1@h [1970-01-01 00:00:00+00:00] shutdown"]


def test_a_task_is_named_as_in_its_first_event() -> None:
    """B-CLI-034: task received: NAME(UUID) args=… kwargs=… k=v."""
    received = {
        "type": "task-received",
        "uuid": "d1",
        "name": "add",
        "args": "(1,)",
        "kwargs": "{}",
        "retries": 0,
    }
    prefix = "w1@h [1970-01-01 00:00:00+00:00]"

    assert dumped(received, {"type": "task-succeeded", "uuid": "d1", "result": "2"}) == [
        f"{prefix} task received: add(d1) args=(1,) kwargs={{}} retries=0",
        f"{prefix} task succeeded: add(d1) args=(1,) kwargs={{}} result=2",
    ]


def test_types_are_put_into_words() -> None:
    assert humanize_type("worker-heartbeat") == "heartbeat"
    assert humanize_type("TASK-Custom-Thing") == "task custom thing"


class Camera(Polaroid):
    clear_after = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.pictures: list[int] = []
        self.cleanups = 0
        super().__init__(*args, **kwargs)

    def on_shutter(self, state: Any) -> None:
        self.pictures.append(len(state.tasks))

    def on_cleanup(self) -> None:
        self.cleanups += 1


class Timer:
    """Runs its entries when told to."""

    def __init__(self) -> None:
        self.entries: list[Any] = []

    def call_repeatedly(self, secs: float, fun: Any, *_: Any) -> Any:
        entry = Entry(secs, fun)
        self.entries.append(entry)
        return entry


class Entry:
    def __init__(self, secs: float, fun: Any) -> None:
        self.secs, self.fun, self.cancelled = secs, fun, False

    def cancel(self) -> None:
        self.cancelled = True


def test_a_camera_takes_pictures_at_its_frequency(app: Any, cluster: Cluster) -> None:
    timer = Timer()
    signals: list[Any] = []
    camera = Camera(cluster.state, freq=3.0, cleanup_freq=60.0, timer=timer, app=app)

    def on_shutter(sender: Any, **_: Any) -> None:
        signals.append(sender)

    camera.shutter_signal.connect(on_shutter)
    try:
        cluster.task("succeeded")
        with camera:
            shutter, cleanup = timer.entries
            assert (shutter.secs, cleanup.secs) == (3.0, 60.0)
            shutter.fun()
            cleanup.fun()
    finally:
        camera.shutter_signal.disconnect(on_shutter)

    assert camera.pictures == [1]
    assert camera.cleanups == 1
    assert signals == [cluster.state]
    # It forgets what it has seen, and stops in the end.
    assert not cluster.state.tasks
    assert shutter.cancelled
    assert cleanup.cancelled


def test_too_many_pictures_are_not_taken(app: Any, cluster: Cluster) -> None:
    camera = Camera(cluster.state, maxrate="1/h", timer=Timer(), app=app)

    for _ in range(5):
        camera.capture()

    assert len(camera.pictures) == 1
