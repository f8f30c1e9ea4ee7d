"""Python stacks of running ranks: ask each by signal, read what faulthandler wrote."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from adts_trainer.context import RankContext
from adts_trainer.launch.ranks import Ranks

WAIT_SECONDS = 2.0
POLL_SECONDS = 0.05


async def collect_stacks(ranks: Ranks, contexts: Sequence[RankContext]) -> str:
    """The stacks of all threads of every living rank. A rank that does not answer within two seconds says so."""
    asked = {c.rank: c for c in contexts if c.rank in ranks.pids and c.stacks_path.exists()}
    before = {number: context.stacks_path.stat().st_size for number, context in asked.items()}
    ranks.dump_stacks(list(asked))
    sizes = before
    for _ in range(int(WAIT_SECONDS / POLL_SECONDS)):
        await asyncio.sleep(POLL_SECONDS)
        last, sizes = sizes, {number: context.stacks_path.stat().st_size for number, context in asked.items()}
        if sizes == last and all(sizes[number] != before[number] for number in asked):
            break
    return "\n".join(_section(context, before.get(context.rank)) for context in contexts)


def _section(context: RankContext, offset: int | None) -> str:
    head = f"== rank {context.rank} =="
    if offset is None:
        return f"{head}\nis not running or not ready to answer\n"
    text = context.stacks_path.read_text(errors="replace")
    text = text[offset:] if len(text) > offset else ""
    return f"{head}\n" + (text or f"did not answer within {WAIT_SECONDS:g} s\n")
