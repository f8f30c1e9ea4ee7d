"""The console that the commands print tables on."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 1000


def make_console() -> Console:
    """As wide as the terminal; in a pipe so wide that nothing is cut or folded."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=PIPE_WIDTH)
