from __future__ import annotations

from types import SimpleNamespace

from celery.app.annotations import MapAnnotation, prepare, resolve_all

TASK = SimpleNamespace(name="p.add")


class Custom:
    def annotate(self, task):
        return {"seen": task.name}


def resolved(annotations):
    merged = {}
    for attributes in resolve_all(prepare(annotations), TASK):
        merged.update(attributes)
    return merged


def test_no_annotations_change_nothing():
    assert prepare(None) == ()
    assert resolved(None) == {}


def test_an_exact_name_and_the_star_combine_and_the_name_wins():
    """B-APP-065: '*' and an exact name combine."""
    annotations = {"*": {"a": 1, "b": 1}, "p.add": {"b": 2}, "p.mul": {"b": 3}}

    assert resolved(annotations) == {"a": 1, "b": 2}


def test_annotations_are_a_mapping_or_a_list_of_mappings_and_objects():
    """B-APP-065: dicts, or objects with annotate(task) returning a dict."""
    assert resolved([{"p.add": {"a": 1}}, Custom(), f"{__name__}.Custom"]) == {
        "a": 1,
        "seen": "p.add",
    }
    assert resolved(Custom()) == {"seen": "p.add"}


def test_annotate_any_is_optional_and_may_stand_beside_annotate():
    """B-APP-065: optionally annotate_any()."""

    class Any(Custom):
        def annotate_any(self):
            return {"any": True}

    assert resolved(Any()) == {"any": True, "seen": "p.add"}


def test_a_map_gives_copies():
    source = {"*": {"a": 1}}
    MapAnnotation(source).annotate_any()["a"] = 2

    assert source == {"*": {"a": 1}}
    assert MapAnnotation(source).annotate(TASK) is None
