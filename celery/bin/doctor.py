"""``celery doctor``: find out why tasks don't run, or why their results don't come."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import click
from kombu.utils.json import dumps

from celery.bin.base import (
    CeleryCommand,
    consume_preload_options,
    handle_preload_options,
    options_under,
)

if TYPE_CHECKING:
    from celery.apps.doctor import Facts, Finding

_option = options_under("Doctor Options")

_WIDTH = 80


@click.command("doctor", cls=CeleryCommand)
@_option(
    "-t",
    "--timeout",
    type=float,
    default=1.0,
    show_default=True,
    help="Seconds to wait for replies of workers.",
)
@_option(
    "--probe-timeout",
    type=float,
    default=5.0,
    show_default=True,
    help="Seconds to wait for the result of a task that does nothing.",
)
@_option(
    "-j",
    "--json",
    is_flag=True,
    help="Print the findings as JSON.",
)
@_option(
    "-f",
    "--logfile",
    type=click.Path(),
    help="Log file that a worker is to write; by default that of the settings.",
)
@_option(
    "--pidfile",
    type=click.Path(),
    help="Pid file that a worker is to write; by default that of the settings.",
)
@click.pass_context
@handle_preload_options
@consume_preload_options
def doctor(
    ctx: click.Context,
    timeout: float,
    probe_timeout: float,
    json: bool,
    logfile: str | None,
    pidfile: str | None,
) -> None:
    """
    Find out why tasks don't run, or why results don't come.

    Looks at the app, its broker, its result back-end and its workers, and has a worker run a task
    that does nothing. Each finding comes with its remedy; the exit code is 1 when there is a
    problem, and 0 when all is well or there are warnings only.
    """
    from celery.apps._examination import examine
    from celery.apps.doctor import Level, diagnose

    facts = examine(
        ctx.obj.app,
        timeout_s=timeout,
        probe_timeout_s=probe_timeout,
        logfile=logfile,
        pidfile=pidfile,
    )
    findings = diagnose(facts)
    has_problem = any(finding.level is Level.PROBLEM for finding in findings)
    if json:
        ctx.obj.echo(dumps(_document(facts, findings, ok=not has_problem)))
    else:
        _print(ctx.obj, facts, findings)
    ctx.exit(1 if has_problem else 0)


def _document(facts: Facts, findings: list[Finding], *, ok: bool) -> dict[str, Any]:
    probe = facts.probe
    return {
        "ok": ok,
        "broker": facts.broker,
        "backend": facts.backend,
        "workers": [worker.name for worker in facts.workers],
        "probe_seconds": None if probe is None else probe.seconds,
        "findings": [
            {
                "check": finding.check,
                "level": finding.level.value,
                "text": finding.text,
                "remedy": finding.remedy,
            }
            for finding in findings
        ],
    }


def _print(context: Any, facts: Facts, findings: list[Finding]) -> None:
    from celery.apps.doctor import Level

    if not context.quiet:
        for title, text in _summary(facts):
            context.echo(f"{title:<9} {text}")
    colors = {Level.PROBLEM: "red", Level.WARNING: "yellow"}
    for finding in findings:
        word = context.style(finding.level.value.upper(), fg=colors[finding.level], bold=True)
        context.echo(f"\n{word} {finding.check}")
        context.echo(_indented(finding.text))
        context.echo(_indented(f"-> {finding.remedy}", hanging="   "))
    if not context.quiet:
        counts = [(level, sum(1 for each in findings if each.level is level)) for level in Level]
        told = [f"{n} {level.value}{'' if n == 1 else 's'}" for level, n in counts if n]
        context.echo(f"\n{', '.join(told)}." if told else "\nNothing is wrong here.")


def _summary(facts: Facts) -> list[tuple[str, str]]:
    rows = [
        ("broker", f"{facts.broker}{' (unreachable)' if facts.broker_error else ''}"),
        ("back-end", facts.backend or "none"),
    ]
    if facts.broker_error is None:
        names = ", ".join(worker.name for worker in facts.workers)
        told = f"{len(facts.workers)}: {names}" if names else "none answered"
        rows.append(("workers", told if facts.has_remote_control else "cannot be asked here"))
    if facts.probe is not None:
        took = facts.probe.seconds
        rows.append(
            ("probe", "no result" if took is None else f"a task came back in {took * 1000:.0f} ms")
        )
    return rows


def _indented(text: str, hanging: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent="    ", subsequent_indent=f"    {hanging}",
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip
