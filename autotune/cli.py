"""The command line: what runs have done, as text, JSON or a picture, and the way into MLflow.

What is slow to import (torch, mlflow, matplotlib) is imported by the commands that need it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from . import cli_control, cli_ui
from .cli_bench import bench
from .cli_words import ROOT, Root
from .cli_words import runs as runs_beginning
from .delivery import DeliveryError, run_link, target
from .delivery import sync as deliver
from .journal import Journal, JournalError
from .mlflow_server import ServerError, serve
from .places import is_database
from .records import TuneError
from .runs import Knob, Summary, UnknownRun, document, find, resolve, summarise, undelivered
from .terminal import age, number, print_line, print_table

FAILURE, USAGE = 1, 2
PICTURES = (".png", ".svg", ".pdf")


class Commands(TyperGroup):
    """Turns what can go wrong into one line on stderr and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise  # the reader has seen enough: typer ends without a word
        except (TuneError, DeliveryError, JournalError, ServerError, OSError) as error:
            typer.echo(f"autotune: {' '.join(str(error).split())}", err=True)
            raise typer.Exit(USAGE if isinstance(error, UnknownRun) else FAILURE) from error


app = typer.Typer(cls=Commands, rich_markup_mode=None, no_args_is_help=True, pretty_exceptions_enable=False)
app.add_typer(bench, name="bench")

Run = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", show_default=False,
        help="A run's folder, its name or the beginning of its name; left out or `latest`: the newest run.",
        autocompletion=runs_beginning,
    ),
]  # fmt: skip


def main() -> None:
    """The program `autotune`."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # a locale without arrows gets `?`
    try:
        try:
            app(prog_name="autotune")
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit flushes, and complains
        sys.exit(FAILURE)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"autotune {version('autotune-torch')}")
        raise typer.Exit


@app.callback()
def _options(
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Look at training runs that a closed-loop tuner has steered.

    A run is named by its folder, by its name, or by the beginning of its name.

    Exit codes: 0 all is well, 1 it failed, 2 wrong usage or no such run.

    Example: autotune show latest
    """


@app.command()
def runs(
    root: Root = ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document a line.")] = False,
) -> None:
    """List the runs, newest first.

    Example: autotune runs --root ~/experiments
    """
    places = find(root)
    if not places:
        typer.echo(f"autotune: no run in {root} yet", err=True)
        return
    if as_json:
        from .web.store import Store

        with contextlib.closing(Store(root)) as store:
            _print_json(*store.runs())
        return
    rows = []
    for place in places:
        try:
            run = summarise(place)
        except (TuneError, JournalError):
            rows.append([place.name, "unreadable", "", "", "", ""])
            continue
        last = run.decisions[-1] if run.decisions else None
        rows.append(
            [
                place.name,
                "paused" if run.paused else run.status,
                _steps(run),
                number(run.last.get("loss")),
                f"{last.source}: {last.action.describe()} ({last.status})" if last else "",
                age(run.created),
            ]
        )
    print_table(["RUN", "STATE", ">STEPS", ">LOSS", "LAST DECISION", ">AGE"], rows)


