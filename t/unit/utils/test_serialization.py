from __future__ import annotations

import pickle
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given, strategies as st

from celery.utils.serialization import (
    UnpickleableExceptionWrapper,
    b64decode,
    b64encode,
    create_exception_cls,
    ensure_serializable,
    find_pickleable_exception,
    get_pickleable_etype,
    get_pickleable_exception,
    get_pickled_exception,
    jsonify,
    raise_with_context,
    strtobool,
    subclass_exception,
)


class Importable(KeyError):
    pass


class NeedsTwo(Exception):
    def __init__(self, one, two):
        super().__init__(one)
        self.two = two


def local_error(*args, base=Exception):
    return type("Local", (base,), {"__module__": "nowhere"})(*args)


def test_what_pickles_is_left_alone():
    error = Importable("x")
    assert get_pickleable_exception(error) is error
    assert get_pickled_exception(error) is error


def test_what_does_not_pickle_is_wrapped_and_looks_the_same():
    """B-TASK-061: ``UnpickleableExceptionWrapper('module', 'Local', args, repr)``."""
    wrapper = get_pickleable_exception(local_error("x", {1, 2}))

    assert isinstance(wrapper, UnpickleableExceptionWrapper)
    copy = pickle.loads(pickle.dumps(wrapper))
    assert copy.args == ("nowhere", "Local", ("x", {1, 2}), "Local('x', {1, 2})")
    assert str(copy) == "Local('x', {1, 2})"
    restored = get_pickled_exception(copy)
    assert type(restored).__name__ == "Local"
    assert type(restored).__module__ == "nowhere"
    assert restored.args == ("x", {1, 2})


def test_the_nearest_base_that_pickles_stands_in():
    error = local_error("x", base=Importable)
    substitute = get_pickleable_exception(error)

    assert type(substitute) is Importable
    assert substitute.args == ("x",)
    assert get_pickleable_etype(type(error)) is Importable
    assert get_pickleable_etype(type(local_error())) is Exception


def test_an_exception_that_cannot_be_built_from_its_args_is_wrapped():
    wrapper = get_pickleable_exception(NeedsTwo("a", "b"))

    assert isinstance(wrapper, UnpickleableExceptionWrapper)
    assert wrapper.exc_cls_name == "NeedsTwo"
    assert find_pickleable_exception(NeedsTwo("a", "b")) is None


def test_arguments_that_do_not_pickle_become_text():
    wrapper = UnpickleableExceptionWrapper.from_exception(local_error(lambda: 1, 2))

    first, second = pickle.loads(pickle.dumps(wrapper)).exc_args
    assert "function" in first
    assert second == 2


def test_the_traceback_and_cause_stay_with_a_wrapped_exception():
    def fail():
        raise local_error("x") from KeyError("cause")

    with pytest.raises(Exception, match="x") as caught:
        fail()
    wrapper = UnpickleableExceptionWrapper.from_exception(caught.value)

    assert wrapper.__traceback__ is caught.value.__traceback__
    assert isinstance(wrapper.__cause__, KeyError)


def test_rebuilding_makes_a_class_and_runs_nothing():
    """B-TASK-063: a generated class of that name when not importable."""
    ran = []
    wrapper = UnpickleableExceptionWrapper("os", "system", ["echo"], "text")
    restored = wrapper.restore()

    assert isinstance(restored, Exception)
    assert (type(restored).__module__, type(restored).__name__) == ("os", "system")
    assert restored.args == ("echo",)
    assert not ran


def test_exception_classes_are_made():
    assert issubclass(create_exception_cls("E", "m"), Exception)
    assert issubclass(create_exception_cls("E", "m", KeyError), KeyError)
    assert subclass_exception("E", KeyError, "m").__module__ == "m"


def test_items_that_an_encoder_refuses_become_text():
    def encoder(item):
        if not isinstance(item, int):
            raise TypeError

    assert ensure_serializable([1, {2}], encoder) == (1, "{2}")


@given(st.binary())
def test_base64_comes_back(data):
    assert b64decode(b64encode(data)) == data
    assert isinstance(b64encode(data), str)


def test_base64_takes_text():
    assert b64encode("é") == "w6k="
    assert b64decode("w6k=") == "é".encode()


@pytest.mark.parametrize(
    ("term", "value"),
    [("yes", True), ("0", False), ("OFF", False), ("True", True), (1, 1), (None, None)],
)
def test_words_are_booleans(term, value):
    assert strtobool(term) == value


def test_other_words_are_not():
    with pytest.raises(TypeError, match="'maybe' is not a boolean"):
        strtobool("maybe")
    assert strtobool("ja", {"ja": True}) is True


def test_values_become_what_json_knows():
    uid = UUID(int=1)
    utc = datetime(2020, 1, 1, 12, 0, 0, 123456, UTC)
    assert jsonify(
        {
            "a": (1, [2.5, None]),
            "when": utc,
            "naive": datetime(2020, 1, 1),
            "day": date(2020, 1, 1),
            "time": time(1, 2),
            "span": timedelta(seconds=5),
            "money": Decimal("1.5"),
            "id": uid,
        }
    ) == {
        "a": [1, [2.5, None]],
        "when": "2020-01-01T12:00:00.123Z",
        "naive": "2020-01-01T00:00:00",
        "day": "2020-01-01",
        "time": "01:02:00",
        "span": "0:00:05",
        "money": "1.5",
        "id": str(uid),
    }


def test_what_json_does_not_know_is_converted_or_refused():
    assert jsonify([{1}], unknown_type_filter=sorted) == [[1]]
    assert jsonify({"a": 1, "_b": 2}, keyfilter=lambda key: key[0] != "_") == {"a": 1}
    with pytest.raises(ValueError, match="key 'x'"):
        jsonify({"x": {1}})


def test_an_error_names_the_one_that_is_being_handled_as_its_cause():
    def fail():
        try:
            raise KeyError("first")
        except KeyError:
            raise_with_context(ValueError("second"))

    with pytest.raises(ValueError, match="second") as caught:
        fail()
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ValueError, match="alone") as caught:
        raise_with_context(ValueError("alone"))
    assert caught.value.__cause__ is None
