"""The operator's settings: read once from the environment, all errors at once."""

from __future__ import annotations

import ast
import inspect
from dataclasses import fields
from typing import Any

import pytest

from adts_api.contract import ExitCode
from adts_api.errors import ConfigError
from adts_operator import settings
from adts_operator.settings import Settings, variable_name


def test_an_empty_environment_gives_the_defaults() -> None:
    assert Settings.read({}) == Settings()


@pytest.mark.parametrize(
    ("variable", "text", "field", "value"),
    [
        ("WATCH_NAMESPACES", "team-a, team-b,team-a", "watch_namespaces", ("team-a", "team-b")),
        ("WATCH_NAMESPACES", " , ", "watch_namespaces", ()),
        ("NAMESPACE", "adts-system", "namespace", "adts-system"),
        ("POD_NAME", "adts-operator-7d5b-x2x", "pod_name", "adts-operator-7d5b-x2x"),
        ("POD_UID", "0d5e2c7a-1111", "pod_uid", "0d5e2c7a-1111"),
        ("LEADER_ELECTION", "false", "leader_election", False),
        ("LEADER_ELECTION", "True", "leader_election", True),
        ("HEALTH_PORT", "9090", "health_port", 9090),
        ("TRAINER_IMAGE", "registry.example/trainer@sha256:ab", "trainer_image", "registry.example/trainer@sha256:ab"),
        ("IMAGE_PULL_SECRETS", "mine,other.name", "image_pull_secrets", ("mine", "other.name")),
        ("API_RATE", "12.5", "api_rate", 12.5),
        ("API_BURST", "20", "api_burst", 20),
        ("WORKERS", "", "workers", 16),
        ("WORKERS", " 4 ", "workers", 4),
        ("RESYNC_SECONDS", "30", "resync_seconds", 30.0),
        ("PROGRESS_BY", "api-proxy", "progress_by", "api-proxy"),
        ("JOB_METRICS", "true", "job_metrics", True),
        ("LOG_LEVEL", "debug", "log_level", "debug"),
        ("LOG_FORMAT", "text", "log_format", "text"),
    ],
)
def test_a_variable_sets_its_field(variable: str, text: str, field: str, value: Any) -> None:
    read = Settings.read({f"ADTS_OPERATOR_{variable}": text})
    assert getattr(read, field) == value
    assert type(getattr(read, field)) is type(value)


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("WATCH_NAMESPACES", "a,B", "'a,B' is not a list of namespaces; use lower-case letters, digits and '-'"),
        ("NAMESPACE", "a.b", "'a.b' is not a namespace; use"),
        ("POD_NAME", "a_b", "'a_b' is not the name of a pod"),
        ("LEADER_ELECTION", "yes", "'yes' is unknown; use true or false"),
        ("HEALTH_PORT", "http", "'http' is not a whole number; use 1 to 65535"),
        ("HEALTH_PORT", "70000", "'70000' is out of range; use 1 to 65535"),
        ("HEALTH_PORT", "80.5", "'80.5' is not a whole number"),
        ("TRAINER_IMAGE", "a b", "'a b' is not an image; use such as"),
        ("IMAGE_PULL_SECRETS", "-a", "'-a' is not a list of names of secrets"),
        ("API_RATE", "0", "'0' is out of range; use 1 to"),
        ("API_RATE", "nan", "'nan' is out of range"),
        ("API_RATE", "fast", "'fast' is not a number"),
        ("API_BURST", "-1", "'-1' is out of range"),
        ("WORKERS", "0", "'0' is out of range; use 1 to 1000"),
        ("RESYNC_SECONDS", "inf", "'inf' is out of range"),
        ("PROGRESS_BY", "magic", "'magic' is unknown; use pod-ip or api-proxy"),
        ("JOB_METRICS", "1", "'1' is unknown; use true or false"),
        ("LOG_LEVEL", "loud", "'loud' is unknown; use debug or info or warning"),
        ("LOG_FORMAT", "xml", "'xml' is unknown; use json or text"),
    ],
)
def test_a_bad_value_is_told_with_rule_and_fix(variable: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        Settings.read({f"ADTS_OPERATOR_{variable}": text})
    assert str(error.value).startswith(f"ADTS_OPERATOR_{variable}: {message}")
    assert error.value.exit_code == ExitCode.BAD_CONFIG == 2


def test_all_bad_values_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as error:
        Settings.read({"ADTS_OPERATOR_WORKERS": "x", "ADTS_OPERATOR_LOG_LEVEL": "x", "ADTS_OPERATOR_API_RATE": "x"})
    assert [line.split(":")[0] for line in str(error.value).splitlines()] == [
        "ADTS_OPERATOR_API_RATE",
        "ADTS_OPERATOR_WORKERS",
        "ADTS_OPERATOR_LOG_LEVEL",
    ]


def test_variables_that_kubernetes_adds_for_a_service_do_no_harm() -> None:
    environ = {"ADTS_OPERATOR_PORT": "tcp://10.0.0.1:8080", "ADTS_OPERATOR_SERVICE_HOST": "10.0.0.1"}
    assert Settings.read(environ) == Settings()


def test_every_setting_has_a_parser_and_a_docstring() -> None:
    body = ast.parse(inspect.getsource(settings)).body
    (settings_class,) = (node for node in body if isinstance(node, ast.ClassDef))
    documented = {
        field.target.id
        for field, text in zip(settings_class.body, settings_class.body[1:], strict=False)
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr)
    }
    names = {field.name for field in fields(Settings)}
    assert names == documented == set(settings._PARSERS)
    assert variable_name("api_rate") == "ADTS_OPERATOR_API_RATE"
