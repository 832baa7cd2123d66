"""The user's evaluation, run so that the training never notices it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from .generators import Generators
from .records import TuneError

Losses: TypeAlias = float | Tensor | Sequence[float]
"""A loss, or losses of single examples or equal batches, whose mean counts."""
Evaluated: TypeAlias = Losses | Mapping[str, Losses] | Mapping[str, float]
"""What `evaluate` may return."""


class Evaluation:
    """Calls `evaluate` and puts the random generators and the train/eval flags back afterwards.

    Args:
        evaluate: returns the validation loss, or a mapping of metrics with `loss` among them. Those that
            begin with `train/` are of training data, measured in the same way. A metric that is a sequence or
            a tensor, of losses of single examples or batches, counts as its mean.
        model: whose train/eval flags are kept.
        generators: the run's.
    """

    def __init__(
        self,
        evaluate: Callable[[], Evaluated],
        model: nn.Module,
        generators: Generators,
    ) -> None:
        self.losses: tuple[float, ...] = ()
        """The single losses of the last evaluation, where it returned them."""
        self._evaluate = evaluate
        self._model = model
        self._generators = generators

    def __call__(self) -> dict[str, float]:
        """The metrics by signal name; NaN and infinity are values like others.

        `loss` is the signal `validation/loss`, and so on; what is called `train/...` keeps that name. It
        stands first, because the sensor that compares the two waits for the validation. Where single losses
        were returned, `validation/loss_error` is the standard error of their mean.

        Raises:
            TuneError: when `evaluate` returns neither a number nor a mapping of numbers with `loss`.
        """
        generators = self._generators.capture()
        flags = [(module, module.training) for module in self._model.modules()]
        try:
            result = self._evaluate()
        finally:
            for module, training in flags:
                module.training = training
            self._generators.restore(generators)
        metrics = dict(result) if isinstance(result, Mapping) else {"loss": result}
        try:
            single = {_signal(name): _numbers(value) for name, value in metrics.items()}
            values = {name: sum(numbers) / len(numbers) for name, numbers in single.items()}
        except (TypeError, ValueError, ZeroDivisionError) as error:
            raise TuneError(
                "evaluate returns a number, losses of examples or batches, or a mapping of these, "
                f"got {result!r}; return the loss"
            ) from error
        if "validation/loss" not in values:
            raise TuneError(
                f"what evaluate returns has a `loss`, got {', '.join(metrics) or 'nothing'}; "
                "add it, since policies and the best checkpoint go by it"
            )
        losses = single["validation/loss"]
        self.losses = tuple(losses) if len(losses) > 1 else ()
        if self.losses:
            values["validation/loss_error"] = standard_error(losses)
        return dict(sorted(values.items()))


def standard_error(values: Sequence[float]) -> float:
    """Of their mean, were they drawn independently; NaN when it cannot be known."""
    n = len(values)
    if n < 2:
        return math.nan
    mean = sum(values) / n
    return math.sqrt(sum((value - mean) * (value - mean) for value in values) / (n - 1) / n)


def _numbers(value: Any) -> list[float]:
    if hasattr(value, "tolist"):
        value = value.tolist()  # sync: evaluated
    return [float(number) for number in value] if isinstance(value, Sequence) else [float(value)]


def _signal(name: object) -> str:
    return f"{name}" if f"{name}".startswith("train/") else f"validation/{name}"
