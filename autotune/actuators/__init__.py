"""Functions that return ready hyperparameters, and the actuators behind them."""

from .data import BatchTransform, VariableBatchSampler, batch_size, sequence_length
from .generic import attribute, call
from .layers import discriminative_groups, layers_of
from .model import TunableDropout, dropout, frozen_layers
from .optimizer import (
    beta1,
    beta2,
    gradient_accumulation,
    gradient_clip,
    learning_rate,
    momentum,
    weight_decay,
)

__all__ = [
    "BatchTransform",
    "TunableDropout",
    "VariableBatchSampler",
    "attribute",
    "batch_size",
    "beta1",
    "beta2",
    "call",
    "discriminative_groups",
    "dropout",
    "frozen_layers",
    "gradient_accumulation",
    "gradient_clip",
    "layers_of",
    "learning_rate",
    "momentum",
    "sequence_length",
    "weight_decay",
]
