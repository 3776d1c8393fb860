"""URLs and options of single brokers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from kombu import Queue

from celery import Celery
from celery._transport.pgmq import LONGEST_NAME
from t.harness.emulators import MotoServer
from t.integration.brokers.table import CASES


def connect(url: str, **options: Any) -> Any:
    app = Celery("t", set_as_current=False)
    app.conf.broker_transport_options = options
    return app.connection_for_write(url)


def settings_of(case_id: str, request: pytest.FixtureRequest, folder: Path) -> tuple[str, Any]:
    [case] = [case for case in CASES if case.id == case_id]
    conf = case.settings(request, folder)
    return conf["broker_url"], conf["broker_transport_options"]


LOCAL: dict[str, Any] = {"is_secure": False}


def test_sqs_has_its_defaults(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """B-BROK-002."""
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    with connect(f"sqs://key:secret@127.0.0.1:{moto_server.port}", **LOCAL) as connection:
        channel = connection.default_channel
        assert channel.region == "us-east-1"
        assert channel.visibility_timeout == 1800
        assert channel.wait_time_seconds == 10
        assert channel.queue_name_prefix == ""
        assert connection.transport.polling_interval == 1


def test_sqs_takes_quoted_keys_and_makes_queues_as_told(moto_server: MotoServer) -> None:
    """B-BROK-002: options are applied when a queue is made."""
    url = f"sqs://a%2Bkey:a%2Fsecret@127.0.0.1:{moto_server.port}"
    options = {"region": "eu-west-1", "visibility_timeout": 77, "queue_name_prefix": "site-"}
    with connect(url, **options, **LOCAL) as connection:
        assert (connection.userid, connection.password) == ("a+key", "a/secret")
        assert "secret" not in connection.as_uri()
        channel = connection.default_channel
        Queue("jobs")(channel).declare()
        sqs = channel.sqs()
        [made] = sqs.list_queues(QueueNamePrefix="site-jobs")["QueueUrls"]
        found = sqs.get_queue_attributes(QueueUrl=made, AttributeNames=["VisibilityTimeout"])
        assert found["Attributes"]["VisibilityTimeout"] == "77"


def test_sqs_makes_none_beside_predefined_queues(moto_server: MotoServer) -> None:
    """B-BROK-002."""
    url = moto_server.make_queue("mine", visibility_timeout_s=5)
    queues = {"mine": {"url": url, "access_key_id": "key", "secret_access_key": "secret"}}
    broker = f"sqs://key:secret@127.0.0.1:{moto_server.port}"
    with connect(broker, predefined_queues=queues, **LOCAL) as connection:
        connection.Producer().publish("one", routing_key="mine")
        with pytest.raises(Exception, match="must be defined in 'predefined_queues'"):
            connection.Producer().publish("one", routing_key="other")
    with connect(broker, **LOCAL) as connection:
        names = connection.default_channel.sqs().list_queues().get("QueueUrls", [])
        assert not [name for name in names if name.endswith("/other")]


def test_pgmq_has_its_defaults_and_short_names(
    request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """B-BROK-010."""
    url, options = settings_of("pgmq", request, tmp_path)
    with connect(url, init_extension=options["init_extension"]) as connection:
        assert "secret" not in connection.as_uri()
        channel = connection.default_channel
        assert channel.visibility_timeout == 1800
        long = [f"{'x' * 50}{number}" for number in range(2)]
        names = [channel.canonical_queue_name(name) for name in long]
        assert len(set(names)) == 2
        assert {len(name) for name in names} == {LONGEST_NAME}
        assert channel.canonical_queue_name("celery") == "celery"


def test_pgmq_takes_a_connection_string(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    """B-BROK-010."""
    url, options = settings_of("pgmq", request, tmp_path)
    text = url.replace("pgmq://", "postgresql://")
    with connect("pgmq://nowhere.invalid/x", conn_string=text, **options) as connection:
        connection.Producer().publish("one", routing_key="mine", declare=[Queue("mine")])
        assert connection.default_channel.queue_declare("mine", passive=True).message_count == 1
