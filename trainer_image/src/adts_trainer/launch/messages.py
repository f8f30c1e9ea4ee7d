"""What launchers tell each other: a follower posts a `Report`, the lead answers with a `Decision`. No IO here.

Both only ever grow: a report by its sequence number, a decision by its `number`. So a message that is lost, late,
repeated or overtaken can be told from the newest one, and ignored.
"""

from __future__ import annotations

from enum import StrEnum

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from adts_api.contract import ExitCode, exit_reason

MESSAGE_LIMIT = 2000
"""Characters of a failure's message; longer ones are cut in the middle by who writes them."""

NO_ROUND = -1
"""Round of a launcher that has started no process yet. The first round is 0."""


class Message(BaseModel):
    """Base of the wire format: strict about types, deaf to fields of a newer version."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", alias_generator=to_camel, populate_by_name=True)


class Failure(Message):
    """Why a round ended: the first thing that went wrong in it."""

    node: int = Field(ge=0)
    rank: int | None = None
    """Global rank; None where no single process failed."""
    exit_code: int
    """Exit code of the contract, or minus the signal."""
    message: str = ""
    pod: str = ""
    machine: str = ""

    @property
    def is_consequence(self) -> bool:
        """Whether another process very likely failed first."""
        return self.exit_code == ExitCode.LOST_PEER

    def __str__(self) -> str:
        where = f"rank {self.rank}" if self.rank is not None else f"node {self.node}"
        return f"{where}: {exit_reason(self.exit_code)}: {self.message}"


class Report(Message):
    """The state of one launcher and its processes."""

    node: int = Field(ge=0)
    job_uid: str
    attempt: int
    launcher: str
    """Random name of the launcher process: two processes must never speak for one node."""
    sequence: int = Field(ge=0)
    """Grows with every report of this launcher."""
    known: int = Field(ge=0)
    """`Decision.number` of the newest decision it has heard; it will never act on an older one."""
    round: int = Field(ge=NO_ROUND)
    """Newest round it started processes for."""
    alive: int = Field(ge=0)
    """Processes of that round not reaped yet."""
    finished: bool = False
    """All processes of that round ended with 0."""
    stopping: bool = False
    """It was told to stop by a signal, or a process of its saved and left."""
    step: int = Field(0, ge=0)
    """Optimizer steps its processes of that round have done."""
    failure: Failure | None = None
    """First failure of that round here."""


class Order(StrEnum):
    """What the lead wants of everyone."""

    WAIT = "wait"  # not all launchers are there
    START = "start"  # run the processes of `round`
    STOP = "stop"  # kill the processes of `round`: it failed
    DRAIN = "drain"  # tell the processes to save and leave; no other round follows
    FINISH = "finish"  # exit with `exitCode`


class Decision(Message):
    """The newest decision of the lead. They follow each other in the order of `number`."""

    order: Order = Field(Order.WAIT, strict=False)  # a JSON string
    round: int = NO_ROUND
    exit_code: int = 0
    message: str = ""

    @property
    def number(self) -> int:
        """Place in the one possible order: wait, start 0, stop 0, start 1, stop 1, ..., drain, finish."""
        match self.order:
            case Order.WAIT:
                return 0
            case Order.START:
                return 2 * self.round + 1
            case Order.STOP:
                return 2 * self.round + 2
            case Order.DRAIN:
                return DRAIN_NUMBER
            case Order.FINISH:
                return DRAIN_NUMBER + 1


DRAIN_NUMBER = 2**53 - 3
"""Above every round; JSON readers keep integers up to 2**53 exact."""


def shorten(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """The text, with its middle cut out where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    head = limit // 4
    return f"{text[:head]}\n[... {len(text) - limit} characters ...]\n{text[-(limit - head) :]}"
