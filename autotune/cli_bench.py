"""`autotune bench`: the benchmark suites, from the command line."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from .records import TuneError
from .terminal import print_line, print_table

if TYPE_CHECKING:
    from autotune.benchmarks.suites.results import Results
    from autotune.benchmarks.suites.scores import Row

bench = typer.Typer(
    rich_markup_mode=None, no_args_is_help=True, help="Policies against tuned baselines: benchmark suites."
)
ROOT = Path("autotune-bench")
CORE = "core"
SuiteName = Annotated[str, typer.Argument(metavar="SUITE", help="As listed by `autotune bench list`.")]


@bench.command("list")
def suites() -> None:
    """The suites, and what they hold.

    Example: autotune bench list
    """
    from autotune.benchmarks.suites.catalogue import SUITES

    for make in SUITES.values():
        suite = make()
        cells = sum(len(suite.cells(workload.name)) for workload in suite.workloads)
        print_line(f"{suite.name}: {suite.about}")
        for name, values in (
            ("workloads", [workload.name for workload in suite.workloads]),
            ("arms", [arm.name for arm in suite.arms]),
            ("searches", [f"{method} ({suite.trials} trials)" for method in suite.methods]),
            ("runs", [f"{cells:,} on {suite.seeds} seeds, for {suite.device}"]),
        ):
            print_line(f"  {name + ':':10} {', '.join(values)}")
    print_line(f"{CORE}: what the tuner itself costs: a step, snapshots, checkpoints, logging; and the demo")


@bench.command()
def run(
    suite: SuiteName,
    quick: Annotated[bool, typer.Option("--quick", help="A tenth of it.")] = False,
    processes: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="Left out: one a core, or one a GPU."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="cpu|cuda", show_default=False, help="Left out: the suite's.")
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", show_default=False, help="A Ray cluster; `local` starts one here."),
    ] = None,
    workload: Annotated[
        list[str] | None, typer.Option(metavar="MODULE:NAME", help="Your workload.")
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE:NAME", help="Your policy, or a function that makes it."),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="WORKLOAD", help="Leave the other workloads out.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, show_default=False, help="Left out: the suite's.")
    ] = None,
    methods: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD", help="How baselines are searched for; left out: the suite's."),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(show_default=False, help=f"Left out: {ROOT}/SUITE, or SUITE-quick.")
    ] = None,
    retry_errors: Annotated[bool, typer.Option("--retry-errors", help="Run again what failed.")] = False,
) -> None:  # fmt: skip
    """Run a suite, or what is missing of it.

    It can be ended at any moment and started again. A folder keeps what it has: when a policy or workload of
    yours has changed, give another folder. Exit code 1 when a run has failed.

    Example: autotune bench run cpu --quick --policy my_policies:Mine
    """
    place = folder or ROOT / (f"{suite}-quick" if quick else suite)
    if suite == CORE:
        if any((quick, processes, device, ray, workload, policy, only, seeds, methods, retry_errors)):
            raise TuneError(f"{CORE} is run whole, got other options than --folder; leave them out")
        with _interruptible():
            _run_core(place)
        return
    from autotune.benchmarks.suites import runner
    from autotune.benchmarks.suites.catalogue import Request
    from autotune.benchmarks.suites.prepare import prepare, usable
    from autotune.benchmarks.suites.rehearsal import rehearse

    request = Request(
        suite,
        tuple(workload or ()),
        tuple(policy or ()),
        tuple(only or ()),
        quick,
        seeds,
        cast(Any, tuple(methods or ())),  # checked by Request.make
    )
    device = device or request.make().device
    with _interruptible():
        rehearse(request, usable(device))
        store = prepare(request, place, device, _tell)
        if retry_errors:
            store.retry_errors()
        if ray is None:
            runner.run(store, request, device, processes or runner.processes(device))
        else:
            from autotune.benchmarks.suites import cluster

            cluster.run(store, request, device, ray, processes)
    if (results := store.results()).cells:
        _summarise(results)
        print_line(f"autotune bench report {place}  # writes the report, and puts it into MLflow")
    errors = store.errors()
    for key, error in errors:
        _tell(f"{key}: {error}")
    if errors:
        status = store.status()
        if status.finished < status.planned:
            held = status.planned - status.finished
            _tell(f"{held} runs cannot begin, since a search for their baseline has failed")
        _tell(f"{len(errors)} failed; --retry-errors runs them again. With other code, give another --folder")
        raise typer.Exit(1)


@bench.command()
def report(
    suite: Annotated[str, typer.Argument(metavar="SUITE|FOLDER", help="A suite's name, or its folder.")],
    mlflow: Annotated[bool, typer.Option(help="Publish to MLflow as well.")] = True,
) -> None:
    """Write a suite's report, as Markdown, HTML and data, and publish it to MLflow.

    What is not finished yet is left out. MLFLOW_TRACKING_URI says where MLflow is.

    Example: autotune bench report cpu
    """
    folder = next((path for path in (ROOT / suite, Path(suite)) if path.is_dir()), None)
    if folder is None:
        raise TuneError(
            f"a report is made of a suite that was run, got {suite}: no folder {ROOT / suite}; "
            "run it first: autotune bench run SUITE"
        )
    from autotune.benchmarks.suites import core
    from autotune.benchmarks.suites import results as records
    from autotune.benchmarks.suites.store import Store

    if (figures := core.read(folder)).figures:
        (folder / "report.md").write_text(core.markdown(figures), encoding="utf-8")
        print_line(str(folder / "report.md"))
        return
    results = Store.at(folder).results()
    _tell(f"writing the report of {len(results.cells):,} runs")
    rows = _rows(results)
    documents = _documents(results, rows, folder)
    documents["results.json.gz"] = folder / "results.json.gz"
    records.save(results, documents["results.json.gz"])
    for path in documents.values():
        print_line(str(path))
    if mlflow:
        _publish(results, rows, documents)


@bench.command("import")
def import_(
    file: Annotated[
        Path,
        typer.Argument(metavar="FILE", help="A results.json.gz, or the folder of a report."),
    ],
) -> None:
    """Load results, ours or a colleague's, into your MLflow.

    Example: autotune bench import benchmarks/results/cpu-2026-11-22.json.gz
    """
    from autotune.benchmarks.suites import results as records

    file = file / "results.json.gz" if file.is_dir() else file
    results = records.load(file)
    rows = _rows(results)
    with tempfile.TemporaryDirectory() as folder:
        _publish(results, rows, {**_documents(results, rows, Path(folder)), "results.json.gz": file})


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        _tell("interrupted; what is finished is kept, and the same command goes on from here")
        raise typer.Exit(130) from None


def _run_core(folder: Path) -> None:
    from autotune.benchmarks import figures
    from autotune.benchmarks.suites import core

    measured = core.run(folder)
    for name, found in measured.figures.items():
        print_line(f"\n{name}")
        figures.show(found)
    if not measured.met:
        raise typer.Exit(1)


def _summarise(results: Results) -> None:
    from autotune.benchmarks.suites import prose, scores, tables

    rows = _rows(results)
    print_line(" ".join((prose.progress(results), *prose.headline(rows))))
    for budget in sorted({row.budget for row in rows if row.workload == scores.ALL}):
        table = tables.scores([row for row in rows if row.workload == scores.ALL and row.budget == budget])
        print_line(f"\nfinal loss over the tuned baseline's, budget {budget:g}")
        print_table(
            [f"{'' if i < table.words else '>'}{column}" for i, column in enumerate(table.columns)],
            table.rows,
        )


def _rows(results: Results) -> list[Row]:
    from autotune.benchmarks.suites.scores import summary

    rows: list[Row] = summary(results)
    return rows


def _documents(results: Results, rows: list[Row], folder: Path) -> dict[str, Path]:
    from autotune.benchmarks.suites.html import html
    from autotune.benchmarks.suites.markdown import markdown

    documents = {name: folder / name for name in ("report.md", "report.html")}
    documents["report.md"].write_text(markdown(results, rows), encoding="utf-8")
    documents["report.html"].write_text(html(results, rows), encoding="utf-8")
    return documents


def _publish(results: Results, rows: list[Row], documents: dict[str, Path]) -> None:
    from autotune.benchmarks.suites.mlflow_pages import publish

    _tell("publishing to MLflow")
    print_line(publish(results, documents, rows))


def _tell(text: str) -> None:
    typer.echo(f"autotune: {text}", err=True)
