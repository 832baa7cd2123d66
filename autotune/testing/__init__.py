"""For those who write policies: plants on which they run in milliseconds, and the tuner round them."""

from .replay import Replayed, replay
from .simulation import Plant, Simulation
from .training import Task, TrainingPlant

__all__ = ["Plant", "Replayed", "Simulation", "Task", "TrainingPlant", "replay"]
