"""What words of the command line mean in a run, and with what a shell completes them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Annotated, Any

import typer

from .journal import Journal
from .records import Point, TuneError, Value
from .remote import Remote
from .runs import LATEST, STORES, Summary, default_root, find, resolve, summarise
from .runs import ROOT as ROOT

Root = Annotated[
    str,
    typer.Option(envvar=[*STORES], metavar="FOLDER|URL", help="Where the runs are: a folder, or a database."),
]


class Meaning:
    """What words of the command line mean in one run."""

    def __init__(self, remote: Remote) -> None:
        self._place = remote.place
        self._meta = remote.journal.meta()

    @cached_property
    def _summary(self) -> Summary:
        return summarise(self._place)

    def checkpoints(self) -> list[str]:
        """Names of the run's checkpoints."""
        return [saved.name for saved in self._summary.checkpoints]

    def value(self, name: str, text: str) -> Value:
        """A value of a hyperparameter, by its kind; `x0.5` and `*0.5` multiply the present one."""
        facts = self._facts(name)
        if facts["kind"] == "categorical":
            return _choice(name, text, facts["choices"])
        return self.number(name, text)

    def number(self, name: str, text: str) -> float | int:
        """A number for a hyperparameter that is one."""
        kind = self._facts(name)["kind"]
        if kind == "categorical":
            raise TuneError(f"{name} is a choice, which jumps; use `autotune set`")
        times = text[:1] in ("x", "*")
        try:
            given = float(text[1:] if times else text)
        except ValueError:
            raise TuneError(f"{name} is a number, or x0.5 for half of what it is, got {text!r}") from None
        if times:
            given *= self._present(name)
        if kind != "int":
            return given
        if not (times or given.is_integer()):
            raise TuneError(f"{name} is a whole number, or x0.5 for half of what it is, got {text!r}")
        return round(given)

    def point(self, name: str, text: str) -> Point:
        """A corner of a schedule, from `STEP:VALUE` or `STEP:VALUE:SHAPE`."""
        step, *rest = text.split(":")
        try:
            at = int(step)
            value, shape = rest if len(rest) == 2 else (*rest, "linear")
        except ValueError:
            raise TuneError(
                f"a point is STEP:VALUE or STEP:VALUE:SHAPE, as in 400:0.01 or +100:0:cosine, got {text!r}"
            ) from None
        return Point(at, self.number(name, value), shape)  # type: ignore[arg-type]  # Schedule checks it

    def policies(self) -> dict[str, str | None]:
        """The policies in their order of precedence, and why one is benched."""
        live = self._meta.get("live", {})
        return {
            name: live.get("benched", {}).get(name) for name in live.get("policies", self._meta["policies"])
        }

    def _facts(self, name: str) -> Mapping[str, Any]:
        known: Mapping[str, Mapping[str, Any]] = self._meta["hyperparameters"]
        if name not in known:
            raise TuneError(
                f"a hyperparameter of {self._meta['name']} is one of {', '.join(known) or 'none'}, "
                f"got {name!r}"
            )
        return known[name]

    def _present(self, name: str) -> float:
        value = next(knob.value for knob in self._summary.knobs if knob.name == name)
        if value is None:
            raise TuneError(f"the present value of {name} is not on record yet; give a number")
        return float(value)


def _choice(name: str, text: str, choices: Sequence[Value]) -> Value:
    for choice in choices:
        if text == (str(choice).lower() if isinstance(choice, bool) else str(choice)):
            return choice
    raise TuneError(f"{name} is one of {', '.join(map(str, choices))}, got {text!r}")


# --- what the shell completes ------------------------------------------------------------------------------


def runs(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of runs."""
    return _beginning([LATEST, *_looked_up(lambda: [place.name for place in find(_root(ctx))])], incomplete)


def hyperparameters(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of hyperparameters."""
    return _beginning(_looked_up(lambda: [*_journal(ctx).meta()["hyperparameters"]]), incomplete)


def checkpoints(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of checkpoints."""
    return _beginning(_looked_up(lambda: [c.name for c in _journal(ctx).checkpoints()]), incomplete)


def policies(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of policies."""
    return _beginning(_looked_up(lambda: [*_journal(ctx).meta()["policies"]]), incomplete)


def _looked_up(names: Callable[[], list[str]]) -> list[str]:
    with contextlib.suppress(Exception):  # a shell that completes a word is no place for an error
        return names()
    return []


def _beginning(names: Sequence[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete)]


def _root(ctx: typer.Context) -> str:
    return str(ctx.params.get("root") or default_root())


def _journal(ctx: typer.Context) -> Journal:
    return Journal.open(resolve(ctx.params["run"], _root(ctx)))
