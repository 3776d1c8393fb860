"""Stores and reads results in many stores, with whatever ``import celery`` finds.

``store_client.py STORES VERB``: STORES is a file of settings by store, VERB one of write, read,
begin and end, which share the work between two implementations. Prints an outcome for each store.
"""

import json
import os
import sys
import traceback

with open(sys.argv[1]) as file:
    STORES = json.load(file)
for store in STORES.values():
    os.environ.update(store.get("env", {}))

from celery import Celery, signature  # noqa: E402
from celery.app.task import Context  # noqa: E402

VALUE = {"a": [1, None, "ü"]}
ERROR_ARGUMENTS = ("k", 3)
TRACEBACK = "Traceback: here"


def allow_emulated_firestore():
    """Answer for the administration of Firestore, which can't be pointed at an emulator."""
    from google.cloud import firestore_admin_v1 as admin

    state = admin.types.Field.TtlConfig.State.ACTIVE

    class Client:
        def __init__(self, *args, **kwargs):
            """Connect to nothing."""

        def get_field(self, *args, **kwargs):
            return admin.types.Field(ttl_config={"state": state})

    admin.FirestoreAdminClient = Client


def set_django_up(folder):
    import django
    from django.conf import settings

    if settings.configured:
        return
    settings.configure(
        INSTALLED_APPS=["django_celery_results"],
        USE_TZ=True,
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": f"{folder}/results.sqlite"}
        },
    )
    django.setup()
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


def write(app, mine, theirs):
    """Store results of every kind."""
    backend = app.backend
    child = app.AsyncResult(f"{mine}-child")
    request = Context(id=f"{mine}-ok")
    request.children.append(child)
    backend.mark_as_done(f"{mine}-ok", VALUE, request=request)
    backend.mark_as_done(f"{mine}-gone", 1)
    backend.mark_as_failure(f"{mine}-bad", KeyError(*ERROR_ARGUMENTS), TRACEBACK)
    backend.store_result(f"{mine}-now", {"pid": 1}, "STARTED")
    members = [app.AsyncResult(f"{mine}-ok"), app.AsyncResult(f"{mine}-bad")]
    try:
        app.GroupResult(f"{mine}-group", members).save()
    except (AttributeError, NotImplementedError):
        return {"group": "none"}
    return {"group": "saved"}


def read(app, mine, theirs):
    """Read what the other one has stored, and forget a part of it."""
    good, bad = app.AsyncResult(f"{theirs}-ok"), app.AsyncResult(f"{theirs}-bad")
    now, gone = app.AsyncResult(f"{theirs}-now"), app.AsyncResult(f"{theirs}-gone")
    error = bad.result
    try:
        group = app.GroupResult.restore(f"{theirs}-group")
        members = [member.id for member in group]
    except (AttributeError, NotImplementedError, TypeError):
        members = []
    before = gone.state
    gone.forget()
    return {
        "value": good.get(timeout=20),
        "children": [child.id for child in good.children or []],
        "date": str(good.date_done)[:4],
        "error": [bad.state, type(error).__name__, list(error.args), bad.traceback],
        "now": [now.state, now.info],
        "group": members,
        "forgotten": [before, app.AsyncResult(f"{theirs}-gone").state],
    }


def body_of(app, group):
    # Everybody has to make the same.
    body = signature("stores.body", app=app, queue=f"{group}-bodies")
    body.freeze(f"{group}-body")
    return body


def part(app, group, number):
    request = Context(
        id=f"{group}-{number}",
        group=group,
        group_index=number,
        chord=dict(body_of(app, group)),
        root_id=f"{group}-0",
        children=[],
    )
    app.backend.mark_as_done(f"{group}-{number}", number * 10, request=request)


def begin(app, mine, theirs):
    """Begin a chord, and end the first part of it."""
    group = f"{mine}-chord"
    results = [app.AsyncResult(f"{group}-{number}") for number in range(2)]
    # As a chord does when it is called.
    app.backend.set_chord_size(group, chord_size=len(results))
    app.backend.apply_chord((group, results), body_of(app, group))
    part(app, group, 0)
    return {}


def end(app, mine, theirs):
    """End the last part of the chord of the other one; return what its body is called with."""
    group = f"{theirs}-chord"
    part(app, group, 1)
    with app.connection_for_read() as connection:
        queue = connection.SimpleQueue(f"{group}-bodies")
        message = queue.get(timeout=20)
        message.ack()
        try:
            queue.get(block=False)
            more = True
        except queue.Empty:
            more = False
        queue.close()
    args, _, _ = message.payload
    return {"body": args, "more": more}


def main():
    verb = {"write": write, "read": read, "begin": begin, "end": end}[sys.argv[2]]
    is_ours = bool(os.environ.get("STORES_OURS"))
    mine, theirs = ("ours", "theirs") if is_ours else ("theirs", "ours")
    outcomes = {}
    for name, store in STORES.items():
        if sys.argv[2] in {"begin", "end"} and not store.get("counts"):
            continue
        try:
            if name == "gcs":
                allow_emulated_firestore()
            if name == "django-db":
                set_django_up(store["folder"])
            app = Celery(name, set_as_current=False)
            app.conf.update(store["conf"])
            outcomes[name] = verb(app, f"{name}-{mine}", f"{name}-{theirs}")
        except Exception:
            outcomes[name] = {"failed": traceback.format_exc(limit=-4)}
    print("\n" + json.dumps(outcomes))
    sys.stdout.flush()
    # Drivers leave threads behind that nobody ends.
    os._exit(0)


main()
