"""Results in files."""

from __future__ import annotations

import json
import os

import pytest

from celery import Celery
from celery.backends.filesystem import (
    E_NO_PATH_SET,
    E_PATH_INVALID,
    E_PATH_NON_CONFORMING_SCHEME,
    FilesystemBackend,
)
from celery.exceptions import ImproperlyConfigured


def make(url, **settings):
    app = Celery("files", broker="memory://", set_as_current=False)
    app.conf.update(settings)
    return FilesystemBackend(url, app=app)


def test_a_file_is_named_as_its_key_and_holds_the_document(tmp_path):
    """B-BACK-021: the JSON document, in a file named as the Redis key."""
    backend = make(f"file://{tmp_path}")
    backend.mark_as_done("the-id", 4)

    document = json.loads((tmp_path / "celery-task-meta-the-id").read_text())
    assert (document["status"], document["result"], document["task_id"]) == ("SUCCESS", 4, "the-id")
    assert os.listdir(tmp_path) == ["celery-task-meta-the-id"]


def test_localhost_may_stand_in_the_url(tmp_path):
    backend = make(f"file://localhost{tmp_path}")
    backend.mark_as_done("a", 4)

    assert (tmp_path / "celery-task-meta-a").exists()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        (None, E_NO_PATH_SET),
        ("file://", E_NO_PATH_SET),
        ("http://x/y", E_PATH_NON_CONFORMING_SCHEME),
        ("file://elsewhere/x", E_PATH_NON_CONFORMING_SCHEME),
        ("file:///no/such/folder", E_PATH_INVALID),
        ("file:///proc", E_PATH_INVALID),
    ],
)
def test_a_bad_path_is_explained(url, text):
    """B-BACK-003: ImproperlyConfigured about path and permissions."""
    with pytest.raises(ImproperlyConfigured) as error:
        make(url)

    assert str(error.value).startswith(text)


@pytest.mark.parametrize("task_id", ["../outside", "a/b", "/etc/x", "nul\x00", "%2F", "ümlaut"])
def test_an_id_cannot_lead_out_of_the_folder(tmp_path, task_id):
    folder = tmp_path / "results"
    folder.mkdir()
    backend = make(f"file://{folder}")
    backend.mark_as_done(task_id, 4)

    assert backend.get_result(task_id) == 4
    assert len(os.listdir(folder)) == 1
    assert os.listdir(tmp_path) == ["results"]
    backend.forget(task_id)
    assert os.listdir(folder) == []


def test_the_clean_up_deletes_what_has_expired_and_nothing_else(tmp_path):
    """B-BACK-022: cleaned by backend_cleanup."""
    backend = make(f"file://{tmp_path}", result_expires=3600)
    backend.mark_as_done("old", 4)
    backend.mark_as_done("new", 4)
    (tmp_path / "somebody-else").write_text("x")
    for name in ("celery-task-meta-old", "somebody-else"):
        os.utime(tmp_path / name, (1, 1))
    backend.cleanup()

    assert sorted(os.listdir(tmp_path)) == ["celery-task-meta-new", "somebody-else"]


def test_a_folder_without_hard_links_works(tmp_path, monkeypatch):
    def refuse(*args):
        raise PermissionError("no links here")

    monkeypatch.setattr("celery.backends.filesystem.os.link", refuse)
    backend = make(f"file://{tmp_path}")
    backend.mark_as_done("a", "first")
    backend.mark_as_done("a", "second")

    assert backend.get_result("a") == "first"
    assert os.listdir(tmp_path) == ["celery-task-meta-a"]
