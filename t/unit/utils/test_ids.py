"""Ids of tasks and groups."""

from __future__ import annotations

from uuid import RFC_4122, UUID

from celery.utils.ids import new_id


def test_an_id_is_a_random_uuid_as_text():
    ids = [new_id() for _ in range(200)]
    assert len(set(ids)) == 200
    for text in ids:
        parsed = UUID(text)
        assert str(parsed) == text
        assert (parsed.version, parsed.variant) == (4, RFC_4122)


def test_every_digit_but_those_of_version_and_variant_varies():
    columns = list(zip(*(new_id() for _ in range(300)), strict=True))
    fixed = {i for i, column in enumerate(columns) if len(set(column)) == 1}
    assert fixed == {8, 13, 14, 18, 23}
    assert set(columns[19]) == set("89ab")
