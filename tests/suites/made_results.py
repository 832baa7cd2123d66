"""Results of a suite that nobody ran: invented numbers in the shape of real ones, for tests of reports."""

import math
import random
from collections.abc import Sequence

from autotune.benchmarks.suites.results import (
    Cell,
    Config,
    Event,
    Finished,
    Look,
    Outcome,
    Results,
    Trial,
)

FACTORS = tuple(10.0**power for power in range(-3, 4))
WORKLOADS = (
    "digits MLP, SGD",
    "digits MLP, AdamW",
    "CNN with BatchNorm",
    "byte transformer",
    "LSTM",
    "modular addition",
    "teacher–student",
    "variational autoencoder",
    "40 % label noise",
    "CartPole, PPO",
)
# By arm: the least score, how much of the rate's error it corrects, how many decisions it takes (None: it
# is no policy), and whether it uses the rate.
ARMS = {
    "tuned baseline": (1.0, 1.0, None, False),
    "constant": (1.08, 0.0, None, True),
    "cosine": (1.02, 0.0, None, True),
    "OneCycleLR": (1.04, 0.0, None, True),
    "ReduceLROnPlateau": (1.05, 0.1, None, True),
    "GreedyLR": (1.1, 0.25, None, True),
    "schedule-free": (1.03, 0.05, None, True),
    "Prodigy": (1.06, 1.0, None, False),
    "D-adaptation": (1.12, 1.0, None, False),
    "plateau": (1.05, 0.1, 4, True),
    "guard": (1.04, 0.3, 2, True),
    "hypergradient": (1.07, 0.5, 8, True),
    "recommended": (1.03, 0.95, 6, True),
    "recommended on schedule": (1.01, 0.4, 1, True),
}
SCHEDULES = ("constant", "step", "linear", "cosine", "inverse_sqrt", "wsd", "1cycle")


def made_results(
    workloads: Sequence[str] = WORKLOADS[:2],
    arms: Sequence[str] = tuple(ARMS),
    seeds: int = 3,
    factors: Sequence[float] = FACTORS,
    budgets: Sequence[float] = (1.0, 1.15),
    trials: int = 20,
    mishaps: bool = True,
) -> Results:
    """A whole suite.

    Args:
        workloads: names.
        arms: of `ARMS`; the baseline comes first.
        seeds: how many.
        factors: initial rates over the tuned one.
        budgets: those beyond 1 are for policies and the baseline.
        trials: of each search.
        mishaps: an error in one run of `GreedyLR`, and one of `hypergradient` that was never run.
    """
    cells = [
        Cell(workload, arm, factor, budget, seed)
        for workload in workloads
        for seed in range(seeds)
        for arm in arms
        for budget in budgets
        if budget == 1.0 or ARMS[arm][2] is not None or arm == "tuned baseline"
        for factor in (factors if ARMS[arm][3] else (None,))
    ]
    finished = [Finished(cell, _outcome(cell, workloads.index(cell.workload))) for cell in cells]
    if mishaps:
        finished = [
            Finished(item.cell, None, "RuntimeError: expected a rate of at most 1, got 10")
            if item.cell == Cell(workloads[0], "GreedyLR", factors[-1], 1.0, 1)
            else item
            for item in finished
            if item.cell != Cell(workloads[0], "hypergradient", factors[0], 1.0, 0)
        ]
    searches = {w: _searches(i, trials) for i, w in enumerate(workloads)}
    return Results(
        suite="made",
        command="autotune bench run made --workers 2",
        versions={"autotune": "0.1.0", "torch": "2.13.0", "Python": "3.11.9", "machine": "x86_64, 4 cores"},
        searches=searches,
        tuned={w: _winner(searches[w]) for w in workloads},
        targets=dict.fromkeys(workloads, 0.6),
        steps={w: 300 + 50 * i for i, w in enumerate(workloads)},
        cells=tuple(finished),
        planned=len(cells),
    )


def _tuned_rate(workload: int) -> float:
    return float(f"{10 ** (-3 + workload * 0.37):.3g}")


def _outcome(cell: Cell, workload: int) -> Outcome:
    least, corrected, decisions, _ = ARMS[cell.arm]
    noise = random.Random(cell.key)
    off = math.log10(cell.factor or 1.0) * (1 - corrected)
    steps = 300 + 50 * workload
    allowed = cell.budget * steps
    initial = 2.3 + 0.1 * cell.seed
    blown = off > 1.6 and decisions is None and workload % 3 == 0
    base = 0.4 + 0.02 * cell.seed
    worse = least * (1 + 0.5 * off**2 * (1 if off > 0 else 0.6)) * math.exp(noise.gauss(0, 0.02))
    final = math.nan if blown else base * worse / cell.budget**0.2
    rate = _tuned_rate(workload) * (cell.factor or 1.0)
    looks, events = [], []
    changes = sorted(noise.sample(range(2, 22), decisions or 0))
    target_rate = _tuned_rate(workload) * 10**off
    for i in range(26):
        part = i / 25
        if i in changes:
            before, rate = rate, rate * (target_rate / rate) ** 0.7 * 0.9
            spent = int(part * allowed)
            status = "refused" if noise.random() < 0.2 else "applied"
            kind = "rewind" if noise.random() < 0.25 else "set"
            text = f"{kind} lr {before:.3g} → {rate:.3g}: validation has not improved for 4 looks"
            events.append(Event(spent, spent, cell.arm, text, status))
        loss = (
            math.nan
            if blown and part > 0.3
            else min(initial, base * worse)
            + (initial - min(initial, base * worse)) * math.exp(-5 * part) * math.exp(noise.gauss(0, 0.01))
        )
        looks.append(Look(part * allowed, loss, rate))
    selections = [look.selection for look in looks if not math.isnan(look.selection)]
    return Outcome(
        initial=initial,
        final=final,
        best=min(initial, base * worse * 0.99),
        initial_selection=initial,
        selection=looks[-1].selection,
        best_selection=min(selections),
        steps=int(allowed * 0.9),
        spent=allowed,
        allowed=allowed,
        seconds=1.5,
        looks=looks,
        events=events,
    )


def _winner(searches: dict) -> Config:
    whole = [trial for trials in searches.values() for trial in trials if not trial.pruned]
    return min(whole, key=lambda trial: trial.loss).config


def _searches(workload: int, trials: int) -> dict:
    noise = random.Random(workload)
    return {
        method: tuple(_trial(workload, noise, method == "asha" and i % 3 == 1) for i in range(trials))
        for method in ("grid", "random", "tpe", "asha", "top_of_k")
    }


def _trial(workload: int, noise: random.Random, pruned: bool) -> Trial:
    off = noise.uniform(-2, 2)
    schedule = noise.choice(SCHEDULES)
    decay = noise.choice((None, 0.0, 1e-4, 1e-3, 1e-2, 1e-1))
    loss = min(
        2.3,
        0.41 * (1 + 0.1 * (1 + workload % 3) * off**2) * (1 + 0.08 * SCHEDULES.index(schedule))
        + 3 * (decay or 0),
    )
    steps = (300 + 50 * workload) * (0.2 if pruned else 1.0)
    loss = loss * 1.5 if pruned else loss
    curve = tuple((steps * i / 5, loss + (2.3 - loss) * math.exp(-i)) for i in range(6))
    return Trial(Config(_tuned_rate(workload) * 10**off, schedule, decay), loss, steps, pruned, curve)
