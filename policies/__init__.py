"""Policies: laws that decide, each a small file that knows neither torch nor the tuner."""

from .divergence_guard import DivergenceGuard
from .plateau import Plateau

__all__ = ["DivergenceGuard", "Plateau"]
