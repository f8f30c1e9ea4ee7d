"""The operator's metrics: their names, and labels that cannot grow without bound."""

from __future__ import annotations

import math

import pytest
from prometheus_client import generate_latest

from adts_api.v1alpha1 import Progress
from adts_operator.metrics import Metrics


def lines(metrics: Metrics, prefix: str) -> list[str]:
    text = generate_latest(metrics.registry).decode()
    return [line for line in text.splitlines() if line.startswith(prefix)]


def test_every_metric_has_its_name() -> None:
    metrics = Metrics(job_metrics=True)
    metrics.watch_queue(lambda: 3.0)
    metrics.watch_leader(lambda: True)
    metrics.watch_age("pods", lambda: 12.5)
    metrics.on_answer("POST", "pods", 201)
    metrics.on_answer("GET", "leases", 0)
    metrics.reconciled(0.02)
    metrics.reconciled(0.02, "Conflict")
    metrics.restarted("attempt", "LostPeer")
    metrics.show_job("ns", "gpt2", Progress(step=7, steps=9, loss=2.5, tokens_per_second=100.0))
    text = generate_latest(metrics.registry).decode().splitlines()
    assert {
        "adts_queue_depth 3.0",
        "adts_leader 1.0",
        'adts_watch_age_seconds{resource="pods"} 12.5',
        'adts_api_requests_total{code="201",resource="pods",verb="POST"} 1.0',
        'adts_api_requests_total{code="0",resource="leases",verb="GET"} 1.0',
        "adts_reconcile_seconds_count 2.0",
        'adts_reconcile_errors_total{kind="Conflict"} 1.0',
        'adts_restarts_total{reason="LostPeer",scope="attempt"} 1.0',
        'adts_job_step{name="gpt2",namespace="ns"} 7.0',
        'adts_job_loss{name="gpt2",namespace="ns"} 2.5',
        'adts_job_tokens_per_second{name="gpt2",namespace="ns"} 100.0',
    } <= set(text)
    assert any(line.startswith("process_resident_memory_bytes ") for line in text)


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("LostPeer", "LostPeer"),
        ("OutOfMemory", "OutOfMemory"),
        ("Signal9", "Signal9"),
        ("Lost", "Lost"),
        ("Disrupted", "Disrupted"),
        ("NodeNotReady", "NodeNotReady"),
        ("Evicted", "Evicted"),
        ("StartDeadlineExceeded", "StartDeadlineExceeded"),
        ("Exit42", "Other"),
        ("Signal77", "Other"),
        ("what a user's image says", "Other"),
        ("", "Other"),
    ],
)
def test_reasons_of_restarts_are_a_closed_list(reason: str, label: str) -> None:
    metrics = Metrics()
    metrics.restarted("round", reason)
    assert lines(metrics, "adts_restarts_total") == [f'adts_restarts_total{{reason="{label}",scope="round"}} 1.0']


def test_a_phase_without_jobs_counts_none() -> None:
    metrics = Metrics()
    metrics.set_jobs({"Running": 2, "Pending": 1})
    metrics.set_jobs({"Running": 1})
    found = lines(metrics, "adts_jobs{")
    assert len(found) == 8
    assert 'adts_jobs{phase="Running"} 1.0' in found
    assert 'adts_jobs{phase="Pending"} 0.0' in found


def test_series_of_a_job_go_with_it() -> None:
    metrics = Metrics(job_metrics=True)
    metrics.show_job("ns", "a", Progress(step=1, loss=1.0))
    metrics.show_job("ns", "b", Progress(step=1, loss=1.0))
    metrics.forget_job("ns", "a")
    metrics.forget_job("ns", "never seen")
    assert lines(metrics, "adts_job_") == [
        'adts_job_step{name="b",namespace="ns"} 1.0',
        'adts_job_loss{name="b",namespace="ns"} 1.0',
    ]


def test_what_a_new_attempt_has_not_measured_yet_is_not_shown() -> None:
    metrics = Metrics(job_metrics=True)
    metrics.show_job("ns", "a", Progress(step=5, loss=math.nan, tokens_per_second=3.0))
    assert 'adts_job_loss{name="a",namespace="ns"} NaN' in lines(metrics, "adts_job_")
    metrics.show_job("ns", "a", Progress(step=4))
    assert lines(metrics, "adts_job_") == ['adts_job_step{name="a",namespace="ns"} 4.0']


def test_jobs_have_no_series_unless_asked_for() -> None:
    metrics = Metrics()
    metrics.show_job("ns", "a", Progress(step=1, loss=1.0))
    metrics.forget_job("ns", "a")
    assert lines(metrics, "adts_job_") == []
