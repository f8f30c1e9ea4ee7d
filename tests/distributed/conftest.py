"""The process that compares shares its cores with the ranks: one thread, as each of them."""

import torch

torch.set_num_threads(1)
