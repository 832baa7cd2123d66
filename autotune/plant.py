"""The plant: everything of a run that training changes, read as one tree and put back in place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.optim import Optimizer

from .generators import AnyGenerator, Generators
from .inplace import Merge, copied, local
from .records import TuneError

_SHOWN = 3  # parameters that an error names


@runtime_checkable
class Stateful(Protocol):
    """Anything with a state of its own: a scheduler, a GradScaler, a user's object."""

    def state_dict(self) -> dict[str, Any]:
        """The state."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Take the state back."""
        ...


class Plant:
    """Model, optimizer and what else training changes; not data, hyperparameters, sensors.

    Python attributes of modules and optimizers (a counter, a flag) are not seen: make them buffers, or give
    the module `get_extra_state`. Gradients are taken for spent: a state belongs to a step boundary.

    Args:
        model: its parameters, buffers (non-persistent ones too), flags and extra state.
        optimizer: groups and state, whatever it keeps there.
        stateful: further parts by name: modules (EMA), optimizers, random generators (which are registered
            with `generators`), and anything with `state_dict` and `load_state_dict`.
        generators: the run's.

    Raises:
        TuneError: when the optimizer holds none of the model's parameters, a module has parameters that are
            not yet initialised, or a part has no state that could be restored.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        stateful: Mapping[str, object],
        generators: Generators,
    ) -> None:
        self.generators = generators
        self._modules: dict[str, nn.Module] = {}
        self._optimizers: dict[str, Optimizer] = {}
        self._others: dict[str, Stateful] = {}
        self._loose: dict[str, Tensor] = {}  # parameters that an optimizer holds and no module
        if taken := {"model", "optimizer"} & stateful.keys():
            raise TuneError(f"stateful parts need names of their own, got {min(taken)!r}; choose another")
        for name, part in {"model": model, "optimizer": optimizer, **stateful}.items():
            match part:
                case nn.Module():
                    self._modules[name] = getattr(part, "_orig_mod", part)  # what torch.compile wraps
                case Optimizer():
                    self._optimizers[name] = part
                case _ if isinstance(part, AnyGenerator):
                    generators.register(name, part)
                case Stateful():
                    self._others[name] = part
                case _:
                    raise TuneError(
                        f"a stateful part is a module, an optimizer, a random generator, or has state_dict "
                        f"and load_state_dict; got {type(part).__name__} for {name!r}; leave it out"
                    )
        self._check_parts(model, optimizer)

    def state(self) -> dict[str, Any]:
        """The state as nested plain containers whose tensors are the live ones, not copies."""
        parameters = self._parameters()
        names = {id(p): name for name, p in parameters.items()}
        with torch.no_grad():
            return {
                "parameters": {name: local(p) for name, p in parameters.items()},
                "requires_grad": {name: p.requires_grad for name, p in parameters.items()},
                "gradients": [name for name, p in parameters.items() if p.grad is not None],
                "buffers": {
                    name: None if buffer is None else local(buffer) for _, _, name, buffer in self._buffers()
                },
                "training": {name: module.training for name, module in self._submodules()},
                "extra": {name: module.get_extra_state() for name, module in self._with_extra()},
                "optimizers": {name: _optimizer_state(o, names) for name, o in self._optimizers.items()},
                # sync: GradScaler.state_dict reads its scale
                "others": {name: part.state_dict() for name, part in self._others.items()},
            }

    def check(self, state: Mapping[str, Any]) -> None:
        """Whether `load` could take `state`.

        Raises:
            TuneError: when it comes from another model, optimizer or set of stateful parts; it says which.
        """
        here: dict[str, Any] = {name: _kind(local(p)) for name, p in self._parameters().items()}
        there: dict[str, Any] = {name: _kind(tensor) for name, tensor in state["parameters"].items()}
        here |= {name: type(optimizer).__name__ for name, optimizer in self._optimizers.items()}
        there |= {name: optimizer["class"] for name, optimizer in state["optimizers"].items()}
        here |= dict.fromkeys(self._others, "present")
        there |= dict.fromkeys(state["others"], "present")
        differing = [name for name in here | there if here.get(name) != there.get(name)]
        if differing:
            shown = "; ".join(
                f"{name} is {_shown(here.get(name))} in the run, {_shown(there.get(name))} in the state"
                for name in differing[:_SHOWN]
            )
            raise TuneError(
                f"a state fits the model and optimizer that it came from, but {len(differing)} parts differ: "
                f"{shown}; build model, optimizer and stateful parts as they were, or start a new run"
            )

    def load(self, state: Mapping[str, Any]) -> None:
        """Put everything back, in place: no live tensor moves, none shares memory with `state` afterwards.

        Optimizer state that `state` lacks goes; what the plant has lost is made again. Gradients become zero
        or None, as they were present or not. The random generators are not touched: they come last, after
        the tuner's own parts.

        Args:
            state: a copy of what `state()` returned, on any device.

        Raises:
            TuneError: as `check`; nothing is touched then.
        """
        self.check(state)
        for name, part in self._others.items():  # first: a scheduler may write to its optimizer's groups
            part.load_state_dict(copied(state["others"][name], torch.clone))
        parameters = self._parameters()
        merge = Merge()
        with torch.no_grad():
            for name, p in parameters.items():
                merge.value(p, state["parameters"][name], p.device)
                if p.requires_grad != state["requires_grad"][name]:
                    p.requires_grad_(state["requires_grad"][name])
            self._load_gradients(parameters, state["gradients"])
            self._load_buffers(state["buffers"], merge)
            for name, module in self._submodules():
                module.training = state["training"].get(name, module.training)
            for name, module in self._with_extra():
                if name in state["extra"]:
                    module.set_extra_state(copied(state["extra"][name], torch.clone))
            for name, optimizer in self._optimizers.items():
                _load_optimizer(optimizer, state["optimizers"][name], parameters, merge)
            merge.copy()

    def _check_parts(self, model: nn.Module, optimizer: Optimizer) -> None:
        for name, p in self._parameters().items():
            if is_lazy(p):
                raise TuneError(
                    f"parameters must have their shapes, got the uninitialised {name}; run one batch first"
                )
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not held & {id(p) for p in model.parameters()}:
            raise TuneError(
                f"the optimizer must hold parameters of the model, got one with {len(held)} others; "
                "make it from model.parameters(), after the model has got its final parameters"
            )

    def _parameters(self) -> dict[str, Tensor]:
        """Every parameter once, under its first name: tied weights, and an EMA that shares some."""
        found: dict[str, Tensor] = {}
        seen: set[int] = set()
        for root, module in self._modules.items():
            for name, p in module.named_parameters(prefix=root):
                if id(p) not in seen:
                    found[name] = p
                    seen.add(id(p))
        seen |= {id(p) for p in self._loose.values()}
        for root, optimizer in self._optimizers.items():
            for tensor in _held(optimizer):
                if id(tensor) not in seen:
                    self._loose[f"{root}/{len(self._loose)}"] = tensor
                    seen.add(id(tensor))
        return found | self._loose

    def _submodules(self) -> Iterator[tuple[str, nn.Module]]:
        for root, module in self._modules.items():
            yield from module.named_modules(prefix=root)

    def _with_extra(self) -> Iterator[tuple[str, nn.Module]]:
        for name, module in self._submodules():
            if type(module).get_extra_state is not nn.Module.get_extra_state:
                yield name, module

    def _buffers(self) -> Iterator[tuple[nn.Module, str, str, Tensor | None]]:
        """The module that holds it, its key there, its full name, and the buffer."""
        for name, module in self._submodules():
            for key, buffer in module._buffers.items():
                yield module, key, f"{name}.{key}", buffer

    @staticmethod
    def _load_gradients(parameters: dict[str, Tensor], present: Sequence[str]) -> None:
        there = set(present)
        spent = []
        for name, p in parameters.items():
            if name not in there:
                p.grad = None
            elif p.grad is None:
                p.grad = torch.zeros_like(p)
            else:
                spent.append(local(p.grad))
        if spent:
            torch._foreach_zero_(spent)

    def _load_buffers(self, saved: Mapping[str, Any], merge: Merge) -> None:
        buffers = list(self._buffers())
        modules = dict(self._submodules())
        for name in saved.keys() - {name for _, _, name, _ in buffers}:
            root, _, key = name.rpartition(".")
            if root in modules:
                modules[root].register_buffer(key, None)
                buffers.append((modules[root], key, name, None))
        for module, key, name, live in buffers:
            if name not in saved:
                delattr(module, key)
                continue
            device = live.device if live is not None else next(module.parameters(), saved[name]).device
            value = merge.value(live, saved[name], device)
            if value is not live:
                setattr(module, key, value)


def _optimizer_state(optimizer: Optimizer, names: Mapping[int, str]) -> dict[str, Any]:
    groups = [
        {**group, "params": [names[id(p)] for p in group["params"]]} for group in optimizer.param_groups
    ]
    state: dict[str, Any] = {}
    shared: dict[Any, Any] = {}  # what some optimizers keep beside the state of single parameters
    entries: Mapping[Any, Any] = optimizer.state
    for key, values in entries.items():
        if isinstance(key, Tensor):
            state[names[id(key)]] = {k: local(v) if isinstance(v, Tensor) else v for k, v in values.items()}
        else:
            shared[key] = values
    return {"class": type(optimizer).__name__, "groups": groups, "state": state, "shared": shared}


def _load_optimizer(
    optimizer: Optimizer, saved: Mapping[str, Any], parameters: Mapping[str, Tensor], merge: Merge
) -> None:
    groups = optimizer.param_groups
    del groups[len(saved["groups"]) :]
    groups.extend({"params": []} for _ in range(len(saved["groups"]) - len(groups)))
    beside: set[int] = set()  # parameters whose step counter lies on their own device
    for group, kept in zip(groups, saved["groups"], strict=True):
        params = [parameters[name] for name in kept["params"]]
        if list(map(id, params)) != list(map(id, group["params"])):
            group["params"] = params
        merge.update(group, kept, skip="params")
        if group.get("capturable") or group.get("fused"):
            beside.update(map(id, params))

    here = {parameters[name]: kept for name, kept in saved["state"].items()} | saved["shared"]
    for key in optimizer.state.keys() - here.keys():
        del optimizer.state[key]
    for key, kept in here.items():
        if not isinstance(key, Tensor):
            optimizer.state[key] = merge.value(optimizer.state.get(key), kept)
            continue
        live = optimizer.state.setdefault(key, {})
        merge.forget(live, kept)
        for name, value in kept.items():
            stays = name == "step" and id(key) not in beside  # as in Optimizer.load_state_dict
            live[name] = merge.value(live.get(name), value, None if stays else key.device)


def _held(optimizer: Optimizer) -> Iterable[Tensor]:
    for group in optimizer.param_groups:
        yield from group["params"]
    yield from (key for key in optimizer.state if isinstance(key, Tensor))


def _kind(tensor: Tensor) -> tuple[torch.dtype, torch.Size]:
    return tensor.dtype, tensor.shape


def _shown(part: tuple[torch.dtype, torch.Size] | str | None) -> str:
    match part:
        case (dtype, shape):
            return f"{str(dtype).removeprefix('torch.')}{list(shape)}"
    return part or "missing"
