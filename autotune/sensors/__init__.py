"""Sensors: what is measured in a run, one file per quantity."""

from .change_points import ChangePoints
from .generalization_gap import GeneralizationGap
from .gradient_noise_scale import GradientNoiseScale
from .gradient_norm import GradientNorm
from .gradient_snr import GradientSNR
from .groups import layer_groups
from .instruments import Instruments, default_sensors
from .loss import LossStatistics
from .loss_scale import LossScale
from .nonfinite import NonFinite
from .sensor import Gradients, Parameters, Readings, Sensor
from .step_time import StepTime
from .transfer import Sample
from .update_alignment import UpdateAlignment
from .update_ratio import UpdateRatio

__all__ = [
    "ChangePoints",
    "GeneralizationGap",
    "GradientNoiseScale",
    "GradientNorm",
    "GradientSNR",
    "Gradients",
    "Instruments",
    "LossScale",
    "LossStatistics",
    "NonFinite",
    "Parameters",
    "Readings",
    "Sample",
    "Sensor",
    "StepTime",
    "UpdateAlignment",
    "UpdateRatio",
    "default_sensors",
    "layer_groups",
]
