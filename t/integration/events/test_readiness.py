"""A worker that says it is ready obeys at once."""

from __future__ import annotations

import pytest

from t.integration.events.test_control import Cluster, cluster as cluster


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent", "eventlet"])
def test_a_command_sent_when_the_worker_is_ready_is_not_lost(cluster: Cluster, pool: str) -> None:
    if pool in ("gevent", "eventlet"):
        pytest.importorskip(pool)
    # The client's own connections are made before, so that it is not late.
    assert cluster.app.control.ping(timeout=0.01) == []
    with cluster.worker("-n", "w1@lab", "-P", pool, "-c", "1"):
        assert cluster.app.control.ping(timeout=60.0, limit=1) == [{"w1@lab": {"ok": "pong"}}]
