"""The package as users see it: lazy, complete, quick to import, and free of what is gone."""

from __future__ import annotations

import ast
import dis
import importlib
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType

import pytest

import celery
from celery import _state
from celery.result import AsyncResult
from t.harness.inline import memory_app


@pytest.fixture
def app():
    current = _state._tls.current_app
    app = memory_app()
    app.set_current()
    yield app
    _state._set_current_app(current)


def test_every_name_loads():
    for name in celery.__all__:
        assert getattr(celery, name) is not None
    assert set(celery.__all__) <= set(dir(celery))
    with pytest.raises(AttributeError):
        celery.no_such_name


def test_importing_the_package_loads_nothing_heavy():
    program = (
        "import sys, celery; print([m for m in ('kombu', 'celery.app.base') if m in sys.modules])"
    )

    assert _output(program) == "[]"


#: What takes long to import, and nobody needs to make an app and declare tasks.
HEAVY = {
    "amqp", "asyncio", "billiard", "click", "ctypes", "dataclasses", "decimal", "email",
    "importlib.metadata", "inspect", "json", "kombu.exceptions", "kombu.utils", "multiprocessing",
    "pickle", "pprint", "random", "redis", "socket", "ssl", "subprocess", "urllib", "uuid", "vine",
    "zoneinfo",
}  # fmt: skip


def test_an_app_with_tasks_loads_nothing_heavy():
    program = f"""
import sys
before = set(sys.modules)
from celery import Celery, chain, chord, group, shared_task, signature
app = Celery("a", broker="redis://", backend="redis://")
app.conf.task_ignore_result = True
app.autodiscover_tasks(["nobody"])

@app.task(bind=True, autoretry_for=(ValueError,))
def add(self, x, y):
    return x + y

@shared_task
def other():
    pass

print(sorted(({HEAVY!r} & set(sys.modules)) - before))
"""
    assert _output(program) == "[]"


def test_a_worker_loads_nothing_that_only_questions_need():
    """billiard has a parser of C do what one call of the C library does, in every child."""
    program = """
import os, sys
import celery.apps.worker, celery.concurrency.prefork
from celery import platforms
pid = os.fork()
if not pid:
    platforms.set_pdeathsig("KILL")
    print(sorted({"psutil", "pycparser", "cffi.cparser"} & set(sys.modules)), flush=True)
    os._exit(0)
os.waitpid(pid, 0)
"""
    assert _output(program) == "[]"


def test_the_version_is_told_without_what_talks_to_brokers():
    program = """
import sys
before = set(sys.modules)
sys.argv = ["celery", "--version"]
from celery.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code
heavy = {"amqp", "asyncio", "billiard", "celery.app.base", "email", "hashlib", "kombu", "logging",
    "multiprocessing", "pathlib", "redis", "socket", "ssl", "subprocess", "urllib", "vine"}
print(sorted((heavy & set(sys.modules)) - before))
"""
    assert _output(program).splitlines()[-1] == "[]"


@pytest.mark.parametrize(
    ("transport", "others"),
    [("amqp", {"packaging", "redis"}), ("redis", {"kombu.transport.pyamqp"})],
)
def test_a_worker_loads_what_its_broker_needs_and_no_other(transport: str, others: set[str]):
    """Neither other drivers, nor parts of the standard library that nothing of a start calls."""
    idle = {
        "concurrent.futures.process", "cProfile", "http", "multiprocessing.pool", "pdb", "sqlite3",
        "tkinter", "unittest", "xml", "xmlrpc", "celery.bin.shell", "celery.contrib.rdb",
        "celery.events.state", "celery.beat", "celery._beat", "kombu.transport.memory",
    }  # fmt: skip
    program = f"""
import sys
before = set(sys.modules)
from celery import Celery
import celery.apps.worker, celery.bin.worker, celery.concurrency.prefork
import celery.worker.consumer.consumer, celery._transport.{transport}
print(sorted(({idle | others!r} & set(sys.modules)) - before))
"""
    assert _output(program) == "[]"


def _output(program: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    ).stdout.strip()


def test_the_version_has_its_parts():
    assert celery.VERSION[:3] == (5, 7, 0)
    assert celery.version_info == celery.VERSION
    assert celery.__version__ == "5.7.0"
    assert celery.VERSION_BANNER.startswith("5.7.0 (")


def test_the_package_pickles_as_itself():
    assert pickle.loads(pickle.dumps(celery)) is celery


def test_send_task_of_old_code_uses_the_current_app(app):
    """B-LEG-007: ``from celery.execute import send_task``; the package itself has none."""
    from celery.execute import send_task

    result = send_task("other.task", (1, 2))

    assert isinstance(result, AsyncResult)
    assert result.app is app
    assert not hasattr(celery, "send_task")


