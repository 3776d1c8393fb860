"""Fixtures of the conformance suites, and the table that a run of them can write."""

from __future__ import annotations

import pytest

from t.contract import table
from t.contract.backends import BACKENDS, case

__all__ = ("case",)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Offer to write the table."""
    parser.addoption(
        "--write-backends-table",
        action="store_true",
        help="write the table of result back-ends, of those that this run has proved",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Watch the run, where that is asked for."""
    if config.getoption("--write-backends-table") and not hasattr(config, "workerinput"):
        config.pluginmanager.register(TableWriter(), "backends-table")


class TableWriter:
    """Writes the table when the run has ended."""

    def __init__(self) -> None:
        self.run = table.Run()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of what passed, and of what was skipped or failed in any phase."""
        if report.when == "call" or report.outcome != "passed":
            self.run.note(report.nodeid, report.outcome)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Write the rows that were proved, and say which were not, and why."""
        before = table.rows_of_page()
        proved = []
        for name in BACKENDS:
            missing = self.run.unproved(name)
            stays = not self.run.has_seen(name) and before.get(name) == table.row(name)
            if stays or not missing:
                proved.append(name)
            else:
                why = "; ".join(missing) if self.run.has_seen(name) else "no test of it in this run"
                terminalreporter.write_line(f"no row for {name}: {why}", red=True)
        table.TABLE.write_text(table.table(proved), encoding="utf-8")
        terminalreporter.write_line(f"{table.TABLE}: {len(proved)} of {len(BACKENDS)} back-ends")
