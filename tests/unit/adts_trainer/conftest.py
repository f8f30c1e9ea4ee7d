"""Trainer tests run beside each other: one thread each, no deadline on hypothesis examples."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("shared-machine", deadline=None)
settings.load_profile("shared-machine")
