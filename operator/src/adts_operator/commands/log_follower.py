"""`adts logs --follow`: the logs of all pods as they are written, through all attempts, until the job ends."""

from __future__ import annotations

import asyncio

from adts_api.v1alpha1 import PLURAL, DistributedTraining
from adts_operator.cluster.api import Api, ApiError, Object, collection
from adts_operator.cluster.pod_views import read_pod
from adts_operator.commands.log_lines import Choice, Emit, Say, has_log, read_lines
from adts_operator.commands.log_words import state_words, waiting_words
from adts_operator.commands.reads import pod_query, typed
from adts_operator.commands.tables import ENDED
from adts_operator.commands.watched import Watched, kept
from adts_operator.core.observed import PodView

RETRY_SECONDS = 1.0
LAST_LINES_SECONDS = 5.0
"""For the log of a pod that is gone, or that lives on after the job's end: its stream may never end by itself."""
FORBIDDEN = (401, 403)
NO_LOG = (400, 404)


class Follower:
    """Follows one job."""

    def __init__(self, api: Api, job: DistributedTraining, choice: Choice, emit: Emit, say: Say) -> None:
        self._api, self._first, self._choice, self._emit, self._say = api, job, choice, emit, say
        self._changed = asyncio.Event()
        namespace, only = job.metadata.namespace, f"metadata.name={job.metadata.name}"
        self._pods = Watched(api, collection("pods", namespace), _view, self._changed, **pod_query(job))
        self._jobs = Watched(api, collection(PLURAL, namespace), typed, self._changed, fieldSelector=only)
        self._streams: dict[str, asyncio.Task[None]] = {}
        self._limited: set[str] = set()
        self._said: set[str] = set()
        self._state = ""

    async def run(self) -> None:
        """Emits lines until the job, or the one attempt that was asked for, has ended. Raises ApiError."""
        await asyncio.gather(self._pods.load(), self._jobs.load())
        try:
            async with kept(self._pods, self._jobs):
                while self._look():
                    await self._changed.wait()
                    self._changed.clear()
                await self._pods.load()  # the job's end may be known before that of its pods
                self._start_streams()
                self._limit([uid for uid, pod in self._pods.objects.items() if pod.is_alive])
                await asyncio.gather(*self._streams.values(), return_exceptions=True)
        finally:
            for stream in self._streams.values():
                stream.cancel()

    def _look(self) -> bool:
        """Starts what can be started and says what happened; whether to go on."""
        self._start_streams()
        self._limit([uid for uid in self._streams if uid not in self._pods.objects])
        job = self._jobs.objects.get(self._first.metadata.uid)
        if job is None:
            self._say_once(f"{self._first.metadata.name} was deleted")
            return False
        if self._state != (state := state_words(job)):
            self._state = state
            self._say(state)
        wanted = [pod for pod in self._pods.objects.values() if self._takes(pod) and pod.attempt == job.status.attempt]
        for words in waiting_words(wanted, only_telling=True):
            self._say_once(words)
        chosen = self._choice.attempt
        return job.status.phase not in ENDED and (chosen is None or job.status.attempt <= chosen)

    def _takes(self, pod: PodView) -> bool:
        first = self._first.status.attempt
        attempt = self._choice.attempt or max(pod.attempt, first)
        return self._choice.takes(pod, attempt)

    def _start_streams(self) -> None:
        for stream in self._streams.values():
            if stream.done() and not stream.cancelled():
                stream.result()  # raises what nobody could mend
        for uid, pod in self._pods.objects.items():
            if uid not in self._streams and self._takes(pod) and has_log(pod):
                self._streams[uid] = asyncio.create_task(self._stream(uid, pod))
                self._streams[uid].add_done_callback(lambda _: self._changed.set())

    def _limit(self, uids: list[str]) -> None:
        """Lets the last lines of these pods arrive, and no more."""
        for uid in uids:
            if uid in self._streams and uid not in self._limited:
                self._limited.add(uid)
                asyncio.get_running_loop().call_later(LAST_LINES_SECONDS, self._streams[uid].cancel)

    async def _stream(self, uid: str, pod: PodView) -> None:
        """The log of one pod; opened again after the last line where the connection breaks."""
        query, last = self._choice.query, ""
        while True:
            try:
                lines = read_lines(self._api, self._first.metadata.namespace, pod, self._choice, follow="true", **query)
                async for line in lines:
                    if last and line.stamp and line.stamp <= last:
                        continue
                    last = line.stamp or last
                    self._emit(line)
            except ApiError as error:
                if error.status in FORBIDDEN and not last:  # later a server that starts refuses everybody for a moment
                    raise
                if error.status in NO_LOG or uid not in self._pods.objects:
                    return
                self._say_once(f"the log of {pod.name} is interrupted: {error.message}")
            await asyncio.sleep(RETRY_SECONDS)
            now = self._pods.objects.get(uid)
            if now is None or not now.is_alive:
                return
            if last:
                query = {"sinceTime": last}

    def _say_once(self, words: str) -> None:
        if words not in self._said:
            self._said.add(words)
            self._say(words)


def _view(pod: Object) -> PodView:
    return read_pod(pod).view
