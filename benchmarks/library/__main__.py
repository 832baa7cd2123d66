"""`python -m autotune.benchmarks.library`: the table; `... pictures FOLDER`: what docs/policies.md shows."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from .pictures import draw
from .proof import Proof
from .table import HEALTHY, PLANTS, Row, markdown, measure, proofs

app = typer.Typer(add_completion=False, help="The policy library, proved.")
Only = Annotated[list[str] | None, typer.Option(help="Names of proofs; all unless given.")]


@app.callback(invoke_without_command=True)
def table(
    context: typer.Context,
    only: Only = None,
    plants: Annotated[int, typer.Option(help="Plants a policy.")] = PLANTS,
    healthy: Annotated[int, typer.Option(help="Healthy plants a policy.")] = HEALTHY,
    out: Annotated[Path | None, typer.Option(help="Write the table to this file as well.")] = None,
) -> None:
    """Print the table; exit with 1 when a policy that is no peer falls short."""
    if context.invoked_subcommand is not None:
        return
    chosen = _chosen(only)
    rows: list[Row] = []
    for row in measure(chosen, plants, healthy):
        rows.append(row)
        if out is not None:  # as far as it goes
            out.write_text(markdown(rows))
    print(markdown(rows))
    sys.exit(any(row.faults for row in rows))


@app.command()
def pictures(folder: Path, only: Only = None) -> None:
    """Draw a run with each policy and without it into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    for proof in _chosen(only):
        draw(proof, folder / f"{re.sub('[^a-z0-9]+', '-', proof.name.lower())}.png")


def _chosen(only: list[str] | None) -> list[Proof]:
    there = {proof.name: proof for proof in proofs()}
    unknown = [name for name in only or () if name not in there]
    if unknown:
        raise typer.BadParameter(f"there is no proof of {unknown[0]!r}; there are: {', '.join(there)}")
    return [there[name] for name in only or there]


if __name__ == "__main__":
    app()
