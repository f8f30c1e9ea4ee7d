"""One contender for a Lease, for tests: a process of its own that writes what it does, a JSON object a line.

While it leads it says so ten times a second, with the time of the machine's monotonic clock, as a stand-in for what an
operator would write. SIGTERM makes it release, SIGUSR1 blocks its event loop.
"""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from typing import Any

from adts_operator.cluster.api import Api
from adts_operator.leader import Leadership, make_identity


def say(word: str) -> None:
    print(json.dumps({"word": word, "at": time.monotonic()}), flush=True)


async def contend(kubeconfig: str, namespace: str, name: str, owner: dict[str, Any] | None) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    loop.add_signal_handler(signal.SIGUSR1, time.sleep, 3600)
    api = await Api.connect(kubeconfig=kubeconfig)
    lease = Leadership(api, namespace=namespace, name=name, identity=make_identity("contender"), owner=owner)
    say("stands by")
    await lease.acquire()
    holding = asyncio.create_task(lease.hold())
    while not stopped.is_set():
        if lease.is_leader:
            say("acts")
        await asyncio.sleep(0.1)
    holding.cancel()
    await lease.release()
    say("released")
    await api.close()


if __name__ == "__main__":
    logging.basicConfig(format="%(asctime)s %(message)s")
    asyncio.run(contend(sys.argv[1], sys.argv[2], sys.argv[3], json.loads(sys.argv[4])))
