"""The launcher's HTTP server, over real sockets."""

from __future__ import annotations

import json
import socket

import aiohttp
import pytest
from aiohttp import web

from adts_api.errors import ConfigError
from adts_api.pod_status import PodStatus
from adts_api.v1alpha1 import CheckpointStatus, Progress
from adts_trainer.errors import PortTakenError
from adts_trainer.launch.agreement import Agreement, Limits, RefusedError
from adts_trainer.launch.client import LeadClient, LeadUnavailableError
from adts_trainer.launch.messages import Decision, Order, Report
from adts_trainer.launch.server import build_app, is_authorized, is_loopback, serve

STATUS = PodStatus(
    job_uid="u", attempt=3, round=2, state="running",
    progress=Progress(step=70, steps=100, loss=1.5, tokens_per_second=1234.5), checkpoint=CheckpointStatus(step=60),
)  # fmt: skip
REPORT = Report(node=0, job_uid="u", attempt=3, launcher="l", sequence=1, known=0, round=-1, alive=0)


class OnePod:
    """A pod whose state does not change; its agreement is a real one."""

    job_name = "gpt2"

    def __init__(self, token: str = "") -> None:
        self.token = token
        self.agreement = Agreement(job_uid="u", attempt=3, nnodes=1, limits=Limits(), now=0.0)

    def status(self) -> PodStatus:
        return STATUS

    async def stacks(self) -> str:
        return "File train.py, line 1\n"

    async def exchange(self, report: Report) -> Decision:
        return self.agreement.hear(report, 0.0)


@pytest.fixture
async def pod():
    """A served pod that wants a token: (pod, host:port)."""
    one = OnePod("secret")
    runner, port = await serve(build_app(one), "127.0.0.1", 0)
    yield one, f"127.0.0.1:{port}"
    await runner.cleanup()


async def get(address: str, path: str) -> tuple[int, str]:
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as response:
        return response.status, await response.text()


async def post(address: str, body: str, **headers: str) -> tuple[int, str]:
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://{address}/agreement", data=body, headers=headers) as response,
    ):
        return response.status, await response.text()


async def test_it_is_healthy(pod):
    assert await get(pod[1], "/healthz") == (200, "ok\n")


async def test_the_status_is_camel_case_and_reads_back(pod):
    code, text = await get(pod[1], "/status")
    assert code == 200
    assert json.loads(text)["progress"]["tokensPerSecond"] == 1234.5
    assert PodStatus.model_validate_json(text) == STATUS


async def test_metrics_carry_the_job_and_nothing_that_grows(pod):
    _, text = await get(pod[1], "/metrics")
    assert 'adts_step{job="gpt2"} 70.0' in text
    assert 'adts_loss{job="gpt2"} 1.5' in text
    assert 'adts_checkpoint_step{job="gpt2"} 60.0' in text
    assert 'adts_round{job="gpt2"} 2.0' in text
    assert 'adts_state{job="gpt2",state="running"} 1.0' in text
    assert "adts_evaluation_loss" not in text, "what is not known is not told"


async def test_stacks_are_answered_on_this_machine(pod):
    assert await get(pod[1], "/stacks") == (200, "File train.py, line 1\n")


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("::ffff:127.0.0.1", True),
     ("10.0.0.7", False), ("::ffff:10.0.0.7", False), ("fe80::1%eth0", False), (None, False), ("", False)],
)  # fmt: skip
def test_what_this_machine_is(address, loopback):
    assert is_loopback(address) is loopback


async def test_stacks_are_refused_to_other_machines(monkeypatch):
    monkeypatch.setattr(web.BaseRequest, "remote", "10.0.0.7")
    runner, port = await serve(build_app(OnePod()), "127.0.0.1", 0)
    try:
        code, text = await get(f"127.0.0.1:{port}", "/stacks")
    finally:
        await runner.cleanup()
    assert (code, "on this machine only" in text) == (403, True)