def test_modules_of_old_code_forward_to_the_current_app(app):
    """B-LEG-010: `registry`, `messaging` and `log`."""
    from celery.log import redirect_stdouts_to_logger, setup_logging_subsystem
    from celery.messaging import TaskConsumer, establish_connection, get_consumer_set
    from celery.registry import tasks

    assert "celery.chord" in tasks
    assert tasks["celery.chord"].app is app
    with establish_connection() as connection:
        consumer = TaskConsumer(connection)
        assert [queue.name for queue in consumer.queues] == [app.conf.task_default_queue]
        assert get_consumer_set(connection).queues
    assert redirect_stdouts_to_logger == app.log.redirect_stdouts_to_logger
    assert setup_logging_subsystem == app.log.setup_logging_subsystem


@pytest.mark.parametrize(
    "module",
    [
        "celery.task",
        "celery.task.http",
        "celery.task.base",
        "celery.task.sets",
        "celery.decorators",
        "celery.contrib.batches",
        "celery.contrib.methods",
        "celery.five",
        "celery.utils.timeutils",
        "celery.backends.amqp",
        "celery.utils.encoding",
    ],
)
def test_what_former_versions_removed_is_gone(module):
    """B-LEG-008, B-LEG-014: and says so as an ImportError."""
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module(module)


def test_periodic_task_classes_are_gone():
    """B-LEG-021."""
    for name in ("periodic_task", "PeriodicTask"):
        assert not hasattr(celery, name)


def test_subtask_is_signature(app):
    """B-LEG-006: as function and as method of tasks."""
    add = app.task(name="p.add", shared=False)(lambda x, y: x + y)

    assert celery.subtask is celery.signature
    sig = add.subtask((2, 2), countdown=10)
    assert (sig.args, sig.options) == ((2, 2), {"countdown": 10})
    assert sig.type is app.tasks["p.add"]


def test_ids_are_random_uuids():
    """B-UTIL-009."""
    import uuid

    one, two = celery.uuid(), celery.uuid()

    assert one != two
    assert isinstance(one, str)
    assert uuid.UUID(one).version == 4


@pytest.mark.parametrize(
    "argv",
    [
        ["celery", "worker", "-P", "gevent"],
        ["celery", "worker", "-Pgevent"],
        ["celery", "worker", "--pool", "gevent"],
        ["celery", "worker", "--pool=gevent"],
    ],
)
def test_green_pools_patch_before_anything_else(argv):
    patched = []
    celery.maybe_patch_concurrency(argv, patches={"gevent": lambda: patched.append(1)})
    celery.maybe_patch_concurrency(
        ["celery", "worker", "-P", "prefork"], patches={"gevent": lambda: patched.append(2)}
    )

    assert patched == [1]


def test_declaring_tasks_loads_nothing_that_sends_or_reads():
    """An app and its tasks are imported by every program; most of them do little more."""
    program = (
        "import sys\n"
        "from celery import Celery, chord, group\n"
        "app = Celery('x', broker='redis://')\n"
        "app.conf.task_ignore_result = True\n"
        "@app.task\n"
        "def task(): pass\n"
        "print(*sys.modules)"
    )
    loaded = _output(program).split()

    heavy = {"kombu.connection", "kombu.messaging", "kombu.common", "yaml", "asyncio", "redis"}
    assert not heavy & set(loaded)


def test_promises_are_evaluated_in_a_program_that_has_asked_for_nothing_else():
    program = (
        "from celery.utils.functional import first, firstmethod\n"
        "print(first(None, [None, 3]), firstmethod('bit_length')([3]))"
    )
    assert _output(program) == "3 2"


def test_functions_use_no_name_that_is_imported_for_type_checkers_alone():
    """A name that a module only offers on demand is none to its own functions."""
    wrong = []
    for path in sorted(Path(celery.__file__).parent.rglob("*.py")):
        source = path.read_text()
        imported = {
            alias.asname or alias.name.partition(".")[0]
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for statement in node.body
            for import_ in ast.walk(statement)
            if isinstance(import_, ast.Import | ast.ImportFrom)
            for alias in import_.names
        }
        module = compile(source, str(path), "exec", dont_inherit=True)
        wrong += [
            f"{path.name}: {code.co_name} uses {step.argval}"
            for code in _functions(module)
            for step in dis.get_instructions(code)
            if step.opname == "LOAD_GLOBAL" and step.argval in imported
        ]
    assert wrong == []


def _functions(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of all functions and classes in *code*."""
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield inner
            yield from _functions(inner)
