"""What every test may use: `measured`, which prints a figure at the end of the run, where CI shows it; and hypothesis
without a deadline, because tests run beside each other on shared machines."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")


@pytest.fixture
def measured(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Notes a measured figure, in words; it is printed, never asserted: machines are shared and noisy."""
    return lambda figure: request.node.user_properties.append(("measured", figure))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [it for of_kind in terminalreporter.stats.values() for it in of_kind if isinstance(it, pytest.TestReport)]
    called = [it for it in reports if it.when == "call"]
    figures = [str(value) for it in called for name, value in it.user_properties if name == "measured"]
    if figures:
        terminalreporter.section("measured")
        for figure in figures:
            terminalreporter.write_line(figure)
