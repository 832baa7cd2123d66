"""`autotune demo`: a run that starts 100 times too high, meets a burst of bad data, and ends well."""

from __future__ import annotations

import shutil
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from autotune.benchmarks import digits

from .plot import plot_run
from .records import Decision
from .tuner import AutoTuner, new_folder


def main(*, seed: int = 0, output: Path = Path("demo")) -> None:
    """Train the digits three ways, show the tuned one live, and say where to look.

    Args:
        seed: of the split, the initial weights and the order of the data.
        output: folder for the picture of the run.
    """
    console = Console()
    console.print("[bold]1.[/] The usual way: a small grid of static learning rates, on clean data.")
    start = time.perf_counter()
    rate, static = digits.best_static(seed)
    console.print(
        f"   best of {len(digits.RATES)}: {rate:g} ({digits.STEPS} steps each, "
        f"{time.perf_counter() - start:.0f} s in all)"
    )
    too_high = digits.TOO_HIGH * rate
    burst = f"batches {digits.BURST.start} to {digits.BURST.stop - 1} corrupted"
    console.print(f"[bold]2.[/] One run from {too_high:g}, 100 times too high, {burst}.")
    console.print("   Without a tuner ...")
    bare = digits.bare(seed, too_high, digits.BURST)
    console.print(f"   {bare.test:.1f} % test accuracy. [bold]3.[/] The same with a tuner:")
    folder = new_folder()
    tuned = _watched(console, seed, too_high, folder)

    table = Table(title=f"Digits, {digits.STEPS} steps each; every step that was undone counts")
    table.add_column("run")
    table.add_column("learning rate", justify="right")
    table.add_column("data")
    table.add_column("test accuracy", justify="right")
    table.add_row("best static rate", f"{rate:g}", "clean", f"{static.test:.1f} %")
    table.add_row("without the tuner", f"{too_high:g}", "with burst", f"{bare.test:.1f} %")
    table.add_row("with the tuner", f"from {too_high:g}", "with burst", f"{tuned.test:.1f} %")
    console.print(table)

    output.mkdir(parents=True, exist_ok=True)
    picture = output / "run.png"
    plot_run(folder, picture)
    console.print(f"The run:          {folder}")
    console.print(f"Its picture:      {picture}")
    console.print("Every decision:   [bold]autotune decisions[/]")
    console.print("In the MLflow UI: [bold]autotune mlflow[/]")
    console.print("The control page: [bold]autotune ui[/]")
    if shutil.which("autotune") is None:
        console.print("(`autotune` is in the environment's bin folder: .venv/bin/autotune)")


def _watched(console: Console, seed: int, rate: float, folder: Path) -> digits.Result:
    """Train with a tuner and show loss, learning rate and the last decision as it goes."""
    progress = Progress(
        TextColumn("  "),
        BarColumn(bar_width=12),
        TextColumn(
            "{task.completed:.0f}/{task.total:.0f} loss {task.fields[loss]:<8} lr {task.fields[rate]:<8}"
        ),
        TextColumn("{task.fields[last]}"),
        console=console,
    )
    shown = 0
    with progress:
        task = progress.add_task("tuned", total=digits.STEPS, loss="", rate="", last="")

        def watch(tuner: AutoTuner) -> None:
            nonlocal shown
            for decision in tuner.decisions[shown:]:
                shown += 1
                progress.console.print("   " + _line(decision), highlight=False, soft_wrap=True)
            if tuner.spent % 10 and tuner.spent < digits.STEPS:
                return
            loss = tuner.signals.get("loss")
            progress.update(
                task,
                completed=tuner.spent,
                loss=f"{loss.last:.4f}" if loss else "",
                rate=f"{tuner.hyperparameters['lr']():.3g}",
                last=_short(tuner.decisions[-1]) if shown else "",
            )

        return digits.tuned(seed, rate, folder, mlflow=True, watch=watch)


def _short(decision: Decision) -> str:
    return f"{decision.source}: {decision.action.kind} at {decision.step}"


def _line(decision: Decision) -> str:
    what = decision.action.describe() + ("" if decision.applied else f" ({decision.status}: {decision.note})")
    return f"step {decision.step:4} · {decision.source} · {what}\n             {decision.action.reason}"
