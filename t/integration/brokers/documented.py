"""The table of the page about brokers, made of what is known and of what the tests run on.

``python -m t.integration.brokers.documented`` writes it; a test holds the page to it.
"""

from __future__ import annotations

from pathlib import Path

from celery._transport.capabilities import BROKERS, Broker
from t.integration.brokers.table import CASES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "getting-started" / "_brokers_table.rst"

HEAD = """\
.. Written by ``python -m t.integration.brokers.documented``.

.. list-table::
   :header-rows: 1

   * - Broker
     - URL
     - Extra
     - Remote control, events
     - Priorities
     - A killed worker's messages come back
     - Wakes workers
     - Tested on
"""


def tested_on(broker: Broker) -> str:
    """Return what the tests of a broker run on, and in which forms."""
    if broker.schemes == ("memory",):
        return "real"
    cases = [case for case in CASES if case.broker is broker]
    if not cases:
        return "nothing"
    return ", ".join(sorted({case.how for case in cases}))


def table_as_rst() -> str:
    """Return the table."""
    text = HEAD
    for broker in BROKERS:
        back = broker.redelivery
        cells = (
            broker.name,
            ", ".join(f"``{scheme}://``" for scheme in broker.schemes if scheme.islower()),
            f"``{broker.extra}``" if broker.extra else "none needed",
            "yes" if broker.broadcast else "no",
            "yes" if broker.priorities else "no",
            "it ends with the worker" if back is None else str(back.value),
            "yes" if broker.pushes else "no",
            tested_on(broker),
        )
        text += f"   * - {cells[0]}\n" + "".join(f"     - {cell}\n" for cell in cells[1:])
    return text


if __name__ == "__main__":
    PAGE.write_text(table_as_rst())
