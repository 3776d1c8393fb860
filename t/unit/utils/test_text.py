from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

from celery.utils import text
from celery.utils.text import WhateverIO, abbr, abbrtask, pluralize, simple_format, truncate


def test_a_task_name_is_shortened_module_first():
    """B-UTIL-007: ``abbrtask('a.b.c.tasks.add', 10)``."""
    assert abbrtask("a.b.c.tasks.add", 10) == "a.b.[.]add"
    assert abbrtask("tasks.add", 10) == "tasks.add"
    assert abbrtask(None, 10) == "???"


def test_text_is_cut_at_a_word():
    """B-UTIL-007: ``truncate('hello world', 8)``."""
    assert truncate("hello world", 8) == "hello..."
    assert truncate("helloworld", 8) == "hellowor..."
    assert truncate("short", 8) == "short"
    assert truncate("long " * 100, 0) == "long " * 100


def test_nouns_have_a_plural():
    """B-UTIL-007: ``pluralize(2, 'node')``."""
    assert pluralize(2, "node") == "nodes"
    assert pluralize(1, "node") == "node"
    assert pluralize(0, "node") == "nodes"
    assert pluralize(1.5, "minute") == "minutes"


@given(st.text(), st.integers(3, 40))
def test_abbreviations_fit(string, width):
    assert len(abbr(string, width)) <= width


def test_lines_are_joined_filled_and_indented():
    assert text.join(["a", "", None, "b"], ",") == "a,b"
    assert text.indent("a\nb", 2) == "  a\n  b"
    assert text.dedent("    a\n      b\nc") == "a\n  b\nc"
    assert text.dedent_initial("  a", 2) == "a"
    assert text.fill_paragraphs("aa bb cc\ndd", 5) == "aa bb\ncc\ndd"
    assert text.ensure_newlines("a") == "a\n\n"
    assert text.ensure_newlines("a\n", 3) == "a\n\n\n"
    assert text.ensure_sep("-", "a--") == "a--"
    assert text.str_to_list("a,b") == ["a", "b"]
    assert text.str_to_list(["a"]) == ["a"]
    assert text.abbr("abcdef", 4, "") == "abcd"


def test_pretty_breaks_what_is_too_long():
    assert text.pretty([1, 2]) == "[1, 2]"
    assert text.pretty({"a": 1}).startswith("{\n")
    assert "'a': 1" in text.pretty({"a": 1})
    assert text.pretty((1, 2)) == "\n    (1, 2)"


def test_simple_formats_expand():
    keys = {"h": "host", "n": lambda: "name"}
    assert simple_format("%n@%h is 100%%", keys) == "name@host is 100%"
    assert simple_format("", keys) == ""
    assert simple_format(None, keys) is None
    with pytest.raises(ValueError, match="Unknown format %x"):
        simple_format("%x", keys)


def test_repetitions_are_removed_but_for_the_first():
    assert text.remove_repeating("tasks.", "tasks.add(tasks.mul)") == "tasks.add(mul)"
    assert text.remove_repeating("x", "abc") == "abc"
    assert (
        text.remove_repeating_from_task("proj.tasks.add", "proj.tasks.add(2), proj.tasks.add(3)")
        == "proj.tasks.add(2), add(3)"
    )
    assert text.match_case("abc", "XYZ") == "ABC"
    assert text.match_case("ABC", "xyz") == "abc"


def test_a_buffer_takes_text_and_bytes():
    buffer = WhateverIO(b"a")
    buffer.seek(1)
    buffer.write(b"b")
    buffer.write("c")
    assert buffer.getvalue() == "abc"
