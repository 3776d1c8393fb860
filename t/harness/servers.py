"""Private servers for tests: real ones, on loopback, started and ended by the test run.

Each class is a context manager around one server process with a port and a folder of its own, so
that runs never meet. A server counts as started when it answers, not when time has passed. It is
ended through the process that was started here, never by name. ``stop``, ``start``, ``kill`` and
``freeze`` may be called in between: that is how tests see connections break.

A missing program skips the test, and fails it where the environment says ``CI=true``.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import glob
import itertools
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest

#: Seconds that a loaded machine may take to bring up a server.
READY_S = 120.0
#: Seconds between two health checks.
CHECK_S = 0.02
STOP_S = 60.0

#: Where distributions put programs that are not on the path.
PROGRAM_FOLDERS = (
    "/usr/lib/rabbitmq/bin",
    "/usr/lib/postgresql/*/bin",
    "/usr/local/sbin",
    "/usr/sbin",
)

PR_SET_PDEATHSIG = 1

#: What rabbitmqctl says of a node that has not finished its boot steps.
BOOTING = "requires the 'rabbit' app to be running"


def find_program(name: str) -> str | None:
    """Return the path of a server program, None when it is not installed.

    Distributions wrap some servers in scripts that switch user and use system folders, so their
    own folders come before the path.
    """
    for pattern in PROGRAM_FOLDERS[:2]:
        for folder in sorted(glob.glob(pattern), reverse=True):
            found = shutil.which(name, path=folder)
            if found:
                return found
    path = os.pathsep.join((os.environ.get("PATH", ""), *PROGRAM_FOLDERS[2:]))
    return shutil.which(name, path=path)


def require_program(name: str) -> str:
    """Return the path of a server program, or skip the test (fail it in CI)."""
    found = find_program(name)
    if found is None:
        missing(f"{name} is not installed")
    return found


def missing(reason: str) -> NoReturn:
    """Skip the test because a server is missing; in CI that is a failure."""
    if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
        pytest.fail(f"{reason}, and CI runs must not skip it")
    pytest.skip(reason)


@functools.cache
def _own_ports() -> Iterator[int]:
    # Others than those of the processes beside this one, and below those from which systems take
    # the near ends of connections: so nobody gets the port between the look and the server's start.
    process = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 16
    first = 12_000 + process * 1_250
    return itertools.cycle(random.SystemRandom().sample(range(first, first + 1_250), 1_250))


def free_port() -> int:
    """Return a port on loopback that nobody listens on, another one each time."""
    for port in itertools.islice(_own_ports(), 1_250):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("there is no free port")


def wait_until(condition: Any, what: str, timeout_s: float = READY_S) -> None:
    """Check *condition* until it is true.

    Raises:
        TimeoutError: That took longer than *timeout_s*.
    """
    end = time.monotonic() + timeout_s
    pause = threading.Event()
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} took longer than {timeout_s} s")
        pause.wait(CHECK_S)


def freeze(pid: int) -> None:
    """Stop a process and return once none of its threads runs any more: SIGSTOP alone is a wish."""
    os.kill(pid, signal.SIGSTOP)
    threads = Path(f"/proc/{pid}/task")
    if threads.exists():
        wait_until(lambda: all(_is_stopped(thread) for thread in threads.iterdir()), "a stop")


def _is_stopped(thread: Path) -> bool:
    try:
        return (thread / "stat").read_text().rpartition(")")[2].split()[0] in "TtZ"
    except (FileNotFoundError, ProcessLookupError):
        return True


def accepts_connections(port: int) -> bool:
    """Say whether something listens on *port*."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def ask(port: int, question: bytes, size: int = 64) -> bytes:
    """Send *question* and return the beginning of the answer; empty when there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
            connection.sendall(question)
            return connection.recv(size)
    except OSError:
        return b""


def _end_with_parent() -> None:
    # A test run that is killed must not leave servers behind. To Linux the parent is the thread
    # that started the server, so this has to be one that lives as long as the server does.
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Server:
    """One server process.

    Args:
        options: Added to the command line.
    """

    #: Program to start, see `find_program`.
    program = ""
    stop_signal = signal.SIGTERM
    #: Refuses to run as root.
    drops_root = False
    has_many_files = False

    def __init__(self, *options: str) -> None:
        self.options = options
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix=f"celery-test-{self.program}-"))
        self.folder.chmod(0o755)
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """Return the command line."""
        raise NotImplementedError

    def environment(self) -> dict[str, str]:
        """Return the environment of the server."""
        return dict(os.environ)

    def is_ready(self) -> bool:
        """Ask the server something that only a working one answers."""
        return accepts_connections(self.port)

    def require(self) -> None:
        """Skip the test where the program is missing, or fail it, see `missing`."""
        require_program(self.program)

    def prepare(self) -> None:
        """Make what the server needs before its first start."""

    def as_server_user(self, command: list[str]) -> list[str]:
        """Change *command* so that it runs as a user that the server accepts."""
        if not self.drops_root or os.geteuid() != 0:
            return command
        user = ["--reuid=nobody", "--regid=nogroup", "--clear-groups"]
        return [require_program("setpriv"), *user, *command]

    def __enter__(self) -> Self:
        self.require()
        try:
            self.prepare()
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server; return when it answers."""
        assert self.process is None, "it runs"
        with (self.folder / "output.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.as_server_user(self.command()),
                cwd=self.folder,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
        process = self.process

        def answered_or_ended() -> bool:
            return process.poll() is not None or self.is_ready()

        wait_until(answered_or_ended, f"the start of {self.program}")
        if process.poll() is not None:
            self.process = None
            raise RuntimeError(f"{self.program} ended with {process.returncode}: {self.output()}")

    def stop(self) -> None:
        """End the server in an orderly way; harmless when it is down."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """End the server at once, as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start again, on the same port."""
        self.stop()
        self.start()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """Keep the server from answering, with its connections open."""
        pid = self.server_pid()
        freeze(pid)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def server_pid(self) -> int:
        """Return the process id of the server itself."""
        assert self.process is not None
        return self.process.pid

    def _end(self, signum: int) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signum)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_S)

    def close(self) -> None:
        """End the server and delete its folder."""
        self.stop()
        if self.has_many_files:
            # Tens of thousands, where each test has a database: nobody waits for their end.
            subprocess.Popen(["rm", "-rf", str(self.folder)], start_new_session=True)
        else:
            shutil.rmtree(self.folder, ignore_errors=True)

    def output(self) -> str:
        """Return what the server printed."""
        path = self.folder / "output.log"
        return path.read_text(errors="replace")[-4000:] if path.exists() else ""


class RedisServer(Server):
    """A Redis server without persistence; ``options`` are those of its command line."""

    program = "redis-server"

    @property
    def url(self) -> str:
        """URL of the first database."""
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        """Return the command line."""
        fixed = [
            "--bind",
            "127.0.0.1",
            "--port",
            str(self.port),
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        return [require_program(self.program), *fixed, *self.options]

    def is_ready(self) -> bool:
        """PING; a wrong password is an answer too, that the data are still being read is none."""
        answer = ask(self.port, b"PING\r\n")
        return answer[:1] in (b"+", b"-") and not answer.startswith(b"-LOADING")

    def flush(self) -> None:
        """Delete everything."""
        ask(self.port, b"FLUSHALL\r\n")

    def disconnect_clients(self) -> None:
        """Close all connections of clients."""
        ask(self.port, b"CLIENT KILL TYPE normal\r\nCLIENT KILL TYPE pubsub\r\n")


class TLSRedisServer(RedisServer):
    """A Redis server that speaks nothing but TLS."""

    def command(self) -> list[str]:
        """Return the command line."""
        command = super().command()
        command[command.index("--port")] = "--tls-port"
        return [*command, "--port", "0", "--tls-auth-clients", "no"]

    def is_ready(self) -> bool:
        """Listen."""
        return accepts_connections(self.port)


class RedisClusterNode(RedisServer):
    """One node of a cluster, alone as yet; it knows the others again after a restart."""

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self.bus_port = free_port()
        #: Where others meet it, if they do so over TLS.
        self.meeting_port = self.port

    def command(self) -> list[str]:
        """Return the command line."""
        cluster = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf"]
        times = ["--cluster-node-timeout", "2000", "--cluster-port", str(self.bus_port)]
        # It would wait for further replicas before the first copy.
        return [*super().command(), *cluster, *times, "--repl-diskless-sync-delay", "0"]

    def do(self, *words: object) -> bytes:
        """Send one command and return the beginning of the answer."""
        return ask(self.port, " ".join(map(str, words)).encode() + b"\r\n", 65536)

    def meet(self, other: RedisClusterNode) -> None:
        """Join the cluster of another node; takes some time."""
        assert self.do("CLUSTER MEET 127.0.0.1", other.meeting_port, other.bus_port) == b"+OK\r\n"

    @property
    def id(self) -> str:
        """Name of the node in its cluster."""
        return self.do("CLUSTER MYID").split(b"\r\n")[1].decode()

    def info(self) -> bytes:
        """Return what it says about the cluster."""
        return self.do("CLUSTER INFO")

    def knows(self, owner: str, epoch: int, slot: int) -> bool:
        """Say whether it takes *owner*, of that epoch, for the node of a slot."""
        lines = [line.split() for line in self.do("CLUSTER NODES").decode().splitlines()]
        words = next(line for line in lines if line and line[0] == owner)
        ranges = [list(map(int, word.split("-"))) for word in words[8:] if word[0] != "["]
        return int(words[6]) == epoch and any(ends[0] <= slot <= ends[-1] for ends in ranges)


class RedisCluster:
    """A Redis Cluster of three masters, with some of the interface of `Server`.

    Args:
        make: Makes a node.
    """

    SLOTS = 16384

    def __init__(self, make: Callable[[], RedisClusterNode] = RedisClusterNode) -> None:
        self.nodes = [make() for _ in range(3)]

    @property
    def port(self) -> int:
        """Port of one of the nodes."""
        return self.nodes[0].port

    @property
    def url(self) -> str:
        """URL for ``result_backend``."""
        return f"redis+cluster://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        self._started = contextlib.ExitStack()
        with contextlib.ExitStack() as stack:
            for node in self.nodes:
                stack.enter_context(node)
            first = self.nodes[0]
            for number, node in enumerate(self.nodes):
                bounds = [self.SLOTS * place // 3 for place in (number, number + 1)]
                assert node.do("CLUSTER ADDSLOTSRANGE", bounds[0], bounds[1] - 1) == b"+OK\r\n"
                # Otherwise they would have to agree on one first.
                node.do("CLUSTER SET-CONFIG-EPOCH", number + 1)
            for node in self.nodes[1:]:
                node.meet(first)
            self.wait_until_complete()
            self._started = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._started.close()

    def wait_until_complete(self) -> None:
        """Return when every node knows who has which key."""
        for node in self.nodes:
            wait_until(
                lambda node=node: b"cluster_state:ok" in node.info(),
                "the start of a Redis Cluster",
            )

    def give(self, slot: int, owner: RedisClusterNode) -> None:
        """Give an empty slot to a node; returns once all know that, and will not forget.

        Nodes gossip: what one has said of its slots before may arrive after this. They believe
        whoever has the latest epoch.
        """
        epoch = int(owner.do("CLUSTER BUMPEPOCH").split()[1])
        for node in self.nodes:
            assert node.do("CLUSTER SETSLOT", slot, "NODE", owner.id) == b"+OK\r\n"
        wait_until(
            lambda: all(node.knows(owner.id, epoch, slot) for node in self.nodes),
            "the way of a slot to another node",
        )

    def restart(self) -> None:
        """Stop all nodes and start them again."""
        for node in self.nodes:
            node.stop()
        for node in self.nodes:
            node.start()
        self.wait_until_complete()

    def flush(self) -> None:
        """Delete everything."""
        for node in self.nodes:
            node.flush()

    def disconnect_clients(self) -> None:
        """Close all connections of clients."""
        for node in self.nodes:
            node.disconnect_clients()


class SentinelServer(RedisServer):
    """A sentinel that watches one master, named ``mymaster``, and decides alone."""

    def __init__(self, master: RedisServer) -> None:
        super().__init__()
        self.master_port = master.port

    def prepare(self) -> None:
        """Write the configuration, which the sentinel will rewrite."""
        (self.folder / "sentinel.conf").write_text(
            f"port {self.port}\nbind 127.0.0.1\n"
            f"sentinel monitor mymaster 127.0.0.1 {self.master_port} 1\n"
            "sentinel down-after-milliseconds mymaster 500\n"
            "sentinel failover-timeout mymaster 2000\n"
        )

    def command(self) -> list[str]:
        """Return the command line."""
        return [require_program(self.program), "sentinel.conf", "--sentinel"]

    def knows_replica(self) -> bool:
        """Say whether a failover has somewhere to go."""
        answer = ask(self.port, b"SENTINEL REPLICAS mymaster\r\n", 4096)
        return answer.startswith(b"*1\r\n")


class RabbitMQServer(Server):
    """A RabbitMQ node with a port mapper of its own; every test takes a virtual host."""

    program = "rabbitmq-server"
    #: Virtual hosts made with one command, which takes as long as one host.
    VHOSTS_AT_ONCE = 16

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self.epmd_port = free_port()
        self.dist_port = free_port()
        self.node = f"test{self.port}@localhost"
        self._epmd: subprocess.Popen[bytes] | None = None
        self._vhosts: list[str] = []
        self._made = 0

    @property
    def url(self) -> str:
        """URL of the default virtual host; tests take one of their own, see `new_url`."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def prepare(self) -> None:
        """Write the configuration and start the port mapper."""
        config = (
            "loopback_users = none\n"
            "disk_free_limit.absolute = 50MB\n"
            "vm_memory_high_watermark.absolute = 1GB\n"
        )
        (self.folder / "rabbitmq.conf").write_text(config + "\n".join(self.options) + "\n")
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "env.conf").touch()
        # A node would start one in the background, which stays when the node ends.
        self._epmd = subprocess.Popen(
            [require_program("epmd"), "-address", "127.0.0.1", "-port", str(self.epmd_port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        wait_until(lambda: accepts_connections(self.epmd_port), "the start of epmd")

    def command(self) -> list[str]:
        """Return the command line."""
        return [require_program(self.program)]

    def environment(self) -> dict[str, str]:
        """Return the environment, the same for the node and its tools."""
        folder = str(self.folder)
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "LANG": "C.UTF-8",
            "HOME": folder,
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(self.epmd_port),
            "RABBITMQ_NODENAME": self.node,
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_DIST_PORT": str(self.dist_port),
            "RABBITMQ_MNESIA_BASE": f"{folder}/mnesia",
            "RABBITMQ_LOG_BASE": f"{folder}/log",
            "RABBITMQ_PID_FILE": f"{folder}/pid",
            "RABBITMQ_GENERATED_CONFIG_DIR": f"{folder}/generated",
            "RABBITMQ_ENABLED_PLUGINS_FILE": f"{folder}/enabled_plugins",
            "RABBITMQ_CONF_ENV_FILE": f"{folder}/env.conf",
            "RABBITMQ_CONFIG_FILE": f"{folder}/rabbitmq.conf",
            "RABBITMQ_ADVANCED_CONFIG_FILE": f"{folder}/advanced.config",
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
        }

    def is_ready(self) -> bool:
        """Say whether the node answers the header of the protocol."""
        return bool(ask(self.port, b"AMQP\x00\x00\x09\x01", 1))

    def server_pid(self) -> int:
        """Return the process id of the node, a child of the start script."""
        return int((self.folder / "pid").read_text())

    def ctl(self, *arguments: str) -> str:
        """Run rabbitmqctl and return what it prints (takes half a second).

        A node that has just begun to answer clients may still refuse its own tools.
        """
        end = time.monotonic() + READY_S
        while True:
            done = subprocess.run(
                [require_program("rabbitmqctl"), "--quiet", *arguments],
                env=self.environment(),
                cwd=self.folder,
                capture_output=True,
                text=True,
                timeout=READY_S,
                check=False,
            )
            if not done.returncode:
                return done.stdout
            said = done.stdout + done.stderr
            if BOOTING not in said or time.monotonic() > end:
                raise RuntimeError(f"rabbitmqctl {' '.join(arguments)}: {said}")

    def new_vhost(self) -> str:
        """Return an empty virtual host that nobody else uses."""
        if not self._vhosts:
            first, self._made = self._made, self._made + self.VHOSTS_AT_ONCE
            names = [f"test{number}" for number in range(first, self._made)]
            listed = ", ".join(f'<<"{name}">>' for name in names)
            self.ctl(
                "eval",
                "lists:foreach(fun(V) -> "
                'ok = rabbit_vhost:add(V, <<"guest">>), '
                "ok = rabbit_auth_backend_internal:set_permissions("
                '<<"guest">>, V, <<".*">>, <<".*">>, <<".*">>, <<"guest">>) '
                f"end, [{listed}]).",
            )
            self._vhosts = names
        return self._vhosts.pop(0)

    def new_url(self) -> str:
        """Return the URL of an empty virtual host."""
        return f"amqp://guest:guest@127.0.0.1:{self.port}/{self.new_vhost()}"

    def kill(self) -> None:
        """Kill the node itself; its start script ends with it."""
        process = self.process
        if process is not None and process.poll() is None:
            os.kill(self.server_pid(), signal.SIGKILL)
            process.wait(STOP_S)
        self.process = None

    def disconnect_clients(self) -> None:
        """Close all connections of clients."""
        self.ctl("close_all_connections", "--global", "closed by a test")

    def close(self) -> None:
        """End the node and its port mapper."""
        self.stop()
        epmd, self._epmd = self._epmd, None
        if epmd is not None:
            epmd.terminate()
            epmd.wait(STOP_S)
        super().close()


class SQLServer(Server):
    """A server of databases that trusts loopback; every test takes a database."""

    drops_root = True
    has_many_files = True

    def __init__(self, *options: str) -> None:
        super().__init__(*options)
        self._made = 0

    def install_command(self) -> list[str]:
        """Return the command that makes what the server starts from."""
        raise NotImplementedError

    def url_of(self, database: str) -> str:
        """Return the SQLAlchemy URL of *database*."""
        raise NotImplementedError

    def create(self, database: str) -> None:
        """Make an empty database."""
        raise NotImplementedError

    def prepare(self) -> None:
        """Make what the server starts from."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, "nobody", "nogroup")
        command = self.install_command()
        done = subprocess.run(
            self.as_server_user(command),
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=READY_S,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{command[0]}: {done.stdout}{done.stderr}")

    def new_url(self) -> str:
        """Return the URL of an empty database."""
        self._made += 1
        name = f"test{self._made}"
        self.create(name)
        return self.url_of(name)


class PostgreSQLServer(SQLServer):
    """A PostgreSQL server."""

    program = "postgres"
    stop_signal = signal.SIGINT

    @property
    def url(self) -> str:
        """URL of the maintenance database; tests take one of their own, see `new_url`."""
        return self.url_of("postgres")

    def url_of(self, database: str) -> str:
        """Return the SQLAlchemy URL of *database*."""
        return f"postgresql+psycopg2://postgres@127.0.0.1:{self.port}/{database}"

    def install_command(self) -> list[str]:
        """Return the command that makes the cluster."""
        initdb = [require_program("initdb"), "-D", str(self.folder / "data")]
        return [*initdb, "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8"]

    def command(self) -> list[str]:
        """Return the command line."""
        where = ["-D", str(self.folder / "data"), "-h", "127.0.0.1", "-p", str(self.port)]
        quick = ["-k", str(self.folder), "-c", "fsync=off", "-c", "max_connections=50"]
        return [require_program(self.program), *where, *quick, *self.options]

    def _connect(self) -> Any:
        import psycopg2

        return psycopg2.connect(
            host="127.0.0.1", port=self.port, user="postgres", dbname="postgres"
        )

    def is_ready(self) -> bool:
        """Log in."""
        import psycopg2

        try:
            self._connect().close()
        except psycopg2.OperationalError:
            return False
        return True

    def create(self, database: str) -> None:
        """Make an empty database."""
        with contextlib.closing(self._connect()) as connection:
            connection.autocommit = True
            connection.cursor().execute(f"CREATE DATABASE {database}")


class MariaDBServer(SQLServer):
    """A MariaDB server, in MySQL's place."""

    program = "mariadbd"

    def url_of(self, database: str) -> str:
        """Return the SQLAlchemy URL of *database*."""
        return f"mysql+pymysql://root@127.0.0.1:{self.port}/{database}"

    def install_command(self) -> list[str]:
        """Return the command that makes the system tables."""
        install = [require_program("mariadb-install-db"), "--no-defaults", "--skip-test-db"]
        return [
            *install, f"--datadir={self.folder}/data", "--auth-root-authentication-method=normal"
        ]  # fmt: skip

    def command(self) -> list[str]:
        """Return the command line."""
        where = [f"--{kind}={self.folder}/{kind}" for kind in ("socket", "pid-file")]
        data = [f"--datadir={self.folder}/data", f"--tmpdir={self.folder}"]
        net = ["--bind-address=127.0.0.1", f"--port={self.port}"]
        quick = ["--innodb-buffer-pool-size=64M", "--innodb-flush-log-at-trx-commit=0"]
        server = [require_program(self.program), "--no-defaults"]
        return [*server, *where, *data, *net, *quick, *self.options]

    def _connect(self) -> Any:
        import pymysql

        return pymysql.connect(host="127.0.0.1", port=self.port, user="root")

    def is_ready(self) -> bool:
        """Log in."""
        import pymysql

        try:
            self._connect().close()
        except pymysql.MySQLError:
            return False
        return True

    def create(self, database: str) -> None:
        """Make an empty database."""
        with self._connect() as connection:
            connection.cursor().execute(f"CREATE DATABASE {database} CHARACTER SET utf8mb4")


class MemcachedServer(Server):
    """A memcached server."""

    program = "memcached"

    @property
    def url(self) -> str:
        """URL for ``result_backend``."""
        return f"cache+memcached://127.0.0.1:{self.port}/"

    def command(self) -> list[str]:
        """Return the command line."""
        user = ["-u", "root"] if os.geteuid() == 0 else []
        where = ["-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", "64"]
        return [require_program(self.program), *user, *where, *self.options]

    def is_ready(self) -> bool:
        """Ask for the version."""
        return ask(self.port, b"version\r\n").startswith(b"VERSION")

    def flush(self) -> None:
        """Delete everything."""
        ask(self.port, b"flush_all\r\n")


# -- Fixtures, offered to all tests by t/conftest.py


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One Redis server for the run; a test that breaks it restarts it."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """An empty Redis database."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """One Redis Cluster for the run; a test that breaks it restarts it."""
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture
def redis_cluster_url(redis_cluster: RedisCluster) -> str:
    """An empty Redis Cluster, as a result back-end URL."""
    redis_cluster.flush()
    return redis_cluster.url


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[RabbitMQServer]:
    """One RabbitMQ node for the run; tests take virtual hosts of it (`amqp_url`)."""
    with RabbitMQServer() as server:
        yield server


@pytest.fixture
def amqp_url(rabbitmq_server: RabbitMQServer) -> str:
    """An empty virtual host."""
    return rabbitmq_server.new_url()


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[PostgreSQLServer]:
    """One PostgreSQL server for the run; tests take databases of it (`postgresql_url`)."""
    if find_program("psql") is None:
        missing("PostgreSQL is not installed")
    pytest.importorskip("psycopg2")
    with PostgreSQLServer() as server:
        yield server


@pytest.fixture
def postgresql_url(postgresql_server: PostgreSQLServer) -> str:
    """An empty database, as an SQLAlchemy URL."""
    return postgresql_server.new_url()


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDBServer]:
    """One MariaDB server for the run; tests take databases of it (`mariadb_url`)."""
    pytest.importorskip("pymysql")
    with MariaDBServer() as server:
        yield server


@pytest.fixture
def mariadb_url(mariadb_server: MariaDBServer) -> str:
    """An empty database, as an SQLAlchemy URL."""
    return mariadb_server.new_url()


@pytest.fixture(scope="session")
def memcached_server() -> Iterator[MemcachedServer]:
    """One memcached server for the run."""
    with MemcachedServer() as server:
        yield server


@pytest.fixture
def memcached_url(memcached_server: MemcachedServer) -> str:
    """An empty memcached, as a result back-end URL."""
    memcached_server.flush()
    return memcached_server.url
