"""How late ticks are, and what entries cost that only wait."""

from __future__ import annotations

import os
from collections import defaultdict
from itertools import pairwise

import pytest

from t.harness.worker import eventually
from t.integration.beat.test_takeover import IS_LONG, Beats

ENTRIES, EVERY = 100, 1.0
#: Seconds; the long form is the one that counts.
SPAN = 300 if IS_LONG else 4
#: Milliseconds within which 99 of 100 ticks are sent; beside other tests that says nothing of beat.
LATE_MS = 50


def percentile(values, share):
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def cpu_seconds(pid):
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.fixture
def beats(tmp_path, redis_url):
    opened = []

    def make(store, **kwargs):
        (tmp_path / "logs").mkdir()
        opened.append(Beats(redis_url, store, tmp_path / "logs", **kwargs))
        return opened[0]

    yield make
    for each in opened:
        each.close()


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["file", "redis"])
def test_a_hundred_entries_a_second_are_sent_once_each_and_in_time(
    beats, redis_url, tmp_path, kind
):
    """No drift: the n-th tick of an entry is due n intervals after it was first seen."""
    store = str(tmp_path / "schedule") if kind == "file" else redis_url
    made = beats(store, entries=(ENTRIES, EVERY))
    made.env["T_BEAT_TIMES"] = str(tmp_path / "times")
    process = made.start("-l", "WARNING")
    eventually(lambda: len(made.messages()) >= ENTRIES)
    before = cpu_seconds(process.pid)
    wanted = ENTRIES * (SPAN + 1)
    eventually(lambda: len(made.messages()) >= wanted, timeout_s=SPAN + 300)
    cost = (cpu_seconds(process.pid) - before) / (ENTRIES * SPAN)
    assert made.stop() == [0]

    times = defaultdict(list)
    for line in (tmp_path / "times").read_text().splitlines():
        number, moment = line.split()
        times[int(number)].append(float(moment))
    runs = made.store.load().runs
    late = []
    for number, moments in times.items():
        run = runs[f"entry-{number}"]
        # Counted back from the last one: had an interval started late, those before it would seem
        # to have come early.
        due = [run.at.timestamp() - n * EVERY for n in reversed(range(run.count))]
        late += [(moment - at) * 1000 for moment, at in zip(moments[1:], due[1:], strict=True)]
    ticks, lost, doubled = made.verdict()
    print(
        f"{kind}: {ticks} ticks in {SPAN} s, {len(lost)} lost, {len(doubled)} doubled;"
        f" {cost * 1e6:.0f} µs of CPU a tick; late by"
        f" p50 {percentile(late, 0.5):.1f} p99 {percentile(late, 0.99):.1f} most {max(late):.1f} ms"
    )
    assert (lost, doubled) == ({}, {})
    assert len(made.messages()) == ticks >= wanted
    assert set(times) == set(range(ENTRIES))
    for moments in times.values():
        assert all(earlier < later for earlier, later in pairwise(moments))
    if IS_LONG:
        assert percentile(late, 0.99) < LATE_MS
        # Beside other tests one may be late by a whole interval, and the next is left out then:
        # those before it seem early, counted back.
        assert min(late) > -1


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["file", "redis"])
def test_ten_thousand_entries_that_wait_cost_next_to_nothing(beats, redis_url, tmp_path, kind):
    """Under one percent of a processor."""
    made = beats(
        str(tmp_path / "schedule") if kind == "file" else redis_url, entries=(10_000, 86_400)
    )
    process = made.start("-l", "DEBUG")
    log = tmp_path / "logs" / "beat-0.log"
    # It has made the schedule, and saved it.
    eventually(lambda: log.read_text().count("Waking up") >= 2, timeout_s=60)
    span = 30 if IS_LONG else 5
    before = cpu_seconds(process.pid)
    with pytest.raises(AssertionError, match="still answers"):
        eventually(lambda: process.poll() is not None, timeout_s=span)
    share = (cpu_seconds(process.pid) - before) / span
    assert made.stop() == [0]
    print(f"{kind}: 10000 entries that wait: {share:.2%} of a processor over {span} s")
    assert share < 0.01