@app.command()
def show(
    run: Run = None,
    root: Root = ROOT,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """How a run stands, in figures.

    Example: autotune show latest --json | jq '.hyperparameters[] | {name, value, owner}'
    """
    place = resolve(run, root)
    if as_json:
        from .web.view import View

        with contextlib.closing(View(place)) as view:
            _print_json(view.document())
        return
    s = summarise(place)
    scores = [
        name for name in s.last if name in ("loss", "loss_mean") or name.startswith(("train/", "validation/"))
    ]
    facts = [
        ("run", s.place.name),
        ("folder", str(s.folder.resolve())),
        ("state", f"{'paused' if s.paused else s.status}, started {age(s.created)} ago"),
        ("steps", f"{_steps(s)} spent; at step {s.step:,} of branch {s.branch}"),
        *((name, number(s.last[name])) for name in scores),
        ("policies", ", ".join(s.policies) or "none"),
        ("mlflow", _mlflow(s)),
    ]
    width = max(len(name) for name, _ in facts)
    for name, text in facts:
        print_line(f"{name:<{width}}  {text}")
    counts = Counter((d.source, d.status) for d in s.decisions)
    knobs = [
        [k.name, number(k.value), k.unit, k.owner, number(k.low), number(k.high), _pin(s, k), _way(s, k)]
        for k in s.knobs
    ]
    made = [[source, status, str(count)] for (source, status), count in counts.items()]
    saved = [
        [c.name, str(c.step), f"{c.nbytes / 1e6:.1f}", number(c.score), "for ever" if c.pinned else ""]
        for c in s.checkpoints
    ]
    for columns, rows in (
        (["HYPERPARAMETER", ">VALUE", "UNIT", "OWNER", ">LOW", ">HIGH", "PINNED", "UNDER WAY"], knobs),
        (["DECISIONS OF", "STATUS", ">COUNT"], made),
        (["CHECKPOINT", ">STEP", ">MB", ">SCORE", "KEPT"], saved),
    ):
        if rows:
            print_line("")
            print_table(columns, rows)


@app.command()
def decisions(
    run: Run = None,
    root: Root = ROOT,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON document a line, with reason, evidence and outcomes.")
    ] = False,
) -> None:
    """Every decision, applied or not.

    Example: autotune decisions latest --json | jq -c '[.step, .status]'
    """
    journal = Journal.open(resolve(run, root))
    try:
        made, outcomes = journal.decisions(), journal.outcomes()
    finally:
        journal.close()
    if as_json:
        for decision in made:
            typer.echo(json.dumps(document(decision, outcomes), ensure_ascii=False, allow_nan=False))
        return
    if not made:
        typer.echo("autotune: nothing has been decided in this run", err=True)
        return
    verdicts = {outcome.decision: outcome.verdict for outcome in outcomes}
    print_table(
        [">ID", ">STEP", ">SPENT", "SOURCE", "DECISION", "STATUS", "OUTCOME", "WHY"],
        [
            [
                str(d.id), str(d.step), str(d.spent), d.source, d.action.describe(), d.status,
                verdicts.get(d.id, ""), "; ".join(part for part in (d.action.reason, d.note) if part),
            ]
            for d in made
        ],
    )  # fmt: skip


@app.command()
def plot(
    run: Run = None,
    root: Root = ROOT,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", show_default=False,
            help="A .png, .svg or .pdf; left out: RUN.png in the current folder, or RUN-NAME.png.",
        ),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", show_default=False,
            help="Instead, the loss against this hyperparameter wherever a ramp moved it: a range test.",
        ),
    ] = None,
) -> None:  # fmt: skip
    """Draw a run as a picture.

    Losses, hyperparameters, decisions and the stretches that were rewound. Prints the picture's path.

    Example: autotune plot latest --against lr -o range.svg
    """
    if output is not None and output.suffix not in PICTURES:
        raise typer.BadParameter(f"a picture ends in {', '.join(PICTURES)}, got {output}", param_hint="-o")
    if output is not None and not output.parent.is_dir():
        raise typer.BadParameter(f"a picture goes into a folder that exists, got {output}", param_hint="-o")
    place = resolve(run, root)
    name = place.resolve().name if isinstance(place, Path) else place.name
    name = name if against is None else f"{name}-{against}"
    path = output or Path(f"{name.replace('/', '-')}.png")
    if against is None:
        from .plot import plot_run

        plot_run(place, path)
    else:
        from .plot_against import plot_against

        plot_against(place, against, path)
    print_line(str(path))


@app.command()
def replay(
    policy: Annotated[
        str, typer.Argument(metavar="MODULE:NAME", help="A policy, or a function that makes one.")
    ],
    run: Run = None,
    root: Root = ROOT,
) -> None:
    """What another policy would have done in a run.

    It is shown what the run saw, tick by tick; nothing is applied. Modules are also looked for in the current
    folder.

    Example: autotune replay my_policies:Halve latest
    """
    module, _, name = policy.partition(":")
    sys.path.insert(0, os.getcwd())
    try:
        make = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        message = f"a policy is named as MODULE:NAME, got {policy!r}: {error}"
        raise typer.BadParameter(message, param_hint="MODULE:NAME") from error
    from .testing import replay as replayed

    print_line(str(replayed(resolve(run, root), make() if callable(make) else make)))


@app.command()
def export(
    run: Run = None,
    root: Root = ROOT,
    to: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", show_default=False, help="Where to write it; left out: to the standard output."
        ),
    ] = None,
) -> None:
    """Write the schedule that a run ended up with, as JSON.

    What each hyperparameter was at each step that counted in the end, without what was rewound or tried out
    and dropped. The policy `Replay` follows it in another run.

    Example: autotune export latest --to schedule.json
    """
    from .export import export_schedule, schedule_to_json

    text = schedule_to_json(export_schedule(resolve(run, root)))
    if to is None:
        typer.echo(text, nl=False)
        return
    to.write_text(text, encoding="utf-8")
    print_line(str(to))


