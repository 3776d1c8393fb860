"""Result documents: fields, order, errors as plain data, compression."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, strategies as st
from kombu.utils import json as kombu_json

from celery._protocol import meta
from celery.exceptions import ChordError, Reject, SecurityError, TaskError, TaskRevokedError

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "golden" / "result_documents.json").read_text(encoding="utf-8")
)
DOCUMENTS = GOLDEN["documents"]


class Refuses(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def plain(error):
    return meta.error_document(error, kombu_json.dumps)


def rebuilt(name, module, message=("x",)):
    return meta.error_from_document(
        {"exc_type": name, "exc_module": module, "exc_message": list(message)}
    )


# -- Recorded documents

#: What ``result_extended`` adds, before the stamps.
EXTENDED_FIELDS = ("name", "args", "kwargs", "worker", "retries", "queue")


@pytest.mark.parametrize("case", DOCUMENTS)
def test_a_document_is_built_field_by_field_as_recorded(case):
    """B-RES-001, B-RES-002: the same fields, values and order as the recorded ones."""
    recorded = DOCUMENTS[case]
    extras = {name: recorded[name] for name in EXTENDED_FIELDS if name in recorded}

    built = meta.task_document(
        recorded["task_id"],
        recorded["status"],
        recorded["result"],
        recorded["traceback"],
        recorded["children"],
        recorded["date_done"],
        recorded.get("group_id"),
        recorded.get("parent_id"),
        extras or None,
    )

    assert built == recorded
    assert list(built) == list(recorded)
    assert kombu_json.dumps(built) == json.dumps(recorded)


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("failure", ValueError("boom")),
        ("retry", KeyError("again")),
        ("chord body after a failed header", ChordError("ValueError('boom')")),
        ("revoked", TaskRevokedError("expired")),
        ("rejected without requeue", Reject("no", False)),
    ],
)
def test_an_error_is_written_and_read_as_recorded(case, error):
    """B-RES-006, B-RES-008: exc_type, exc_message, exc_module, in this order."""
    recorded = DOCUMENTS[case]["result"]

    assert plain(error) == recorded
    assert list(plain(error)) == list(recorded)
    read = meta.error_from_document(recorded)
    assert type(read) is type(error)
    assert read.args == error.args


def test_a_group_is_wrapped_as_recorded():
    """B-RES-002: {"result": [[id, parent], [members]]}."""
    recorded = GOLDEN["group_document"]

    assert meta.group_document(recorded["result"]) == recorded


# -- Errors


def test_an_unknown_class_is_made_up_under_its_name():
    """B-RES-006: in celery.exceptions, with the arguments."""
    error = rebuilt("NoSuchError", "no.such.module", ["a", 1])

    assert type(error).__name__ == "NoSuchError"
    assert type(error).__module__ == "celery.exceptions"
    assert error.args == ("a", 1)


def test_a_class_that_has_gone_from_its_module_is_made_up():
    """B-RES-006."""
    assert type(rebuilt("GoneError", "celery.exceptions")).__name__ == "GoneError"


def test_a_document_without_a_module_gets_a_class_of_that_name():
    """B-RES-006."""
    assert type(rebuilt("ValueError", None)).__name__ == "ValueError"


def test_a_constructor_that_refuses_gives_a_plain_exception():
    """B-RES-006: Exception("<class …>(args)")."""
    error = rebuilt("Refuses", __name__)

    assert type(error) is Exception
    assert str(error) == f"{Refuses}(['x'])"


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "exec"),
        ("builtins", "int"),
        ("builtins", "__import__"),
        ("os", "path.join"),
        ("sys", "modules"),
        ("celery._protocol.meta", "GOLDEN"),
    ],
)
def test_what_is_no_exception_class_is_refused(module, name):
    """B-RES-007: SecurityError that names it and the payload."""
    found = meta._find_class(name, module)
    if found is None:
        assert isinstance(rebuilt(name, module), Exception)
        return
    with pytest.raises(SecurityError, match=f"Expected an exception class, got {module}.{name}"):
        rebuilt(name, module)


def test_nothing_is_called_on_the_way(tmp_path):
    """B-RES-007."""
    proof = tmp_path / "proof"
    with pytest.raises(SecurityError):
        rebuilt("system", "os", [f"touch {proof}"])

    assert not proof.exists()


def test_attributes_that_modules_compute_are_not_looked_up(monkeypatch):
    asked = []
    module = type(sys)("computing")
    module.__getattr__ = asked.append
    monkeypatch.setitem(sys.modules, "computing", module)

    assert type(rebuilt("Anything", "computing")).__name__ == "Anything"
    assert asked == []


def test_programs_are_not_imported():
    before = set(sys.modules)
    rebuilt("Boom", "this.__main__")
    rebuilt("Boom", "idlelib.__main__")

    assert "idlelib.__main__" not in set(sys.modules) - before


@pytest.mark.parametrize(
    "module", ["", ".", "..os", "os;print", "a b", "\x00", "../x", 7, ["os"], {"a": 1}]
)
def test_odd_module_names_are_not_imported(module):
    assert isinstance(rebuilt("Odd", module), Exception)


@pytest.mark.parametrize("name", ["", ".", "a b", "\x00", "x.", "évil()"])
def test_odd_class_names_do_not_become_classes(name):
    assert type(rebuilt(name, "builtins")) is Exception


@pytest.mark.parametrize("value", ["text", 5, [1], {"current": 3}, {"exc_type": 5}])
def test_a_failed_state_with_a_value_of_its_own_is_readable(value):
    error = meta.error_from_document(value)

    assert type(error) is TaskError
    assert error.args == (value,)


@pytest.mark.parametrize(("message", "args"), [("text", ("text",)), (None, ()), ([], ())])
def test_messages_of_older_documents_are_understood(message, args):
    error = meta.error_from_document(
        {"exc_type": "ValueError", "exc_module": "builtins", "exc_message": message}
    )

    assert type(error) is ValueError
    assert error.args == args


def test_a_local_class_is_named_without_its_function():
    class LocalError(Exception):
        pass

    assert plain(LocalError())["exc_type"] == "LocalError"


def test_base_exceptions_are_written_too():
    """B-TASK-055."""
    assert plain(KeyboardInterrupt())["exc_type"] == "KeyboardInterrupt"
    assert type(meta.error_from_document(plain(SystemExit(3)))) is SystemExit


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["exc_type", "exc_module", "exc_message"]), json_values))
def test_any_document_gives_an_error_or_is_refused(document):
    try:
        error = meta.error_from_document(document)
    except SecurityError:
        return
    assert isinstance(error, BaseException)


@given(st.sampled_from([ValueError, KeyError, OSError, RuntimeError]), st.lists(st.text()))
def test_errors_with_plain_arguments_survive_the_round_trip(cls, args):
    error = cls(*args)
    read = meta.error_from_document(json.loads(json.dumps(plain(error))))

    assert type(read) is type(error)
    assert read.args == error.args


# -- Extended fields


def test_extended_fields_read_what_the_request_has():
    """B-RES-001: with stamps by their names."""
    request = SimpleNamespace(
        task="t",
        args=[1],
        kwargs={},
        hostname="w",
        retries=2,
        delivery_info={"routing_key": "q"},
        stamped_headers=["s", "absent"],
        stamps={"s": ["v"], "unnamed": 1},
    )

    assert meta.extended_fields(request) == {
        "name": "t",
        "args": [1],
        "kwargs": {},
        "worker": "w",
        "retries": 2,
        "queue": "q",
        "stamped_headers": ["s", "absent"],
        "s": ["v"],
    }


def test_extended_fields_of_an_empty_request_are_none():
    assert set(meta.extended_fields(SimpleNamespace()).values()) == {None}


# -- Compression


@given(st.binary(), st.sampled_from(["gzip", "bzip2", "zlib"]))
def test_compression_is_undone_by_what_is_recorded(payload, method):
    """B-RES-013."""
    packed = meta.compress(payload, method)

    assert packed.startswith(meta.COMPRESSED_MARK)
    assert meta.decompress(packed) == payload
    assert meta.decompress(memoryview(packed)) == payload


def test_the_mark_is_the_recorded_one():
    """B-RES-013: the value seen in Redis."""
    assert GOLDEN["compressed_mark"].encode() == meta.COMPRESSED_MARK
    assert meta.compress("{}", "zlib").startswith(
        b"\x00celery-compressed\x00application/x-gzip\x00"
    )


@pytest.mark.parametrize("payload", [b"{}", "{}", b"", b"\x80\x04."])
def test_what_was_not_compressed_stays(payload):
    assert meta.decompress(payload) == payload


# -- Chords


def test_a_part_is_kept_as_recorded():
    """B-RES-005: [1, task id, state, result]."""
    part = meta.chord_part("id", "SUCCESS", 2)

    assert json.dumps(part) == '[1, "id", "SUCCESS", 2]'
    assert meta.chord_parts([part]) == [("id", "SUCCESS", 2)]
