"""Fixtures of the tests of brokers."""

from __future__ import annotations

from t.harness.brokers import etcd_server, kafka_server, pubsub_server, zookeeper_server

__all__ = ("etcd_server", "kafka_server", "pubsub_server", "zookeeper_server")
