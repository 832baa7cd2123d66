"""Policies: laws that decide, each a small file that knows neither torch nor the tuner."""

from . import schedules
from .auto_lrs import AutoLRS
from .bayesian_search import BayesianSearch
from .capacity import CapacityAdvisor
from .disciplined import DisciplinedAdvice
from .divergence_guard import DivergenceGuard
from .early_stopping import EarlyStopping
from .generalization_gap import GeneralizationGap
from .gradient_clipping import GradientClipping
from .greedy import GreedyLR
from .growing import GrowSequence
from .hypergradient import Hypergradient
from .noise_scale import NoiseScale
from .pieces import Piece
from .plateau import Plateau
from .range_test import RangeTest
from .recommended import recommended
from .reduce_on_plateau import ReduceOnPlateau
from .reinforcement import EntropyTarget, KLAdaptiveRate, KLPenalty
from .replay import Replay
from .schedule import Schedule
from .search import RateSearch
from .tail import HoldAndTail
from .time_varying_bandit import TimeVaryingBandit
from .unfreezing import ProgressiveUnfreezing
from .update_ratio import UpdateRatio
from .wrappers import Cooldown, EveryN, IfThere, Limit, OnlyBetween, Patience, WarmUp

__all__ = [
    "AutoLRS",
    "BayesianSearch",
    "CapacityAdvisor",
    "Cooldown",
    "DisciplinedAdvice",
    "DivergenceGuard",
    "EarlyStopping",
    "EntropyTarget",
    "EveryN",
    "GeneralizationGap",
    "GradientClipping",
    "GreedyLR",
    "GrowSequence",
    "HoldAndTail",
    "Hypergradient",
    "IfThere",
    "KLAdaptiveRate",
    "KLPenalty",
    "Limit",
    "NoiseScale",
    "OnlyBetween",
    "Patience",
    "Piece",
    "Plateau",
    "ProgressiveUnfreezing",
    "RangeTest",
    "RateSearch",
    "ReduceOnPlateau",
    "Replay",
    "Schedule",
    "TimeVaryingBandit",
    "UpdateRatio",
    "WarmUp",
    "recommended",
    "schedules",
]
