"""One number in an optimizer's param groups: written at once, or lent to each step under a scheduler."""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.hooks import RemovableHandle

from ..hyperparameters import Actuator
from ..records import TuneError

Schedule: TypeAlias = Literal["multiply", "override"]
SCHEDULES: tuple[Schedule, ...] = ("multiply", "override")


class ParamGroups(Actuator[float]):
    """A number under `key` of one param group, or of all of them at fixed ratios.

    The groups are looked up at every access, because `load_state_dict` and accelerate's `prepare` replace
    them. Numbers are replaced, tensors filled in place, so that a compiled step is not compiled again.

    With several groups, the value is that of the first one that is not zero; the others keep the ratio to it
    that they had when they were first seen. A group that holds zero there is left alone, for zero means "not
    here" (the weight decay of biases); where all are zero, all are written alike. Groups that are added later
    join at the ratio that they have at the next write or step.

    Without a `schedule`, `write` changes the groups at once. With one, the groups belong to the scheduler
    between steps: its value is replaced just before each step and given back just after it, so that neither
    sees the other. That works from `attach` to `detach`.

    Args:
        optimizer: its groups are read and written; wrappers that hold an `.optimizer` are unwrapped.
        key: the entry of a param group, such as `lr`.
        element: index into the entry where that is a tuple, such as 0 for the first of `betas`.
        group: index of the one param group to write; None for all.
        schedule: None; `multiply` (the value is a factor on the scheduler's, 1.0 at first); `override` (the
            value takes the scheduler's place, starting from where that stands).
        equal: refuse groups that hold different values, where a ratio makes no sense.

    Raises:
        TuneError: for something that is no optimizer, an optimizer without `key`, a group that does not
            exist, groups that must be equal and are not, an unknown schedule, or a scheduler that drives the
            same number while `schedule` is None.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        key: str,
        *,
        element: int | None = None,
        group: int | None = None,
        schedule: Schedule | None = None,
        equal: bool = False,
    ) -> None:
        self.optimizer = unwrap(optimizer)
        self.key, self.element, self.group, self.schedule = key, element, group, schedule
        groups = self.optimizer.param_groups
        if any(key not in g for g in groups):
            raise TuneError(
                f"{type(self.optimizer).__name__} has no {key!r} in its param groups, which hold "
                f"{', '.join(k for k in groups[0] if k != 'params')}; use one of those"
            )
        if group is not None and not 0 <= group < len(groups):
            raise TuneError(
                f"group is the index of a param group, 0 to {len(groups) - 1}, got {group!r}; "
                "None stands for all of them"
            )
        if schedule is not None and schedule not in SCHEDULES:
            raise TuneError(f"schedule is None, {' or '.join(map(repr, SCHEDULES))}, got {schedule!r}")
        self._refuse_two_owners()
        self._ratios: dict[int, float] = {}
        self._lent: list[tuple[int, Any, Any]] = []
        self._handles: list[RemovableHandle] = []
        first = self._chosen()[0]
        if equal and any(ratio != 1.0 for ratio in self._ratios.values()):
            held = ", ".join(f"{self._number(i):g}" for i in self._ratios)
            raise TuneError(
                f"one {self.key!r} for all param groups needs groups that hold the same, got {held}; "
                "make one hyperparameter a group, with group=0, group=1, ..."
            )
        self._value = 1.0 if schedule == "multiply" else self._number(first)

    @property
    def targets(self) -> frozenset[Hashable]:
        """One for each group that is written now."""
        key = self.key if self.element is None else f"{self.key}[{self.element}]"
        return frozenset(("param_group", id(self.optimizer), i, key) for i in self._chosen())

    def read(self) -> float:
        """What the first group that is written holds; with a schedule, the factor or the value lent to it."""
        return self._number(self._chosen()[0]) if self.schedule is None else self._value

    def write(self, value: float) -> float:
        """Write all groups, now or (with a schedule) at each step from the next one on."""
        if self.schedule is None:
            for i in self._chosen():
                self._put(i, value * self._ratios[i])
        else:
            self._value = value
        return self.read()

    def attach(self) -> None:
        """With a schedule, register the hooks that lend the value to the optimizer's steps."""
        self._refuse_two_owners()
        if self.schedule is not None:
            self.detach()
            self._handles = step_hooks(self.optimizer, self._lend, self._give_back)

    def detach(self) -> None:
        """Remove the hooks: from here on the scheduler's own value is used."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _lend(self, *_: Any) -> None:
        self._recover()
        for i in self._chosen():
            own = self._get(i)
            if isinstance(own, Tensor):
                own = own.clone()
            self._put(i, own * self._value if self.schedule == "multiply" else self._value * self._ratios[i])
            written = self._get(i)
            self._lent.append((i, own, written.clone() if isinstance(written, Tensor) else written))

    def _give_back(self, *_: Any) -> None:
        for i, own, _written in self._lent:
            self._put(i, own)
        self._lent.clear()

    def _recover(self) -> None:
        """Give back what a step that raised did not, unless a rewind or the scheduler has written since."""
        groups = len(self.optimizer.param_groups)
        self._lent = [
            (i, own, written)
            for i, own, written in self._lent
            if i < groups and float(self._get(i)) == float(written)  # sync: only after a step that raised
        ]
        self._give_back()

    def _chosen(self) -> list[int]:
        """Indices of the groups to write; those that are new get their ratio."""
        count = len(self.optimizer.param_groups)
        indices = range(count) if self.group is None else (self.group,)
        new = [i for i in indices if i not in self._ratios]
        if new:
            self._meet(new)
        return [i for i in indices if self._ratios[i] or self.schedule == "multiply"]

    def _meet(self, new: list[int]) -> None:
        for i in new:
            self._unshare(i)
        values = {i: self._number(i) for i in new}
        known = [self._number(i) for i, ratio in self._ratios.items() if ratio == 1.0][:1]
        first = next((v for v in [*known, *values.values()] if v), 0.0)
        for i, value in values.items():
            self._ratios[i] = value / first if first else 1.0

    def _unshare(self, i: int) -> None:
        """Give group `i` a tensor of its own: torch lets all groups share that of the defaults."""
        own = self._get(i)
        others = (self._get(j) for j in range(len(self.optimizer.param_groups)) if j != i)
        if isinstance(own, Tensor) and any(own is other for other in others):
            self._replace(i, own.clone())

    def _number(self, i: int) -> float:
        number = float(self._get(i))  # sync: where the number is a tensor on a device
        if number == 0.0 and self.key == "lr" and self.schedule == "override":
            # A warm-up stands at zero before its first step: what it leads to says more.
            return float(self.optimizer.param_groups[i].get("initial_lr", 0.0))  # sync: as above
        return number

    def _get(self, i: int) -> Any:
        entry = self.optimizer.param_groups[i][self.key]
        return entry if self.element is None else entry[self.element]

    def _put(self, i: int, value: Any) -> None:
        held = self._get(i)
        if isinstance(held, Tensor):
            held.copy_(value) if isinstance(value, Tensor) else held.fill_(value)
        else:
            self._replace(i, value)

    def _replace(self, i: int, value: Any) -> None:
        group = self.optimizer.param_groups[i]
        if self.element is not None:
            entry = group[self.key]
            value = (*entry[: self.element], value, *entry[self.element + 1 :])
        group[self.key] = value

    def _refuse_two_owners(self) -> None:
        driver = driven_by(self.optimizer, self.key, self.element) if self.schedule is None else None
        if driver is not None:
            modes = "schedule='override' to take it over"
            if self.key == "lr":
                modes = f"schedule='multiply' to scale the schedule, or {modes}"
            raise TuneError(
                f"each value has one owner, but {driver} drives this optimizer's {self.key!r} already; "
                f"pass {modes}"
            )


def unwrap(optimizer: Any) -> Optimizer:
    """The optimizer whose `step` really runs, inside wrappers such as accelerate's.

    Raises:
        TuneError: when it is no optimizer.
    """
    while isinstance(getattr(optimizer, "optimizer", None), Optimizer):
        optimizer = optimizer.optimizer
    if not isinstance(optimizer, Optimizer):
        raise TuneError(f"optimizer is a torch.optim.Optimizer, got {optimizer!r}; pass the object itself")
    return optimizer


def step_hooks(
    optimizer: Optimizer, before: Callable[..., None], after: Callable[..., None] | None = None
) -> list[RemovableHandle]:
    """Call `before` last before each step and `after` first after it, outside of compiled graphs."""
    outside: Any = torch.compiler.disable  # inside, a step would be traced again at each new value
    handles = [optimizer.register_step_pre_hook(outside(before))]
    if after is not None:
        handle = optimizer.register_step_post_hook(outside(after))
        hooks: Any = handle.hooks_dict_ref()
        hooks.move_to_end(handle.id, last=False)  # a scheduler that steps in a hook finds its own value
        handles.append(handle)
    return handles


def driven_by(optimizer: Optimizer, key: str, element: int | None = None) -> str | None:
    """What schedules `key` of the optimizer's param groups; None when nothing does, as far as can be seen.

    Every torch scheduler but `ReduceLROnPlateau` marks the optimizer; that one is found by asking the garbage
    collector who refers to it. CyclicLR and OneCycleLR also move the momentum or the first beta, and mark
    the groups when they do. A scheduler that is made later, or that is no torch scheduler and marks nothing,
    is not seen.
    """
    groups = optimizer.param_groups
    if key == "momentum" or (key, element) == ("betas", 0):
        marked = any("max_momentum" in group for group in groups)
        return "a scheduler that cycles the momentum" if marked else None
    if key != "lr":
        return None
    marked = any("initial_lr" in group for group in groups)
    left = "a scheduler (it left 'initial_lr' in the param groups)" if marked else None
    return _scheduler_of(optimizer) or left


def _scheduler_of(optimizer: Optimizer) -> str | None:
    """The kind of a live scheduler of the optimizer, or of one that wraps it."""
    holders = gc.get_referrers(optimizer)
    # An object refers to its attributes itself, or by a dictionary once someone has asked for that. Those of
    # modules are left out: each call here walks all that the process has imported.
    attributes = [
        held
        for held in holders
        if type(held) is dict and held.get("optimizer") is optimizer and "__builtins__" not in held
    ]
    # Not added to `holders`, which is among them: a list that holds itself keeps all that it holds alive.
    owners = gc.get_referrers(*attributes) if attributes else []
    for thing in (*holders, *owners):
        # `type`, because isinstance asks proxies for their `__class__`, which may raise or load them.
        kind = type(thing)
        if issubclass(kind, LRScheduler | Optimizer) and thing.__dict__.get("optimizer") is optimizer:
            found = kind.__name__ if issubclass(kind, LRScheduler) else _scheduler_of(thing)
            if found is not None:
                return found
    return None
