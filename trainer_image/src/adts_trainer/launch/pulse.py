"""The heartbeats of this pod's processes, and what they add up to."""

from __future__ import annotations

from collections.abc import Sequence

from adts_trainer import heartbeat
from adts_trainer.context import RankContext
from adts_trainer.heartbeat import Heartbeat
from adts_trainer.launch import status


class Pulse:
    """Reads the heartbeats of the current round; remembers what older rounds said."""

    def __init__(self) -> None:
        self.contexts: Sequence[RankContext] = ()
        self.memory = status.Memory()
        self.is_training = False
        self.step = 0

    def begin(self, contexts: Sequence[RankContext]) -> None:
        """A new round: what was written before is no sign of life of it."""
        self.contexts, self.is_training, self.step = contexts, False, 0
        for context in contexts:
            context.heartbeat_path.unlink(missing_ok=True)
            context.stacks_path.unlink(missing_ok=True)

    def beat_of(self, rank: int) -> Heartbeat | None:
        """The heartbeat of a global rank in the current round."""
        context = next(each for each in self.contexts if each.rank == rank)
        beat = heartbeat.read(context.heartbeat_path)
        return beat if beat is not None and beat.round == context.round else None

    def take(self) -> None:
        """Looks at all heartbeats."""
        found = [beat for context in self.contexts if (beat := self.beat_of(context.rank)) is not None]
        self.memory.take(found)
        self.is_training = status.are_training(found, len(self.contexts)) and bool(found)
        self.step = max((beat.step for beat in found if beat.phase not in status.NOT_YET_TRAINING), default=0)
