from __future__ import annotations

import os
import socket
import uuid as uuid_module

import pytest
from kombu.entity import Queue

from celery import utils
from celery.utils import nodenames
from celery.utils.nodenames import (
    anon_nodename,
    default_nodename,
    host_format,
    node_format,
    nodename,
    nodesplit,
    worker_direct,
)


def test_a_node_name_has_two_parts():
    """B-UTIL-002: ``name@host``, defaults, and a host alone."""
    host = socket.gethostname()
    assert nodename("a", "b") == "a@b"
    assert nodesplit("a@b") == ("a", "b")
    assert nodesplit("b") == (None, "b")
    assert default_nodename(None) == f"celery@{host}"
    assert default_nodename("x@") == f"x@{host}"
    assert default_nodename("h") == "celery@h"
    assert anon_nodename() == f"gen{os.getpid()}@{host}"
    assert anon_nodename("h", "beat") == f"beat{os.getpid()}@h"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("%n", "w"),
        ("%h", "n.ex.com"),
        ("%d", "ex.com"),
        ("%p", "w@n.ex.com"),
        ("%i", "0"),
        ("%I", ""),
        ("%%", "%"),
    ],
)
def test_formats_expand_to_parts_of_the_name(key, value):
    """B-UTIL-003: node formats for ``w@n.ex.com``."""
    assert node_format(f"<{key}>", "w@n.ex.com") == f"<{value}>"


def test_formats_of_hosts_use_this_machine_by_default():
    assert host_format("%n@%h") == f"celery@{socket.gethostname()}"
    assert host_format("%i", i="3") == "3"
    assert host_format("x@%d", "a.b.c", "n") == "x@b.c"


def test_a_worker_has_a_queue_of_its_own():
    """B-ROUT-022: queue ``<nodename>.dq2`` on the exchange ``C.dq2``."""
    queue = worker_direct("w@h")
    assert (queue.name, queue.exchange.name, queue.routing_key) == ("w@h.dq2", "C.dq2", "w@h")
    assert worker_direct(queue) is queue
    assert isinstance(queue, Queue)


def test_names_of_the_package_load_when_used():
    assert utils.nodesplit is nodenames.nodesplit
    assert set(utils.__all__) <= set(dir(utils))
    for name in utils.__all__:
        assert getattr(utils, name) is not None
    with pytest.raises(AttributeError):
        utils.nonsense


def test_ids_are_random_uuids():
    """B-UTIL-009: a random UUID4 string."""
    one, two = utils.uuid(), utils.uuid()
    assert one != two
    assert uuid_module.UUID(one).version == 4
    assert isinstance(one, str)
