"""The policies of a run, asked in order; one that breaks the rules is benched, and training goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .executor import Executor
from .records import Action, Decision, Escalate, Observation, Policy, Rewind, Stop, TuneError

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
        self, policies: Sequence[Policy], measured: frozenset[str], hyperparameters: frozenset[str]
    ) -> None:
        for policy in policies:
            if not isinstance(policy, Policy):
                raise TuneError(
                    "a policy has name, requires, controls, decide, state_dict and load_state_dict, "
                    f"got {policy!r}; see autotune.Policy"
                )
            for what, needed, there in (
                ("signal", policy.requires, measured),
                ("hyperparameter", policy.controls, hyperparameters),
            ):
                missing = sorted(set(needed) - there)
                if missing:
                    raise TuneError(
                        f"policy {policy.name!r} needs the {what} {missing[0]!r}, which is not there; "
                        f"there are: {', '.join(sorted(there)) or 'none'}. {_REMEDIES[what]}"
                    )
        names = [policy.name for policy in policies]
        for name in names:
            if names.count(name) > 1 or name == "supervisor" or ":" in name:
                raise TuneError(
                    f"policies have names of their own, got {name!r} twice or reserved; rename one"
                )
        self.policies = tuple(policies)
        self.benched: dict[str, str] = {}
        """Why each benched policy sits there."""
        self._seen = dict.fromkeys(names, 0)
        self._clamped = dict.fromkeys(names, 0)

    def ask(self, observe: Callable[[Sequence[Decision]], Observation], executor: Executor) -> None:
        """Let each policy decide once; after a rewind or a stop the rest wait for the next tick."""
        for policy in self.policies:
            if policy.name in self.benched:
                continue
            since, self._seen[policy.name] = self._seen[policy.name], len(executor.decisions)
            try:
                actions = list(policy.decide(observe(executor.decisions[since:])))
                wrong = next((a for a in actions if not isinstance(a, Action)), None)
                if wrong is not None:
                    raise TypeError(f"decide returns actions, got {wrong!r}")
            except Exception as error:
                self._bench(policy, f"decide raised {type(error).__name__}: {error}", executor)
                continue
            if self._submit(policy, actions, executor):
                return

    def state_dict(self) -> dict[str, Any]:
        """The memory of every policy, and who is benched."""
        return {"policies": {p.name: p.state_dict() for p in self.policies}, "benched": dict(self.benched)}

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
        for policy in self.policies:
            policy.load_state_dict(state["policies"][policy.name])
        self.benched = dict(state["benched"])

    def _submit(self, policy: Policy, actions: Sequence[Action], executor: Executor) -> bool:
        """Submit what a policy wants; returns whether the run was moved or stopped."""
        for action in actions:
            decision, fault, _ = executor.submit(action, policy.name, frozenset(policy.controls))
            clamped = self._clamped[policy.name] + 1 if decision.status == "clamped" else 0
            self._clamped[policy.name] = clamped
            if fault:
                self._bench(policy, decision.note, executor)
            elif clamped >= OUT_OF_BOUNDS:
                self._bench(policy, f"{clamped} decisions in a row were out of bounds", executor)
            if decision.applied and isinstance(action, Rewind | Stop):
                return True
            if policy.name in self.benched:
                return False
        return False

    def _bench(self, policy: Policy, why: str, executor: Executor) -> None:
        self.benched[policy.name] = why
        executor.submit(Escalate(reason=f"{policy.name} is benched: {why}"), "supervisor")


_REMEDIES = {
    "signal": "Measure it (evaluate=..., sensors=...), or report it and name it in reports=(...).",
    "hyperparameter": "Register it in hyperparameters=[...], or give the policy the right name.",
}
