"""The command ``celery`` itself: global options, the app, the table of commands, errors."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import pytest

from celery import signals
from celery.bin import base, celery as umbrella
from t.unit.bin.conftest import Run


@pytest.mark.parametrize(
    "words", [["worker"], ["logtool", "stats"], ["amqp", "queue.declare"], ["list"]]
)
def test_help_is_a_command_too(run: Run, words: list[str]) -> None:
    """B-LEG-018: what old documents name works."""
    told, helped = run("help", *words), run(*words, "--help")

    assert told.exit_code == 0
    assert told.output == helped.output
    assert told.output.startswith(f"Usage: celery {' '.join(words)} ")


def test_help_alone_lists_the_commands(run: Run) -> None:
    assert run("help").output == run("--help").output
    result = run("help", "worker", "nosuch")
    assert result.exit_code == 2
    assert "No such command 'nosuch'." in result.output


def test_the_only_program_is_celery() -> None:
    """B-LEG-019: celeryd, celerybeat, celeryev, celeryctl are gone."""
    points = metadata.distribution("celery").entry_points

    assert [point.name for point in points if point.group == "console_scripts"] == ["celery"]


def test_without_arguments_it_prints_help(run: Run) -> None:
    """B-CLI-003: celery without arguments prints help, exit 0."""
    result = run()

    assert result.exit_code == 0
    assert "Global Options" in result.output
    assert "worker" in result.output


def test_the_version_is_printed(run: Run) -> None:
    """B-CLI-004: celery --version prints 5.7.0 (collider)."""
    result = run("--version")

    assert (result.exit_code, result.output.strip()) == (0, "5.7.0 (collider)")


def test_an_unknown_command_is_a_usage_error(run: Run) -> None:
    """B-CLI-003: Error: No such command 'nosuchcmd'., exit 2; with a suggestion if similar."""
    result = run("nosuchcmd")
    assert result.exit_code == 2
    assert "No such command 'nosuchcmd'." in result.output

    assert "Did you mean one of these?\n    worker" in run("wroker").output


@pytest.mark.parametrize("option", ["-A", "--app", "-b", "--broker", "--workdir"])
def test_a_global_option_after_the_command_is_explained(run: Run, option: str) -> None:
    """B-CLI-001, B-LEG-017: they are not accepted after the sub-command; exit 2."""
    result = run("worker", option, "proj")

    assert result.exit_code == 2
    assert f"celery {option} VALUE worker" in result.output


def test_an_option_nobody_knows_is_just_that(run: Run) -> None:
    result = run("-A", "proj", "worker", "--nosuch")

    assert result.exit_code == 2
    assert "--nosuch" in result.output
    assert "has to come before" not in result.output


@pytest.mark.parametrize("name", ["proj", "proj:app", "proj.app"])
def test_the_app_is_found_in_each_spelling(run: Run, name: str) -> None:
    """B-CLI-005: -A module, module:attr or module.attr."""
    result = run("-A", name, "report")

    assert result.exit_code == 0
    assert "transport:memory" in result.output


def test_the_app_may_come_from_the_environment(run: Run) -> None:
    """B-CLI-009: CELERY_APP is -A. B-CLI-007: every option has a variable."""
    assert "transport:memory" in run("report", CELERY_APP="proj").output


def test_a_missing_module_is_explained(run: Run) -> None:
    """B-CLI-006: Unable to load celery application. The module nomod was not found., exit 2."""
    result = run("-A", "nomod", "report")

    assert result.exit_code == 2
    assert "Unable to load celery application.\nThe module nomod was not found." in result.output
    # ... and where it was looked for.
    assert os.getcwd() in result.output


def test_a_missing_attribute_is_explained(run: Run) -> None:
    """B-CLI-006: a missing attribute gives The module proj:nope was not found."""
    result = run("-A", "proj:nope", "report")

    assert result.exit_code == 2
    assert "The module proj:nope was not found." in result.output
    assert "has no attribute 'nope'" in result.output


def test_a_module_without_app_is_explained(run: Run, project: Path) -> None:
    """B-CLI-005: a module without any fails with Module 'x' has no attribute 'celery'."""
    (project / "empty.py").write_text("")

    result = run("-A", "empty", "report")

    assert result.exit_code == 2
    assert "Module 'empty' has no attribute 'celery'" in result.output
    assert "-A MODULE:ATTRIBUTE" in result.output


def test_an_import_missing_in_the_project_is_named(run: Run, project: Path) -> None:
    (project / "needy.py").write_text("import nosuchlibrary")

    result = run("-A", "needy", "report")

    assert result.exit_code == 2
    assert "No module named 'nosuchlibrary'" in result.output
    assert 'needy.py", line 1' in result.output
    assert "Is nosuchlibrary installed here?" in result.output
    assert "module needy was not found" not in result.output


@pytest.mark.parametrize("code", ["import os; os.nothing", "1 / 0", "from os import nothing"])
def test_an_error_in_the_project_is_shown_where_it_is(run: Run, project: Path, code: str) -> None:
    (project / "broken.py").write_text(f"\n\n{code}\n")

    result = run("-A", "broken:app", "report")

    assert result.exit_code == 2
    assert 'broken.py", line 3' in result.output
    # No frame of our own before it.
    assert "symbol_by_name" not in result.output


def test_a_mistake_in_the_syntax_is_shown_where_it_is(run: Run, project: Path) -> None:
    (project / "half.py").write_text("x = 1\ndef (")

    result = run("-A", "half", "report")

    assert result.exit_code == 2
    assert 'half.py", line 2' in result.output
    assert result.output.count("File ") == 1


@pytest.mark.parametrize("words", [["status"], ["worker"], ["call", "proj.add"], ["purge", "-f"]])
def test_a_broker_of_an_unknown_kind_is_one_sentence(
    run: Run, project: Path, words: list[str]
) -> None:
    (project / "odd.py").write_text(
        "from celery import Celery\napp = Celery('odd', broker='nosuch://x')\n"
    )

    result = run("-A", "odd", *words)

    assert result.exit_code == 1
    assert "Error: No such transport: nosuch" in result.output
    assert "Traceback" not in result.output


def test_a_back_end_of_an_unknown_kind_is_one_sentence(run: Run, project: Path) -> None:
    (project / "odd.py").write_text(
        "from celery import Celery\napp = Celery('odd', backend='nosuch://x')\n"
    )

    result = run("-A", "odd", "result", "some-id")

    assert result.exit_code == 1
    assert "Unknown result backend: 'nosuch'" in result.output


def test_warnings_are_shown_without_code(monkeypatch: pytest.MonkeyPatch) -> None:
    from celery.bin import celery as umbrella
    from celery.exceptions import DuplicateNodenameWarning

    monkeypatch.setattr(warnings, "formatwarning", umbrella._format_warning)

    text = warnings.formatwarning("two of one name\n", DuplicateNodenameWarning, "control.py", 7)
    foreign = warnings.formatwarning("old", DeprecationWarning, "other.py", 7, "import old")

    assert text == "DuplicateNodenameWarning: two of one name\n"
    assert foreign == "other.py:7: DeprecationWarning: old\n  import old\n"


def test_urls_are_taken_over_for_an_app_without(
    run: Run, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """B-CLI-008: -b and --result-backend act like CELERY_BROKER_URL and CELERY_RESULT_BACKEND."""
    (project / "bare.py").write_text("from celery import Celery\napp = Celery('bare')\n")

    result = run("-b", "memory://", "--result-backend", "cache+memory://", "-A", "bare", "report")

    assert "transport:memory results:cache+memory" in result.output
    assert os.environ["CELERY_BROKER_URL"] == "memory://"


def test_the_working_directory_is_entered_first(run: Run, tmp_path: Path) -> None:
    """B-CLI-001: --workdir is a global option; the app is looked up from there."""
    other = tmp_path / "other"
    other.mkdir()
    (other / "elsewhere.py").write_text(
        "from celery import Celery\napp = Celery('e', broker='memory://')\n"
    )

    assert run("-A", "elsewhere", "--workdir", str(other), "report").exit_code == 0


def test_a_missing_working_directory_is_an_error(run: Run) -> None:
    """B-CLI-035: --workdir missing: exit 1."""
    result = run("--workdir", "/does/not/exist", "report")

    assert result.exit_code == 1
    assert "Cannot change to --workdir '/does/not/exist'" in result.output


def test_without_a_broker_it_says_what_to_do(run: Run, project: Path) -> None:
    """B-CLI-010: Could not connect to the message broker..., Reason: …, exit 69."""
    (project / "away.py").write_text(
        "from celery import Celery\n"
        "app = Celery('away', broker='redis://:secret@127.0.0.1:1/0')\n"
        "app.conf.broker_transport_options = {'max_retries': 0}\n"
        "app.conf.task_publish_retry = False\n"
    )

    result = run("-A", "away", "call", "proj.add")

    assert result.exit_code == 69
    assert "Error: Could not connect to the message broker." in result.output
    assert "Reason: " in result.output
    assert "127.0.0.1:1" in result.output
    assert "secret" not in result.output


def test_all_commands_can_be_loaded() -> None:
    commands = umbrella.celery.commands

    assert {"worker", "beat", "multi", "inspect", "upgrade"} <= set(commands)
    for name in commands:
        assert isinstance(commands[name], click.Command)
    assert "nosuch" not in commands


class Point:
    """An entry point of another package."""

    def __init__(self, name: str, loaded: Any) -> None:
        self.name, self.value, self.loaded = name, f"pkg:{name}", loaded

    def load(self) -> Any:
        if isinstance(self.loaded, Exception):
            raise self.loaded
        return self.loaded


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    @click.command("flower")
    @click.pass_context
    def flower(ctx: click.Context) -> None:
        """Watch it grow."""
        click.echo(f"{ctx.obj.app.main} {[p.name for p in ctx.parent.command.params][:1]}")

    points = [Point("flower", flower), Point("broken", ImportError("no such driver"))]
    monkeypatch.setattr(
        metadata,
        "entry_points",
        lambda group: points if group == "celery.commands" else [],
    )
    monkeypatch.setattr(umbrella.celery, "commands", umbrella._Commands())


@pytest.mark.usefixtures("plugins")
def test_other_packages_add_commands(run: Run) -> None:
    """B-CLI-011: extensions add commands through the entry point group celery.commands."""
    assert run("-A", "proj", "flower").output == "proj ['app']\n"
    assert "Watch it grow." in run("--help").output


@pytest.mark.usefixtures("plugins")
def test_a_broken_command_of_another_package_breaks_only_itself(run: Run) -> None:
    assert run("--help").exit_code == 0

    result = run("-A", "proj", "broken", "--some-option")
    assert result.exit_code == 1
    assert "no such driver" in result.output


def test_options_for_all_commands_are_announced(run: Run, project: Path) -> None:
    """B-CLI-011, B-SIG-014: app.user_options['preload']; user_preload_options(app, options)."""
    (project / "opted.py").write_text(
        "import click\n"
        "from celery import Celery\n"
        "app = Celery('opted', broker='memory://')\n"
        "app.user_options['preload'].add(click.Option(('--flavour',), default='plain'))\n"
    )
    seen: list[Any] = []

    def receiver(app: Any, options: Any, **_: Any) -> None:
        seen.append((app.main, options))

    signals.user_preload_options.connect(receiver)
    try:
        result = run("-A", "opted", "report", "--flavour", "sweet")
    finally:
        signals.user_preload_options.disconnect(receiver)

    assert result.exit_code == 0, result.output
    assert seen == [("opted", {"flavour": "sweet"})]


def test_help_groups_options() -> None:
    """B-CLI-002: Worker Options, Pool Options, Queue Options, Features, ..."""
    worker = umbrella.celery.commands["worker"]
    with click.Context(worker, info_name="worker") as ctx:
        text = worker.get_help(ctx)

    titles = [
        "Worker Options:",
        "Pool Options:",
        "Queue Options:",
        "Features:",
        "Embedded Beat Options:",
        "Daemonization Options:",
    ]
    assert sorted(titles, key=text.index) == titles


def test_the_version_needs_no_more_than_click() -> None:
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from celery.bin.celery import celery\n"
        "assert CliRunner().invoke(celery, ['--version']).exit_code == 0\n"
        "heavy = {'kombu.connection', 'celery.app.base', 'celery.worker', 'pygments', 'amqp'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("reply", "status", "text"),
    [
        ([], "OK", "- empty -"),
        (["a", "b"], "OK", "* a\n* b"),
        ({"ok": "pong"}, "OK", "pong"),
        ({"ok": ["x"]}, "OK", "* x"),
        ({"error": "KeyError()"}, "ERROR", "KeyError()"),
        ("text", "OK", "text"),
        ({"clock": 3}, "OK", '{\n    "clock": 3\n}'),
        (None, "OK", "None"),
    ],
)
def test_replies_are_made_readable(reply: Any, status: str, text: str) -> None:
    """B-CLI-020: list replies print as items; an empty list prints - empty -."""
    context = base.CLIContext(app=None, no_color=True, workdir=None)

    assert context.pretty(reply) == (status, text)


def test_our_own_questions_are_not_printed_when_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    context = base.CLIContext(app=None, no_color=True, workdir=None, quiet=True)
    context.say_chat("<-", "asking")
    context.say_chat("->", "answer", "body", show_body=True)

    assert capsys.readouterr().out == "-> answer\n    body\n"


@pytest.mark.parametrize(
    ("type", "text", "value"),
    [
        (base.COMMA_SEPARATED_LIST, "a, b,,c", ["a", "b", "c"]),
        (base.JSON_ARRAY, "[1, 2]", [1, 2]),
        (base.JSON_OBJECT, '{"x": 1}', {"x": 1}),
        (base.ISO8601_OR_FLOAT, "1.5", 1.5),
        (base.LOG_LEVEL, "info", 20),
        (base.LOG_LEVEL, "FATAL", 50),
        (base.LOG_LEVEL, 10, 10),
    ],
)
def test_values_are_converted(type: Any, text: Any, value: Any) -> None:
    """B-CLI-057: log levels in any case."""
    assert type.convert(text, None, None) == value


@pytest.mark.parametrize(
    ("type", "text"),
    [
        (base.JSON_ARRAY, "[1"),
        (base.JSON_ARRAY, "{}"),
        (base.JSON_OBJECT, "[]"),
        (base.ISO8601, "yesterday"),
        (base.ISO8601_OR_FLOAT, "soon"),
        (base.LOG_LEVEL, "loud"),
    ],
)
def test_what_cannot_be_converted_is_refused(type: Any, text: str) -> None:
    with pytest.raises(click.BadParameter):
        type.convert(text, None, None)
