"""`kubectl dtrain`: the same program, with the commands that belong beside kubectl; and bad options of those."""

from __future__ import annotations

import importlib.metadata

import pytest

from adts_operator import cli


def run(*words: str, capsys: pytest.CaptureFixture[str], program: str = "kubectl dtrain") -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(words, program=program)
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


def test_kubectl_finds_the_program() -> None:
    scripts = {it.name: it.value for it in importlib.metadata.entry_points(group="console_scripts")}
    assert scripts["kubectl-dtrain"] == "adts_operator.cli:kubectl_dtrain"


def test_help_shows_its_own_commands_under_its_own_name(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("--help", capsys=capsys)
    assert code == 0
    assert out.startswith("Usage: kubectl dtrain [OPTIONS]")
    listed = [line.split()[0] for line in out.partition("Commands:\n")[2].splitlines()]
    assert listed == list(cli.KUBECTL_COMMANDS)


def test_every_command_exists_and_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    for name in cli.KUBECTL_COMMANDS:
        code, out, _ = run(name, "--help", capsys=capsys)
        assert code == 0
        assert out.startswith(f"Usage: kubectl dtrain {name} ")


@pytest.mark.parametrize("name", ["run", "data"])
def test_what_belongs_to_this_machine_is_not_there(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(name, capsys=capsys)
    assert code == 2
    assert f"No such command '{name}'" in err


def test_an_error_names_the_program(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run("status", "--kubeconfig", "missing", capsys=capsys)
    assert code == 2
    assert err.startswith("kubectl dtrain: no cluster is configured: missing: no such file")


BAD_OPTIONS = {
    "a job and all namespaces": (["status", "demo", "-A"], "use -n NAMESPACE in the place of -A"),
    "an unknown form": (["status", "-o", "wide"], "'wide' is not one of 'table', 'json', 'yaml'"),
    "no job": (["logs"], "Missing argument 'JOB'"),
    "following what is over": (["logs", "demo", "-f", "--previous"], "leave --follow and --attempt away"),
    "a rank and a worker": (["logs", "demo", "--rank", "1", "--worker", "1"], "leave --worker away"),
    "no span of time": (["logs", "demo", "--since", "5 minutes"], "write it like 90s, 5m or 1h30m"),
    "a negative number": (["logs", "demo", "--tail", "-1"], "-1 is not in the range x>=0"),
}


@pytest.mark.parametrize(("words", "message"), BAD_OPTIONS.values(), ids=BAD_OPTIONS)
def test_bad_options_are_refused(
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    code, _, err = run(*words, capsys=capsys)
    assert code == 2
    assert message in err
