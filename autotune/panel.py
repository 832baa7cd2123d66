"""The policies of a run, asked in order; one that breaks the rules is benched, and training goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from .executor import BrokenRun, Executor
from .journal import JournalError
from .records import Action, Decision, Escalate, Observation, Policy, Rewind, Signal, Stop, TuneError
from .supervisor import TUNER, arranged

OUT_OF_BOUNDS = 3
"""Clamped decisions in a row after which a policy is benched."""


class Panel:
    """Asks each policy for its actions and submits them.

    Args:
        policies: in the order in which they are asked.
        measured: every signal there will be.
        hyperparameters: names of all that are registered.

    Raises:
        TuneError: for something that is no policy, two of one name, or a policy that needs a signal or a
            hyperparameter that is not there.
    """

    def __init__(
        self,
        policies: Sequence[Policy],
        measured: frozenset[str],
        hyperparameters: frozenset[str],
    ) -> None:
        if not isinstance(policies, Sequence):
            raise TuneError(f"policies is a list of policies, got {policies!r}; write [...] round it")
        for policy in policies:
            if isinstance(policy, list | tuple):
                raise TuneError(
                    f"a policy stands in the list by itself, got a list in the list, {policy!r}; "
                    "write a star before it, as in *schedules.one_cycle()"
                )
            if not isinstance(policy, Policy):
                raise TuneError(
                    "a policy has name, requires, controls, decide, state_dict and load_state_dict, "
                    f"got {policy!r}; see autotune.Policy"
                )
            for what, names in (("requires", policy.requires), ("controls", policy.controls)):
                if isinstance(names, str):
                    raise TuneError(
                        f"a policy's {what} is a sequence of names, got the string {names!r} from "
                        f"{policy.name!r}; write ({names!r},)"
                    )
            for what, needed, there in (
                ("signal", policy.requires, measured),
                ("hyperparameter", policy.controls, hyperparameters),
            ):
                missing = sorted(set(needed) - there)
                if missing and not getattr(policy, "optional", False):
                    raise TuneError(
                        f"policy {policy.name!r} needs the {what} {missing[0]!r}, which is not there; "
                        f"there are: {', '.join(sorted(there)) or 'none'}. {_REMEDIES[what]}"
                    )
        called = [policy.name for policy in policies]
        for name in called:
            if name == TUNER or ":" in name:
                raise TuneError(
                    f"{TUNER!r} and names with a colon are reserved, got {name!r}; rename the policy"
                )
            if called.count(name) > 1:
                raise TuneError(f"policies have names of their own, got {name!r} twice; rename one")
        self.policies = tuple(policies)
        self.benched: dict[str, str] = {}
        """Why each benched policy sits there."""
        self._seen = dict.fromkeys(called, 0)  # ids of decisions
        self._outside = dict.fromkeys(called, 0)

    def waiting(self, signals: Mapping[str, Signal]) -> list[str]:
        """Policies that cannot act, since a signal that they need has not been measured: one text each."""
        return [
            f"{policy.name} waits for {name}"
            for policy in self.policies
            for name in policy.requires
            if name not in signals and policy.name not in self.benched
            if not getattr(policy, "optional", False)
        ]

    def without_loss(self, signals: Mapping[str, Signal]) -> str | None:
        """The name of a policy that needs the loss, where there is none; None when all is well."""
        if "loss" in signals:
            return None
        asked = (p for p in self.policies if p.name not in self.benched and not getattr(p, "optional", False))
        return next((p.name for p in asked if "loss" in p.requires), None)

    def ask(self, observe: Callable[[Sequence[Decision]], Observation], executor: Executor) -> None:
        """Let each policy decide once; after a rewind or a stop the rest wait for the next tick."""
        for policy in self.policies:
            if policy.name in self.benched:
                continue
            unread = executor.since(self._seen[policy.name])
            self._seen[policy.name] = executor.last_id
            try:
                returned = policy.decide(observe(unread))
                actions = list(returned) if isinstance(returned, Iterable) else [returned]
                wrong = next((a for a in actions if not isinstance(a, Action)), None)
                if wrong is not None or not isinstance(returned, Iterable):
                    raise TypeError(f"it returns a sequence of actions, got {returned!r}")
            except Exception as error:
                self.bench(policy.name, f"decide raised {type(error).__name__}: {error}", executor)
                continue
            if self._submit(policy, actions, executor):
                return

    def state_dict(self) -> dict[str, Any]:
        """The memory of every policy, their order, the last decision that each was told, who is benched."""
        return {
            "order": [p.name for p in self.policies],
            "policies": {p.name: p.state_dict() for p in self.policies},
            "seen": dict(self._seen),
            "outside": dict(self._outside),
            "benched": dict(self.benched),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take the memory back.

        Raises:
            TuneError: when the policies are not those that were saved.
        """
        saved, here = set(state["policies"]), {policy.name for policy in self.policies}
        if saved != here:
            raise TuneError(
                f"a run resumes with the policies it had ({', '.join(sorted(saved)) or 'none'}), "
                f"got {', '.join(sorted(here)) or 'none'}; pass the same ones"
            )
        order = state.get("order", [policy.name for policy in self.policies])
        self.policies = tuple(sorted(self.policies, key=lambda policy: order.index(policy.name)))
        for policy in self.policies:
            policy.load_state_dict(state["policies"][policy.name])
        self.benched = dict(state["benched"])
        self._seen, self._outside = dict(state["seen"]), dict(state["outside"])

    def bench(self, name: str, why: str, executor: Executor) -> None:
        """Take a policy out of the run, on record."""
        if name not in self.benched:
            self.benched[name] = why
            executor.dismiss(name)
            executor.submit(Escalate(reason=f"{name} is benched: {why}"), TUNER)

    def arrange(self, names: Sequence[str], why: str, executor: Executor) -> None:
        """Ask the policies of these names, in this order, and bench the others, which keep their places.

        One that sat on the bench, for whatever reason, is given another chance.
        """
        known = {policy.name: policy for policy in self.policies}
        rest = [name for name in known if name not in names]
        self.policies = tuple(known[name] for name in arranged([*known], names))
        for name in names:
            self.benched.pop(name, None)
            self._outside[name] = 0
        for name in rest:
            if name not in self.benched:
                self.benched[name] = why
                executor.dismiss(name)

    def _submit(self, policy: Policy, actions: Sequence[Action], executor: Executor) -> bool:
        """Submit what a policy wants; returns whether the run was moved or stopped.

        What follows a rewind in the list is done in the state gone back to.
        """
        moved = False
        for action in actions:
            try:
                submitted = executor.submit(action, policy.name, frozenset(policy.controls))
            except (JournalError, BrokenRun):
                raise
            except Exception as error:  # what cannot even be recorded
                self.bench(policy.name, f"{action.kind}: {type(error).__name__}: {error}", executor)
                return moved
            outside = self._outside[policy.name] + 1 if submitted.verdict.out_of_bounds else 0
            self._outside[policy.name] = outside
            # A full disk is no fault of the policy's.
            broke = submitted.error is not None and not isinstance(submitted.error, OSError)
            if submitted.verdict.fault or broke:
                self.bench(policy.name, submitted.decision.note, executor)
            elif outside >= OUT_OF_BOUNDS:
                self.bench(policy.name, f"{outside} decisions in a row were out of bounds", executor)
            moved = moved or (submitted.decision.applied and isinstance(action, Rewind | Stop))
            if policy.name in self.benched:
                break
        return moved


_REMEDIES = {
    "signal": "Measure it (evaluate=..., sensors=...), or report it and name it in reports=(...).",
    "hyperparameter": "Register it in hyperparameters=[...], or give the policy the right name.",
}
