"""What one implementation stores the other one reads, in each store that can be had here."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from t.harness.google import FirestoreServer
from t.interop.nodes import APPS, CLIENT_S

# The first test waits for all servers, and for all programs.
pytestmark = pytest.mark.timeout(900)

#: Stores in which the reference implementation can't keep groups.
WITHOUT_GROUPS = {"cassandra stand-in"}
#: Those of which both count the parts of chords.
COUNTING = ("dynamodb", "gcs", "memcached", "redis")
NAMES = (
    "cassandra stand-in", "consul stand-in", "django-db", "dynamodb",
    "elasticsearch", "file", "gcs", "memcached", "mongodb", "postgresql", "redis", "s3", "sqlite",
)  # fmt: skip


@pytest.fixture(scope="module")
def stores(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Start all servers, and write down how they are reached."""
    get = request.getfixturevalue
    folder = tmp_path_factory.mktemp("stores")
    moto, redis, gcs = get("moto_server"), get("redis_server"), get("gcs_server")
    moto.make_bucket("interop")
    gcs.make_bucket("interop")
    (folder / "files").mkdir()
    redis_url = f"redis://127.0.0.1:{redis.port}"
    backends: dict[str, Any] = {
        "cassandra stand-in": "cassandra://",
        "consul stand-in": f"{get('consul_standin').url}/interop",
        "django-db": "django-db",
        "dynamodb": f"dynamodb://k:s@localhost:{moto.port}/interop",
        "elasticsearch": f"{get('elasticsearch_server').url}/interop",
        "file": f"file://{folder}/files",
        "gcs": "gs://interop/results?gcs_project=lab",
        "memcached": get("memcached_server").url,
        "mongodb": get("mongo_server").url,
        "postgresql": f"db+{get('postgresql_server').new_url()}",
        "redis": f"{redis_url}/11",
        "s3": "s3://",
        "sqlite": f"db+sqlite:///{folder}/results.sqlite",
    }
    more: dict[str, dict[str, Any]] = {
        "s3": {
            "s3_bucket": "interop", "s3_base_path": "results/", "s3_endpoint_url": moto.url,
            "s3_access_key_id": "k", "s3_secret_access_key": "s", "s3_region": "us-east-1",
        },
        "cassandra stand-in": {
            "cassandra_servers": ["127.0.0.1"], "cassandra_port": get("cassandra_standin").port,
            "cassandra_keyspace": "lab", "cassandra_table": "interop",
            "cassandra_options": {"protocol_version": 4},
        },
    }  # fmt: skip
    env: dict[str, dict[str, str]] = {"gcs": {"STORAGE_EMULATOR_HOST": gcs.url}}
    counting = set(COUNTING)
    if FirestoreServer.jar() is None:
        counting -= {"gcs"}
    else:
        env["gcs"]["FIRESTORE_EMULATOR_HOST"] = get("firestore_server").address
    found = {
        name: {
            "conf": {
                "result_backend": url, "broker_url": f"{redis_url}/12", **more.get(name, {}),
            },
            "env": env.get(name, {}),
            "counts": name in counting,
            "folder": str(folder),
        }
        for name, url in backends.items()
    }  # fmt: skip
    path = folder / "stores.json"
    path.write_text(json.dumps(found))
    return path


@pytest.fixture(scope="module")
def outcomes(stores: Path, reference_python: str, our_python: str) -> dict[str, Any]:
    """Have each of the two do its share of all steps, both at the same time."""
    peers = (("ours", our_python), ("theirs", reference_python))
    # But one after the other where tables are made.
    found = {(label, "write"): run(python, label, stores, "write") for label, python in peers}
    with ThreadPoolExecutor(len(peers)) as pool:
        for verb in ("read", "begin", "end"):
            running = {
                (label, verb): pool.submit(run, python, label, stores, verb)
                for label, python in peers
            }
            found |= {key: job.result() for key, job in running.items()}
    return found


def run(python: str, label: str, stores: Path, verb: str) -> Any:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CELERY"))}
    if label == "ours":
        kept |= {"STORES_OURS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [python, "store_client.py", str(stores), verb],
        cwd=APPS, env=kept, capture_output=True, text=True, timeout=CLIENT_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


READERS = pytest.mark.parametrize(
    ("reader", "writer"), [("ours", "theirs"), ("theirs", "ours")], ids=["we read", "they read"]
)


@READERS
@pytest.mark.parametrize("name", NAMES)
def test_what_one_stores_the_other_reads(
    outcomes: dict[str, Any], name: str, reader: str, writer: str
):
    """B-BACK-023 and B-RES-001: documents, and where they are, are the same."""
    written, seen = outcomes[writer, "write"][name], outcomes[reader, "read"][name]
    assert "failed" not in written, written["failed"]
    assert "failed" not in seen, seen["failed"]

    assert seen["value"] == {"a": [1, None, "ü"]}
    assert seen["children"] == [f"{name}-{writer}-child"]
    assert seen["date"].startswith("20")
    state, error, args, traceback = seen["error"]
    assert (state, error, args) == ("FAILURE", "KeyError", ["k", 3])
    # The package for Django keeps it with extended results only.
    assert traceback == (None if name == "django-db" else "Traceback: here")
    assert seen["now"] == ["STARTED", {"pid": 1}]
    assert seen["forgotten"] == ["SUCCESS", "PENDING"]


@READERS
@pytest.mark.parametrize("name", sorted(set(NAMES) - WITHOUT_GROUPS))
def test_a_group_that_one_saves_the_other_restores(
    outcomes: dict[str, Any], name: str, reader: str, writer: str
):
    assert outcomes[writer, "write"][name] == {"group": "saved"}
    members = [f"{name}-{writer}-ok", f"{name}-{writer}-bad"]
    assert outcomes[reader, "read"][name]["group"] == members


@pytest.mark.parametrize(
    ("first", "last"), [("ours", "theirs"), ("theirs", "ours")], ids=["they end", "we end"]
)
@pytest.mark.parametrize("name", COUNTING)
def test_both_count_the_parts_of_one_chord(
    outcomes: dict[str, Any], name: str, first: str, last: str
):
    """B-BACK-014, B-BACK-024."""
    if name not in outcomes[first, "begin"]:
        pytest.skip("the emulator of Firestore, a part of gcloud, is not installed")
    assert outcomes[first, "begin"][name] == {}
    assert outcomes[last, "end"][name] == {"body": [[0, 10]], "more": False}
