"""The console command `mbta-assets`: help, errors and exit statuses, and the settings that it prints."""

import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mbta_assets.cli import main
from mbta_assets.gcp import CloudError
from mbta_assets.launch import LaunchError, commands
from mbta_assets.settings import VARIABLES

SLOW_LIBRARIES = (
    "dagster", "kfp", "matplotlib", "numpy", "onnxruntime", "pandas", "pyarrow", "ray", "torch", "xgboost",
)  # fmt: skip
SECRET = "chat/hunter2"


def run(*arguments: str, **variables: str) -> Result:
    """Run the command in this process, with variables that are set for it."""
    return CliRunner(env=variables).invoke(main, arguments)


def command_paths(group: click.Group, *names: str) -> list[tuple[str, ...]]:
    """Return the names of each command and of each group, as one types them."""
    paths: list[tuple[str, ...]] = [names]
    for name, command in group.commands.items():
        paths += command_paths(command, *names, name) if isinstance(command, click.Group) else [(*names, name)]
    return paths


def test_help_names_each_command_and_its_purpose() -> None:
    result = run("--help")
    assert result.exit_code == 0
    assert {"backfill", "check", "collect", "demo", "explain", "launch", "live", "prune", "settings"} == set(
        main.commands
    )
    for name, command in main.commands.items():
        [line] = [line for line in result.output.splitlines() if line.split()[:1] == [name]]
        assert line.split(maxsplit=1)[1] == command.get_short_help_str(limit=80)


@pytest.mark.parametrize("path", command_paths(main), ids=" ".join)
def test_every_command_has_help(path: tuple[str, ...]) -> None:
    for option in ("-h", "--help"):
        result = run(*path, option)
        assert result.exit_code == 0
        assert result.output.startswith("Usage: ")


@pytest.mark.integration
@pytest.mark.parametrize("arguments", [["--help"], ["launch", "local", "--help"], ["settings"]])
def test_help_and_settings_import_no_slow_library(arguments: list[str]) -> None:
    script = (
        "import sys; from mbta_assets.cli import main; "
        f"main({arguments!r}, standalone_mode=False); print(*sys.modules, file=sys.stderr)"
    )
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "click" in process.stderr.split()
    assert set(SLOW_LIBRARIES).isdisjoint(process.stderr.split())


@pytest.mark.integration
def test_the_installed_command_and_the_module_are_the_same() -> None:
    """Jobs on Vertex AI run the installed command."""
    program = shutil.which("mbta-assets", path=f"{Path(sys.executable).parent}")
    assert program
    outputs = [
        subprocess.run([*command, "launch", "step", "--help"], capture_output=True, text=True, check=True).stdout
        for command in ([program], [sys.executable, "-m", "mbta_assets"])
    ]
    assert "Materialize one ASSET" in outputs[0]
    assert outputs[0].partition("\n")[2] == outputs[1].partition("\n")[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["teach"], "No such command 'teach'."),
        (["launch", "here"], "No such command 'here'."),
        (["--verbose"], "No such option"),
        (["backfill"], "Which service days? Give either --last, such as --last 30, or --from."),
        (["backfill", "--last", "3", "--from", "2024-03-01"], "Which service days? Give either"),
        (["backfill", "--last", "0"], "Invalid value for '--last'"),
        (["backfill", "--from", "1.3.2024"], "Invalid value for '--from'"),
        (["backfill", "--from", "2024-03-02", "--to", "2024-03-01"], "--from 2024-03-02 is after --to 2024-03-01."),
        (["launch", "local"], "Missing option '--select'."),
        (["launch", "compile", "--select", "*"], "Missing option '--output'."),
        (["launch", "follow", "--select", "*"], "Missing argument 'NAME'."),
        (["launch", "step", "trip", "schedule"], "Got unexpected extra argument (schedule)"),
        (["settings", "README.md"], "Got unexpected extra argument (README.md)"),
    ],
)
def test_a_wrong_argument_is_one_line_and_status_2(arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    [error] = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert error.startswith(f"Error: {message}")
    assert error == result.stderr.splitlines()[-1]


def test_a_wrong_setting_is_one_line_and_status_1(tmp_path: Path) -> None:
    variables = {"MBTA_SEED": "many", "DAGSTER_HOME": str(tmp_path), "MBTA_TUNE_TRIALS": "1"}
    for arguments in (
        ["check"],
        ["demo"],
        ["backfill", "--last", "3"],
        ["launch", "compile", "--select", "*", "--output", str(tmp_path / "pipeline.yaml")],
        ["launch", "local", "--select", "*"],
        ["launch", "submit", "--select", "*"],
        ["launch", "follow", "name", "--select", "*"],
        ["launch", "job", "--select", "*"],
        ["launch", "step", "trip"],
    ):
        result = run(*arguments, **variables)
        assert (result.exit_code, result.stdout) == (1, ""), arguments
        assert result.stderr == "Error: MBTA_SEED is 'many'; it may be a whole number, 0 or more.\n"


def test_a_wrong_secret_is_not_printed(tmp_path: Path) -> None:
    result = run("check", MBTA_ALERT_WEBHOOK=SECRET)
    assert result.exit_code == 1
    assert "MBTA_ALERT_WEBHOOK is wrong" in result.stderr
    assert SECRET not in result.output


@pytest.mark.parametrize("error", [LaunchError("no image"), CloudError("no bucket")])
def test_an_expected_error_is_one_line_and_status_1(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr(commands, "compile_selection", fail)
    result = run("launch", "compile", "--select", "*", "--output", "pipeline.yaml")
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", f"Error: {error}\n")


def test_any_other_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(commands, "compile_selection", fail)
    result = run("launch", "compile", "--select", "*", "--output", "pipeline.yaml")
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    "arguments",
    [
        ["demo"],
        ["launch", "local", "--select", "*"],
        ["launch", "submit", "--select", "*"],
        ["launch", "follow", "name", "--select", "*"],
        ["launch", "job", "--select", "*"],
    ],
)
def test_a_command_that_reports_to_dagster_requires_dagster_home(arguments: list[str]) -> None:
    result = run(*arguments, DAGSTER_HOME="")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: DAGSTER_HOME is not set; ")
    assert len(result.stderr.splitlines()) == 1


def test_settings_prints_every_variable_with_its_default_and_what_it_accepts() -> None:
    result = run("settings", MBTA_SEED="many")
    assert result.exit_code == 0
    rows = {line.split("`")[1]: line for line in result.output.splitlines() if line.startswith("| `")}
    assert list(rows) == [entry.name for entry in VARIABLES]
    for entry in VARIABLES:
        assert entry.accepts in rows[entry.name]
        assert entry.description in rows[entry.name]
        assert not entry.default or f"`{entry.default}`" in rows[entry.name]


def test_without_google_cloud_the_check_has_nothing_to_test() -> None:
    result = run("check", MBTA_DEPLOYMENT="", MBTA_SOURCE="")
    assert result.exit_code == 0
    assert result.stdout.startswith("Nothing is on Google Cloud")
