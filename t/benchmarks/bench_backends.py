"""What one stored result and one reading cost, in each store, beside another implementation.

``python -m t.benchmarks.bench_backends --peer VENV`` starts the servers, and has both store and
read results in turns; it prints microseconds of processor time of the client, medians of the
rounds, and for stores that are spoken to over HTTP the requests. What the servers spend is not in
it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WARM = 20


def child(conf: dict[str, Any], count: int) -> dict[str, float]:
    """Store and read *count* results with whatever ``import celery`` finds."""
    os.environ.update(conf.pop("env", {}))
    from celery import Celery
    from celery.app.task import Context

    requests = 0
    try:
        from urllib3.connectionpool import HTTPConnectionPool
    except ImportError:
        pass
    else:
        plain = HTTPConnectionPool.urlopen

        def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal requests
            requests += 1
            return plain(self, *args, **kwargs)

        HTTPConnectionPool.urlopen = counting  # type: ignore[method-assign]
    app = Celery("bench", set_as_current=False)
    app.conf.update(conf)
    backend = app.backend
    names = [f"{os.getpid()}-{number}" for number in range(WARM + count)]

    def timed(work: Any) -> tuple[float, float]:
        for name in names[:WARM]:
            work(name)
        before, began = requests, time.process_time()
        for name in names[WARM:]:
            work(name)
        spent = time.process_time() - began
        return spent / count * 1e6, (requests - before) / count

    store, stores = timed(lambda name: backend.mark_as_done(name, 4, request=Context(id=name)))
    get, gets = timed(lambda name: app.AsyncResult(name).get(timeout=10))
    return {"store": store, "get": get, "store requests": stores, "get requests": gets}


Settings = dict[str, Any]
Start = Callable[[Any], Any]


def _server(name: str, path: str = "") -> Callable[[Start, Path], Settings]:
    """Return what starts the server of a class; its URL and *path* are all there is to say."""

    def make(start: Start, folder: Path) -> Settings:
        from t.harness import emulators, npm, servers, standins

        module = next(each for each in (servers, emulators, npm, standins) if hasattr(each, name))
        return {"result_backend": start(getattr(module, name)()).url + path}

    return make


def _memcached(driver: str) -> Callable[[Start, Path], Settings]:
    def make(start: Start, folder: Path) -> Settings:
        return {
            **_server("MemcachedServer")(start, folder),
            "cache_backend_options": {"driver": driver},
        }

    return make


def _file(start: Start, folder: Path) -> Settings:
    (folder / "files").mkdir()
    return {"result_backend": f"file://{folder}/files"}


def _sqlite(start: Start, folder: Path) -> Settings:
    return {"result_backend": f"db+sqlite:///{folder}/results.sqlite"}


def _postgresql(start: Start, folder: Path) -> Settings:
    from t.harness.servers import PostgreSQLServer

    return {"result_backend": f"db+{start(PostgreSQLServer()).new_url()}"}


def _dynamodb(start: Start, folder: Path) -> Settings:
    from t.harness.emulators import MotoServer

    return {"result_backend": f"dynamodb://k:s@localhost:{start(MotoServer()).port}/bench"}


def _s3(start: Start, folder: Path) -> Settings:
    from t.harness.emulators import MotoServer

    moto = start(MotoServer())
    moto.make_bucket("bench")
    return {
        "result_backend": "s3://", "s3_bucket": "bench", "s3_base_path": "r/",
        "s3_endpoint_url": moto.url, "s3_access_key_id": "k", "s3_secret_access_key": "s",
        "s3_region": "us-east-1",
    }  # fmt: skip


def _gcs(start: Start, folder: Path) -> Settings:
    from t.harness.google import GcsServer

    gcs = start(GcsServer())
    gcs.make_bucket("bench")
    return {
        "result_backend": "celery.backends.gcs:GCSBackendBase", "gcs_bucket": "bench",
        "gcs_project": "lab", "env": {"STORAGE_EMULATOR_HOST": gcs.url},
    }  # fmt: skip


def _cassandra(start: Start, folder: Path) -> Settings:
    from t.harness.cassandra import CassandraStandIn

    return {
        "result_backend": "cassandra://", "cassandra_servers": ["127.0.0.1"],
        "cassandra_port": start(CassandraStandIn()).port, "cassandra_keyspace": "lab",
        "cassandra_table": "bench", "cassandra_options": {"protocol_version": 4},
    }  # fmt: skip


def _cosmos(start: Start, folder: Path) -> Settings:
    from t.harness.npm import CosmosServer

    return {
        "result_backend": start(CosmosServer()).url, "cosmosdbsql_collection_name": "bench",
    }  # fmt: skip


#: By store: starts its server and returns the settings.
STORES: dict[str, Callable[[Start, Path], Settings]] = {
    "redis": _server("RedisServer"),
    "redis cluster": _server("RedisCluster"),
    "memcached": _server("MemcachedServer"),
    "memcached by pylibmc": _memcached("pylibmc"),
    "memcached by python-memcached": _memcached("memcache"),
    "file": _file,
    "sqlite": _sqlite,
    "postgresql": _postgresql,
    "mongodb": _server("MongoServer"),
    "elasticsearch": _server("ElasticsearchServer", "/bench"),
    "dynamodb": _dynamodb,
    "s3": _s3,
    "gcs": _gcs,
    "cassandra stand-in": _cassandra,
    "couchdb": _server("CouchServer", "/bench"),
    "azureblockblob": _server("AzuriteServer"),
    "cosmosdbsql": _cosmos,
    "arangodb stand-in": _server("ArangoStandIn", "/bench/results"),
    "consul stand-in": _server("ConsulStandIn", "/bench"),
    "couchbase stand-in": _server("CouchbaseStandIn", "/bench"),
    "riak stand-in": _server("RiakStandIn", "/bench"),
}


def run(python: str, ours: bool, conf: dict[str, Any], count: int) -> dict[str, float]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "CELERY"))}
    if ours:
        kept["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(
        [python, "-W", "ignore", __file__, "--child", json.dumps(conf), "--count", str(count)],
        env=kept, cwd=tempfile.gettempdir(), capture_output=True, text=True, check=False,
        timeout=120,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-1500:])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m t.benchmarks.bench_backends")
    parser.add_argument("--peer", help="a virtual environment with the other implementation")
    parser.add_argument("--only", default="", help="stores, joined by commas")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print("\n" + json.dumps(child(json.loads(options.child), options.count)), flush=True)
        # Drivers leave threads behind that nobody ends.
        os._exit(0)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        wanted = options.only.split(",") if options.only else list(STORES)
        peers = [("ours", sys.executable)]
        if options.peer:
            peers.append(("theirs", f"{options.peer}/bin/python"))
        for name in wanted:
            settings = STORES[name](stack.enter_context, folder)
            rounds: dict[str, list[dict[str, float]]] = {label: [] for label, _ in peers}
            for _ in range(options.rounds):
                for label, python in peers:
                    conf = dict(settings)
                    rounds[label].append(run(python, label == "ours", conf, options.count))
            cells = [
                f"{figure} " + " / ".join(
                    f"{statistics.median(found[figure] for found in rounds[label]):.4g}"
                    for label, _ in peers
                )
                for figure in ("store", "get", "store requests", "get requests")
            ]  # fmt: skip
            print(f"{name:20}" + "   ".join(cells), flush=True)


if __name__ == "__main__":
    main()
