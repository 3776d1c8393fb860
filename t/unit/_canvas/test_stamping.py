"""Stamps and the visitors that put them on."""

from __future__ import annotations

import pytest

from celery.canvas import StampingVisitor, chain, chord, group


class Everywhere(StampingVisitor):
    """Stamps each part with the name of the hook that saw it."""

    def __init__(self):
        self.ended = []

    def on_group_start(self, group, **headers):
        return {"in_group": 1}

    def on_group_end(self, group, **headers):
        self.ended.append("group")

    def on_chain_start(self, chain, **headers):
        return {"in_chain": 1}

    def on_chain_end(self, chain, **headers):
        self.ended.append("chain")

    def on_signature(self, sig, **headers):
        return {"sig": sig["task"]}

    def on_chord_header_start(self, sig, **header):
        return {"header": 1}

    def on_chord_header_end(self, sig, **header):
        self.ended.append("header")

    def on_chord_body(self, sig, **header):
        return {"body": 1}

    def on_callback(self, callback, **header):
        return {"callback": 1}

    def on_errback(self, errback, **header):
        return {"errback": 1}


def stamps(sig):
    return {name: sig.options[name] for name in sig.options.get("stamped_headers", ())}


def test_stamps_are_options_with_a_list_of_their_names(t, worker):
    """B-CANV-073: and the message has the mapping and the list."""
    sig = t.add.s(1, 2)
    assert sig.stamp(customer=7) is sig
    assert sig.options == {"customer": 7, "stamped_headers": ["customer"]}
    sig.apply_async()
    (sent,) = worker.sent()
    assert sent.headers["stamps"] == {"customer": 7}
    assert sent.headers["stamped_headers"] == ["customer"]


def test_a_visitor_has_to_say_what_is_stamped_on_a_task():
    """B-CANV-074: on_signature is abstract."""
    with pytest.raises(TypeError):
        StampingVisitor()


def test_each_part_gets_the_stamps_of_what_it_is_in(t):
    """B-CANV-074, B-CANV-076: hooks for groups, chains, headers, bodies, links."""
    visitor = Everywhere()
    plain = t.ident.s()
    plain.link(t.note.s())
    plain.link_error(t.by_id.s())
    steps = chain(plain, group(t.add.s(1), t.add.s(2)))
    steps.stamp(visitor)
    assert stamps(steps.tasks[0]) == {"in_chain": 1, "sig": "p.ident"}
    assert stamps(plain.options["link"][0]) == {"in_chain": 1, "callback": 1, "sig": "p.note"}
    assert stamps(plain.options["link_error"][0]) == {"in_chain": 1, "errback": 1, "sig": "p.by_id"}
    for member in steps.tasks[1].tasks:
        assert stamps(member) == {"in_chain": 1, "in_group": 1, "sig": "p.add"}
    assert visitor.ended == ["group", "chain"]


def test_a_body_gets_the_stamps_of_header_start_body_and_signature(t):
    """B-CANV-076: the header tasks those of the header and their own."""
    visitor = Everywhere()
    sig = chord([t.ident.s(1)], t.tsum.s())
    sig.stamp(visitor)
    assert stamps(sig.tasks[0]) == {"header": 1, "sig": "p.ident"}
    assert stamps(sig.body) == {"header": 1, "body": 1, "sig": "p.tsum"}
    assert visitor.ended == ["header"]


def test_by_default_a_header_is_a_group_to_a_visitor(t):
    class Groups(StampingVisitor):
        def on_group_start(self, group, **headers):
            return {"members": len(group)}

        def on_signature(self, sig, **headers):
            return {}

    sig = chord([t.ident.s(1), t.ident.s(2)], t.tsum.s())
    sig.stamp(Groups())
    assert stamps(sig.tasks[0]) == stamps(sig.body) == {"members": 2}


def test_only_listed_keys_are_stamps(t, worker):
    """B-CANV-074, B-CANV-075: the others stay plain options and out of the message's stamps."""

    class Listing(StampingVisitor):
        def on_signature(self, sig, **headers):
            return {"stamp": 1, "priority": 5, "stamped_headers": ["stamp"]}

    sig = t.add.s(1, 2)
    sig.stamp(Listing())
    assert sig.options == {"stamp": 1, "priority": 5, "stamped_headers": ["stamp"]}
    sig.apply_async()
    (sent,) = worker.sent()
    assert sent.headers["stamps"] == {"stamp": 1}
    assert sent.properties["priority"] == 5


def test_stamping_again_replaces_or_appends(t):
    """B-CANV-075: the newest value first when they accumulate."""
    sig = t.add.s(1, 2).stamp(a=1)
    assert stamps(sig.stamp(a=2)) == {"a": 2}
    assert stamps(sig.stamp(append_stamps=True, a=3)) == {"a": [3, 2]}
    assert stamps(sig.stamp(append_stamps=True, b=1)) == {"a": [3, 2], "b": 1}


def test_links_made_after_stamping_have_no_stamp(t):
    """B-CANV-077: and those made before have."""
    sig = t.add.s(1, 2)
    sig.link(t.note.s())
    sig.stamp(a=1)
    sig.link_error(t.by_id.s())
    assert stamps(sig.options["link"][0]) == {"a": 1}
    assert stamps(sig.options["link_error"][0]) == {}


def test_links_in_plain_data_are_stamped_as_well(t):
    sig = t.add.s(1, 2)
    sig.link(dict(t.note.s()))
    sig.stamp(a=1)
    assert stamps(sig.options["link"][0]) == {"a": 1}


def test_stamps_pass_on_to_links_and_chains(t, worker):
    """B-CANV-079: tasks spawned through links and chains inherit them."""
    sig = t.ident.s(1)
    sig.stamp(a=1)
    sig.link(t.note.s())
    chain(sig, t.ident.s().stamp(b=2)).apply_async()
    first, *spawned = worker.run()
    assert first.headers["stamps"] == {"a": 1}
    by_task = {m.task: m.headers["stamps"] for m in spawned}
    assert by_task == {"p.note": {"a": 1}, "p.ident": {"a": 1, "b": 2}}


def test_stamps_pass_on_to_a_replacement(t, app, worker):
    """B-CANV-079: a replaced task's stamps go with what replaces it."""

    @app.task(name="p.replacing", bind=True, shared=False)
    def replacing(self):
        return self.replace(t.ident.s(1))

    replacing.s().stamp(a=1).apply_async()
    assert [m.headers["stamps"] for m in worker.run()] == [{"a": 1}, {"a": 1}]


def test_merging_options_keeps_the_stamps_of_both(t, worker):
    t.add.s(1, 2).stamp(a=1).apply_async(b=2, stamped_headers=["b"])
    (sent,) = worker.sent()
    assert sent.headers["stamps"] == {"a": 1, "b": 2}


def test_stamps_are_stored_with_extended_results(t, app, worker):
    """B-CANV-078: each stamp is a key of the document, beside stamped_headers."""
    app.conf.result_extended = True
    result = t.ident.s(1).stamp(customer=7).apply_async()
    worker.run()
    meta = app.backend.get_task_meta(result.id)
    assert (meta["customer"], meta["stamped_headers"]) == (7, ["customer"])
