"""The process that compares shares its cores with the ranks: one thread, as each of them."""

from collections.abc import Iterator

import pytest
import torch

from support.wire_pool import Pool, wire_pool

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """Gloo ranks for all tests of a file."""
    with wire_pool(tmp_path_factory.mktemp("pool")) as it:
        yield it
