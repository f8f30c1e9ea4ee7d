"""Which cluster a command means, and the one message where that does not work."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from adts_api.errors import ConfigError
from adts_operator import cli
from adts_operator.cluster.api import ApiError
from adts_operator.commands.cluster_options import Target, explain, find_target

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: work
clusters: [{{name: one, cluster: {{server: "{server}"}}}}]
contexts:
- {{name: work, context: {{cluster: one, user: me, namespace: team-a}}}}
- {{name: home, context: {{cluster: one, user: me}}}}
users: [{{name: me, user: {{}}}}]
"""
NOBODY = "http://127.0.0.1:1"  # nothing listens there


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and no cluster in the environment."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    Path("good").write_text(KUBECONFIG.format(server=NOBODY))
    return tmp_path


def target(*options: str | None, program: str = "adts") -> Target:
    with click.Context(click.Command("status"), info_name=program):
        return find_target(*options)


def test_the_namespace_is_the_contexts_unless_another_is_given(folder: Path) -> None:
    assert target(None, "good", None) == Target(
        namespace="team-a", kubeconfig="good", context=None, flags=" --kubeconfig good"
    )
    assert target(None, "good", "home").namespace == "default"
    assert target("mine", "good", None).namespace == "mine"


def test_a_suggested_command_goes_to_the_same_cluster(folder: Path) -> None:
    found = target("mine", "good", "home", program="kubectl dtrain")
    assert found.command("logs gpt2") == "kubectl dtrain logs gpt2 -n mine --kubeconfig good --context home"
    assert found.command("get pods", program="kubectl").startswith("kubectl get pods -n mine")


def test_the_environment_and_the_home_are_looked_at(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / ".kube").mkdir()
    (folder / "good").rename(folder / ".kube" / "config")
    assert target(None, None, None).kubeconfig == str(folder / ".kube" / "config")
    Path("other").write_text(KUBECONFIG.format(server=NOBODY).replace("team-a", "team-b"))
    monkeypatch.setenv("KUBECONFIG", "missing:other")
    found = target(None, None, None)
    assert (found.kubeconfig, found.namespace, found.flags) == ("missing:other", "team-b", "")


def test_inside_a_pod_its_account_is_used(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    assert target("mine", None, None) == Target(namespace="mine", flags=" -n mine")


MISTAKES = {
    "no cluster at all": ([], "no cluster is configured: there is no "),
    "no such file": (["--kubeconfig", "missing"], "no cluster is configured: missing: no such file; set KUBECONFIG"),
    "no YAML": (["--kubeconfig", "torn"], "torn: cannot be read as a kubeconfig: while parsing a flow sequence"),
    "something else": (["--kubeconfig", "list"], "list: is no kubeconfig; name one with KUBECONFIG or --kubeconfig"),
    "no such context": (
        ["--kubeconfig", "good", "--context", "nope"],
        "--context nope: is not in good; use --context with one of: work, home",
    ),
    "nobody listens": (["--kubeconfig", "good"], f"{NOBODY} does not answer: "),
}


@pytest.mark.parametrize("command", ["status", "top", "logs demo", "describe demo"])
@pytest.mark.parametrize(("options", "message"), MISTAKES.values(), ids=MISTAKES)
def test_every_command_says_what_is_wrong_in_one_message(
    command: str, options: list[str], message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("torn").write_text("a: [b\n")
    Path("list").write_text("- 1\n")
    with pytest.raises(SystemExit) as ended:
        cli.main([*command.split(), *options])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert err.startswith(f"adts: {message}")
    assert err.count("\n") == 1


HERE = Target(namespace="team-a", flags=" -n team-a")
ANSWERS = [
    (ApiError(0, "Unreachable", "https://x does not answer"), "see `kubectl cluster-info -n team-a`"),
    (ApiError(0, "NoConfiguration", "no cluster is configured"), "no cluster is configured"),
    (ApiError(401, "Unauthorized", "Unauthorized"), "log in again"),
    (ApiError(403, "Forbidden", 'User "me" cannot list'), 'User "me" cannot list; ask for the ClusterRole `view`'),
    (ApiError(404, "", "404 page not found"), "the operator is not installed: helm install "),
    (
        ApiError(404, "NotFound", "not found", {"name": "gpt2"}),
        "no job gpt2 in the namespace team-a; `adts status -n team-a` lists",
    ),
]


@pytest.mark.parametrize(("error", "message"), ANSWERS, ids=[message for _, message in ANSWERS])
def test_what_the_api_server_refuses_comes_with_a_fix(error: ApiError, message: str) -> None:
    explained = explain(error, HERE)
    assert isinstance(explained, ConfigError)
    assert message in str(explained)


def test_an_error_of_the_server_stays_what_it_is() -> None:
    error = ApiError(500, "InternalError", "etcd is away")
    assert explain(error, HERE) is error
