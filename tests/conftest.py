"""Settings of every test."""

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("project", deadline=None)  # a busy machine is no failure
settings.load_profile("project")