@app.command()
def sync(run: Run = None, root: Root = ROOT) -> None:
    """Deliver to MLflow what is missing there.

    Each thing arrives once, however often this is called.

    Example: autotune sync latest
    """
    place = resolve(run, root)
    try:
        sent = deliver(place)
    except DeliveryError as error:
        metrics, made = undelivered(place)
        raise DeliveryError(f"{error}; left to deliver: {metrics} metrics, {made} decisions") from error
    print_line(f"delivered {sent.metrics} metrics, {sent.decisions} decisions, {sent.outcomes} outcomes")
    print_line(_mlflow(summarise(place)))


@app.command("mlflow")
def mlflow_page(
    run: Run = None,
    root: Root = ROOT,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, show_default=False, help="0: any that is free; left out: 5000 if that is free."
        ),
    ] = None,
) -> None:  # fmt: skip
    """Start MLflow's page, and print its link.

    It shows the store that the run went to, on this machine only; where there are no runs, the one that is
    set. Ctrl-C stops it.

    Example: autotune mlflow latest --port 8080
    """
    there_are_runs = (is_database(root) or Path(root).is_dir()) and find(root)
    s = summarise(resolve(run, root)) if run is not None or there_are_runs else None
    if s is not None and s.mlflow is None:
        raise TuneError(
            f"MLflow shows runs that were delivered to it, and {s.place} has MLflow off; see `autotune show`"
        )
    uri = str((target() if s is None or s.mlflow is None else s.mlflow)["tracking_uri"])
    if _remote(uri):
        print_line(_link(uri, s))
        return
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    try:
        typer.echo(f"autotune: starting MLflow on {uri}, which takes some seconds", err=True)
        with serve(uri, port) as server:
            print_line(_link(server.address, s))
            typer.echo("autotune: Ctrl-C stops it", err=True)
            server.process.wait()
            raise ServerError("MLflow's server has ended by itself; start it again")
    except KeyboardInterrupt:
        return


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Of every random generator.")] = 0,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="For the run and its picture.")
    ] = Path("demo"),
) -> None:
    """Watch the tuner rescue a training run.

    It trains a classifier of handwritten digits from a learning rate 100 times too high, with a burst of
    corrupted batches on the way, and takes about two minutes.

    Example: autotune demo --seed 1
    """
    from .demo import main as run_demo

    run_demo(seed=seed, output=output)


cli_control.register(app)
cli_ui.register(app)


def _print_json(*plain: object) -> None:
    """As the page's server gives them."""
    from .web.bodies import to_json

    for one in plain:
        typer.echo(to_json(one))


def _steps(run: Summary) -> str:
    return f"{run.spent:,}/{run.total_steps:,}" if run.total_steps else f"{run.spent:,}"


def _pin(run: Summary, knob: Knob) -> str:
    """A pin ends by the steps ever taken, which is told as a step of the run, as on the page."""
    ahead = (knob.pinned_until or 0) - run.spent
    return f"until step {run.step + ahead:,}" if ahead > 0 else ""


def _way(run: Summary, knob: Knob) -> str:
    """Where a ramp or schedule is taking it, as on the page."""
    if knob.ramp is None:
        return ""
    part, *later = (part for part in knob.ramp.parts if part.end > run.step)
    more = f", then {len(later)} more" if later else ""
    return f"{part.shape} to {number(part.last)} in {part.end - run.step:,} steps{more} · {knob.ramp.source}"


def _remote(tracking_uri: str) -> bool:
    return tracking_uri.startswith(("http://", "https://"))


def _mlflow(run: Summary) -> str:
    if run.mlflow is None:
        return "off"
    uri = run.mlflow["tracking_uri"]
    return _link(uri, run) if _remote(uri) else f"{uri}; `autotune mlflow {run.place.name}` opens it"


def _link(address: str, run: Summary | None) -> str:
    mlflow = {} if run is None or run.mlflow is None else run.mlflow
    if "experiment_id" not in mlflow:  # nothing has been delivered yet
        return f"{address.rstrip('/')}/#/experiments?workflowType=machine_learning"
    return run_link(address, mlflow["experiment_id"], mlflow["run_id"])