@pytest.mark.parametrize(
    ("header", "token", "allowed"),
    [("Bearer secret", "secret", True), ("Bearer Secret", "secret", False), ("secret", "secret", False),
     ("", "secret", False), ("Bearer ", "secret", False), ("Bearer sécret", "secret", False), ("", "", True)],
)  # fmt: skip
def test_who_is_let_in(header, token, allowed):
    assert is_authorized(header, token) is allowed


BODY = REPORT.model_dump_json(by_alias=True)


@pytest.mark.parametrize(
    ("body", "token", "code", "words"),
    [
        pytest.param(BODY, "secret", 200, '"order":"start"', id="one of ours"),
        pytest.param(BODY, "wrong", 401, "token", id="another token"),
        pytest.param(BODY.replace('"u"', '"v"'), "secret", 409, "attempt 3 of job UID 'u'", id="another job"),
        pytest.param("{", "secret", 400, "JSON", id="no JSON"),
        pytest.param("{}", "secret", 400, "jobUid", id="fields missing"),
        pytest.param(BODY.replace('"node":0', '"node":"0"'), "secret", 400, "node", id="wrong type"),
        pytest.param(BODY.replace('"node":0', '"node":-1'), "secret", 400, "node", id="out of range"),
        pytest.param("x" * 70_000, "secret", 413, "", id="too long"),
    ],
)
async def test_the_agreement_answers_only_well_formed_reports_of_this_job(pod, body, token, code, words):
    answer, text = await post(pod[1], body, Authorization=f"Bearer {token}")
    assert (answer, words in text) == (code, True)


async def test_a_newer_launcher_may_say_more(pod):
    body = json.dumps(json.loads(BODY) | {"temperature": 40})
    assert (await post(pod[1], body, Authorization="Bearer secret"))[0] == 200


async def test_the_client_brings_back_the_decision(pod):
    client = LeadClient(pod[1], "secret")
    assert await client.tell(REPORT) == Decision(order=Order.START, round=0)
    await client.close()


@pytest.mark.parametrize(
    ("token", "report", "words"),
    [
        pytest.param("wrong", REPORT, "refuses us (401", id="token"),
        pytest.param("secret", REPORT.model_copy(update={"attempt": 2}), "refuses us (409", id="older attempt"),
    ],
)
async def test_the_client_says_why_it_was_refused(pod, token, report, words):
    client = LeadClient(pod[1], token)
    with pytest.raises(LeadUnavailableError) as error:
        await client.tell(report)
    await client.close()
    assert words in str(error.value)


async def test_the_client_says_that_nobody_is_there(unused_tcp_port):
    client = LeadClient(f"127.0.0.1:{unused_tcp_port}", "")
    with pytest.raises(LeadUnavailableError, match="cannot be reached"):
        await client.tell(REPORT)
    await client.close()


async def test_the_client_notices_that_a_stranger_answers():
    app = web.Application()
    app.router.add_post("/agreement", answer_html)
    runner, port = await serve(app, "127.0.0.1", 0)
    client = LeadClient(f"127.0.0.1:{port}", "")
    with pytest.raises(LeadUnavailableError, match="it is no launcher"):
        await client.tell(REPORT)
    await client.close()
    await runner.cleanup()


async def answer_html(request: web.Request) -> web.Response:
    return web.Response(text="<html>")


async def test_a_port_in_use_is_named_with_its_variable():
    with socket.create_server(("127.0.0.1", 0)) as owner:
        port = owner.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"ADTS_PORT: port {port} is in use on this machine; end its owner"):
            await serve(build_app(OnePod()), "127.0.0.1", port)


async def test_an_address_of_another_machine_cannot_be_listened_on():
    with pytest.raises(ConfigError, match="ADTS_PORT: cannot listen on port"):
        await serve(build_app(OnePod()), "192.0.2.1", 12345)


async def test_a_follower_answers_no_reports():
    class Follower(OnePod):
        async def exchange(self, report: Report) -> Decision:
            raise RefusedError("this launcher does not lead the job")

    runner, port = await serve(build_app(Follower()), "127.0.0.1", 0)
    code, text = await post(f"127.0.0.1:{port}", BODY)
    await runner.cleanup()
    assert (code, json.loads(text)["error"]) == (409, "this launcher does not lead the job")
