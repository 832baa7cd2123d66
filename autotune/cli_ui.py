"""`autotune ui`: the control page, from the command line."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path
from typing import Annotated

import typer

from .cli_words import ROOT, Root
from .terminal import print_line


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command()(ui)


def ui(
    root: Root = ROOT,
    port: Annotated[
        int | None,
        typer.Option(
            min=0, max=65535, show_default=False, help="0: any that is free; left out: 8484 or the next free."
        ),
    ] = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Of this machine, to listen at.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", show_default=False, help="A further name under which the page is asked for."
        ),
    ] = None,
    certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="For TLS, with --key.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="The certificate's private key.")
    ] = None,
    insecure: Annotated[
        bool,
        typer.Option("--insecure", help="Beyond this machine without TLS, where you trust the network."),
    ] = False,
    new_token: Annotated[
        bool, typer.Option("--new-token", help="Make new tokens; all who have the old ones are shut out.")
    ] = False,
) -> None:
    """Start the control page, and print its links.

    It shows every run of the store, and lets a person take over one that is being trained. Who has the first
    link can command the runs, who has the second can look on; they stay the same until --new-token. Ctrl-C
    stops it.

    Example: autotune ui --root ~/experiments
    """
    from .web.server import Listening, serve

    listening = Listening(host, port, allow_host or (), certificate, key, insecure)
    for ending in (signal.SIGINT, signal.SIGTERM):  # that come before the server listens
        signal.signal(ending, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        serve(root, listening, print_line, new_token)
