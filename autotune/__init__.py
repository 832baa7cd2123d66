"""A closed-loop tuner for PyTorch training runs."""
