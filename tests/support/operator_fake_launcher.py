"""A launcher for tests of `adts run`: a real process that speaks the contract and trains nothing.

One step takes 20 ms. It saves every ten steps and when told to stop, resumes from what is saved, and serves /status.
FAKE_FAULTS is JSON: {"<index>-<attempt>": [step, exit code]}; `*` stands for any index or attempt; a negative code is
a signal it sends itself.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

INDEX, ATTEMPT = int(os.environ["NODE_RANK"]), int(os.environ["ADTS_ATTEMPT"])
CONFIG = yaml.safe_load(Path(os.environ["ADTS_CONFIG"]).read_text())["spec"]
STEPS = CONFIG["training"]["steps"]
CHECKPOINTS = Path(CONFIG["checkpoint"]["path"])
SAVED = CHECKPOINTS / "saved.json"

state: dict[str, Any] = {
    "jobUid": os.environ["ADTS_JOB_UID"],
    "attempt": ATTEMPT,
    "state": "running",
    "progress": {"step": 0, "steps": STEPS, "at": "2027-01-15T08:00:00Z"},
}
stopped = threading.Event()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = json.dumps(state).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def fault() -> tuple[int, int] | None:
    faults = json.loads(os.environ.get("FAKE_FAULTS", "{}"))
    for key in (f"{INDEX}-{ATTEMPT}", f"*-{ATTEMPT}", f"{INDEX}-*", "*-*"):
        if key in faults:
            return tuple(faults[key])
    return None


def save(step: int) -> None:
    if INDEX == 0:
        SAVED.with_suffix(".tmp").write_text(json.dumps({"step": step, "attempt": ATTEMPT}))
        SAVED.with_suffix(".tmp").replace(SAVED)
        state["checkpoint"] = {"step": step, "path": str(CHECKPOINTS / f"{step}-{ATTEMPT}")}


def leave(code: int, message: str) -> None:
    state.update(state="failed" if code else "succeeded", exitCode=code, message=message)
    Path(os.environ["ADTS_TERMINATION_FILE"]).write_text(json.dumps(state))
    print(message, flush=True)
    sys.exit(code)


def main() -> None:
    assert Path(os.environ["ADTS_TOKEN_FILE"]).read_text()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["ADTS_PORT"])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    step = json.loads(SAVED.read_text())["step"] if SAVED.exists() else 0
    print(f"pod {INDEX} attempt {ATTEMPT} from step {step}", flush=True)
    while step < STEPS:
        if stopped.is_set():
            save(step)
            leave(66, f"preempted at step {step}")
        if (found := fault()) and step >= found[0]:
            print(f"fault at step {step}", flush=True)
            if found[1] < 0:
                os.kill(os.getpid(), -found[1])
            leave(found[1], f"made to fail at step {step}")
        time.sleep(0.02)
        step += 1
        state["progress"] |= {"step": step, "loss": 5.0 / (step + 1), "tokensPerSecond": 100.0}
        if step % 10 == 0:
            save(step)
    save(step)
    leave(0, "done")


main()
