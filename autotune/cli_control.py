"""Shell commands that steer a run which trains elsewhere. Each waits for the run's answer."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Callable
from typing import Annotated, Any

import typer

from . import cli_words
from .cli_words import ROOT, Meaning, Root
from .commands import Ack
from .records import (
    SHAPES,
    Action,
    Approve,
    Arrange,
    Checkpoint,
    Comment,
    Pause,
    Pin,
    Ramp,
    Reject,
    Release,
    Resume,
    Rewind,
    Schedule,
    Set,
    Stop,
    TuneError,
    Undo,
)
from .remote import TIMEOUT_SECONDS, NotDone, Remote, connect
from .terminal import number, print_line, print_table

# --- the commands ------------------------------------------------------------------------------------------

Name = Annotated[
    str,
    typer.Argument(metavar="NAME", help="Of the hyperparameter.", autocompletion=cli_words.hyperparameters),
]
Decided = Annotated[int, typer.Argument(metavar="ID", help="Of a decision, as in `autotune decisions`.")]


def set_(
    run: Meaning,
    name: Name,
    value: Annotated[
        str, typer.Argument(metavar="VALUE", help="A number, a choice, or x0.5 for half of what it is.")
    ],
) -> Action:
    """Set a hyperparameter and hold it.

    No policy changes it until it is released.

    Example: autotune set latest lr 2.5e-4
    """
    return Set(name, run.value(name, value), reason="")


def ramp(
    run: Meaning,
    name: Name,
    value: Annotated[str, typer.Argument(metavar="VALUE", help="A number, or x0.5 for half of what it is.")],
    steps: Annotated[int, typer.Argument(metavar="STEPS", help="In how many steps.")],
    shape: Annotated[str, typer.Option(metavar="SHAPE", help=f"One of {', '.join(SHAPES)}.")] = "linear",
) -> Action:
    """Move a hyperparameter to a value, from where it is.

    It is held there until it is released.

    Example: autotune ramp latest lr 2.5e-4 100000 --shape cosine
    """
    return Ramp(name, run.number(name, value), steps, shape, reason="")  # type: ignore[arg-type]


def schedule(
    run: Meaning,
    name: Name,
    points: Annotated[
        list[str],
        typer.Argument(
            metavar="STEP:VALUE[:SHAPE]",
            help=f"Steps of the run, or each +100 from now; a shape is one of {', '.join(SHAPES)}.",
        ),
    ],
) -> Action:
    """Move a hyperparameter through several values.

    Each is reached at its step. It is held at the last one until it is released.

    Example: autotune schedule latest lr 400:0.01 900:0:cosine
    """
    corners = tuple(run.point(name, point) for point in points)
    from_now = [point.startswith("+") for point in points]
    if any(from_now) and not all(from_now):
        raise TuneError(f"all steps of a schedule begin with +, or none does, got {' '.join(points)}")
    return Schedule(name, corners, all(from_now), reason="")


def pin(
    run: Meaning,
    name: Name,
    steps: Annotated[
        int | None, typer.Argument(metavar="[STEPS]", help="For so many steps; left out: until released.")
    ] = None,
) -> Action:
    """Hold a hyperparameter where it is.

    Example: autotune pin latest lr 500
    """
    return Pin(name, steps, reason="")


def release(run: Meaning, name: Name) -> Action:
    """Give a hyperparameter back to the policies.

    They go on from the value that it has.

    Example: autotune release latest lr
    """
    return Release(name, reason="")


def pause(run: Meaning) -> Action:
    """Let a run wait at its next step.

    Example: autotune pause latest
    """
    return Pause(reason="")


def resume(run: Meaning) -> Action:
    """Let a run that was paused go on.

    Example: autotune resume latest
    """
    return Resume(reason="")


def stop(run: Meaning) -> Action:
    """Save a run, and end it at its next step.

    Example: autotune stop latest
    """
    return Stop(reason="")


def checkpoint(
    run: Meaning,
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="With a name, it is kept for ever.")
    ] = None,
) -> Action:
    """Save a run to disk now.

    Example: autotune checkpoint latest before-the-decay
    """
    return Checkpoint(name, reason="")


def rewind(
    run: Meaning,
    to: Annotated[
        str,
        typer.Argument(
            metavar="TO", help="A step, or a checkpoint's name.", autocompletion=cli_words.checkpoints
        ),
    ],
    skip: Annotated[bool, typer.Option("--skip", help="Leave the batches since then behind.")] = False,
) -> Action:
    """Take a run back to an earlier state.

    The newest state at or before the step is taken, and the same batches come again.

    Example: autotune rewind latest 1200
    """
    step = to.isdecimal() and to not in run.checkpoints()  # a checkpoint may be called so, too
    return Rewind(int(to) if step else to, "skip" if skip else "replay", reason="")


def undo(
    run: Meaning,
    decision: Annotated[
        int | None, typer.Argument(metavar="[ID]", help="Of a decision; left out: the last one.")
    ] = None,
) -> Action:
    """Take a decision back.

    Example: autotune undo latest
    """
    return Undo(decision, reason="")


def approve(run: Meaning, decision: Decided) -> Action:
    """Do what a policy has suggested.

    Example: autotune approve latest 7
    """
    return Approve(decision, reason="")


def reject(run: Meaning, decision: Decided) -> Action:
    """Turn a suggestion down.

    Example: autotune reject latest 7 --reason "it recovers by itself"
    """
    return Reject(decision, reason="")


def comment(
    run: Meaning,
    decision: Decided,
    reason: Annotated[str, typer.Argument(metavar="WORDS", help="What to say.")],
) -> Action:
    """Say something about a decision.

    Example: autotune comment latest 7 "the spike was a bad shard"
    """
    return Comment(decision, reason=reason)


def policies(
    run: Meaning,
    bench: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Ask it no more; may be repeated.", autocompletion=cli_words.policies
        ),
    ] = None,
    enable: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Ask it again; may be repeated.", autocompletion=cli_words.policies
        ),
    ] = None,
    order: Annotated[str | None, typer.Option(metavar="A,B", help="Ask these first, in this order.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> Action | None:
    """List a run's policies, or change them.

    They are asked in this order, which is that of their precedence.

    Example: autotune policies latest --bench plateau
    """
    known = run.policies()
    first = [name.strip() for name in order.split(",")] if order else []
    for name in (*(bench or ()), *(enable or ()), *first):
        if name not in known:
            raise TuneError(f"a policy of this run is one of {', '.join(known) or 'none'}, got {name!r}")
    if bench or enable or order:
        asked = [name for name, why in known.items() if why is None or name in (enable or ())]
        asked = [*first, *(name for name in asked if name not in first)]
        return Arrange(tuple(name for name in asked if name not in (bench or ())), reason="")
    if as_json:
        print_line(json.dumps([{"name": name, "benched": why} for name, why in known.items()]))
    else:
        print_table(["POLICY", "BENCHED"], [[name, why or ""] for name, why in known.items()])
    return None


# --- how they are given and answered -----------------------------------------------------------------------


def _send(
    make: Callable[[Meaning], Action | None],
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's folder, its name or the beginning of its name; `latest`: the newest run.",
            autocompletion=cli_words.runs,
        ),
    ],
    root: Root = ROOT,
    by: Annotated[
        str | None,
        typer.Option(metavar="NAME", show_default=False, help="Who does it; left out: your login name."),
    ] = None,
    reason: Annotated[str, typer.Option(metavar="WORDS", help="Why, for the record.")] = "",
    timeout: Annotated[
        float, typer.Option(metavar="SECONDS", min=0, help="How long to wait for the run's answer.")
    ] = TIMEOUT_SECONDS,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for the run's answer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The run's answer as one JSON document.")] = False,
) -> None:
    with connect(run, root, author=by, timeout=timeout) as remote:
        action = make(Meaning(remote))
        if action is None:
            return
        action = dataclasses.replace(action, reason=reason)
        if run != remote.place.name:
            typer.echo(f"autotune: run {remote.place.name}", err=True)
        sent = remote.send(action)
        try:
            ack = Ack(sent.id, "waiting") if no_wait else remote.wait(sent)
        except NotDone as error:
            if as_json:
                _print_json(error.ack)
            raise
        if as_json:
            _print_json(ack)
        else:
            print_line(_said(action, ack, remote))


def _print_json(ack: Ack) -> None:
    print_line(json.dumps(dataclasses.asdict(ack)))


def _said(action: Action, ack: Ack, remote: Remote) -> str:
    """What has become of a command, in one line for a person."""
    if ack.status == "waiting":
        return f"sent: {action.describe()}"
    what = action.describe()
    if ack.decision is not None:
        made = remote.journal.decision(ack.decision)
        changed = [
            f"{name} {number(made.before.get(name))} → {number(value)}"
            for name, value in made.after.items()
            if made.before.get(name) != value
        ]
        what = ", ".join(changed) or made.action.describe()
    note = f" ({' '.join(ack.note.split())})" if ack.note else ""
    return f"{ack.status} at step {ack.step}: {what}{note}"


def _shell_command(make: Callable[..., Action | None]) -> Callable[..., None]:
    """`make` as a command: its own arguments follow RUN, the options that all have follow them."""
    shared, own = (dict(inspect.signature(f, eval_str=True).parameters) for f in (_send, make))
    del shared["make"], own["run"]

    def run_it(**given: Any) -> None:
        mine = {name: given[name] for name in own}
        _send(lambda meaning: make(meaning, **mine), **{name: given[name] for name in shared})

    parameters = {"run": shared["run"], **own, **shared, **own}
    run_it.__doc__ = make.__doc__
    run_it.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    run_it.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters.values()]
    )
    return run_it


COMMANDS: tuple[Callable[..., Action | None], ...] = (
    *(set_, ramp, schedule, pin, release, pause, resume, stop, checkpoint, rewind, undo),
    *(approve, reject, comment, policies),
)


def register(app: typer.Typer) -> None:
    """Add the commands to `app`."""
    for make in COMMANDS:
        # Negative numbers are values, not options.
        app.command(make.__name__.rstrip("_"), context_settings={"ignore_unknown_options": True})(
            _shell_command(make)
        )
