"""The page's server: where it listens, and what it tells the person who has started it."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .. import page_link
from ..records import TuneError
from . import tokens
from .app import make_app
from .events import Watches
from .guard import Access, hostname
from .store import Store
from .view import LOSS

log = logging.getLogger("autotune")

HOST, PORT = "127.0.0.1", 8484
TRIES = 20
"""Ports that are tried from 8484 on."""
ASKING_SECONDS = 10.0
"""A connection on which no request has come whole for so long is closed."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where and how the page is served.

    Args:
        host: the address to listen at, as numbers or `localhost`.
        port: None: 8484, or the next that is free.
        names: further names under which it may be asked for.
        certificate: a file for TLS.
        key: the file of its private key.
        insecure: listen beyond this machine without TLS: whoever is on the way can read the token, and so
            do all that its owner can.

    Raises:
        TuneError: when that is not safe, or does not fit together.
    """

    host: str = HOST
    port: int | None = None
    names: Sequence[str] = ()
    certificate: Path | None = None
    key: Path | None = None
    insecure: bool = False

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise TuneError("TLS needs --certificate and --key, got one of them; give both")
        for file in (self.certificate, self.key):
            if file is not None and not file.is_file():
                raise TuneError(f"TLS needs files that can be read, got {file}, which is none")
        for name in self.names:
            if hostname(name) != name.lower():
                raise TuneError(f"a name is given without scheme and port, got {name!r}; as in trainer.lan")
        address = self.address
        if not address.is_loopback and not (self.secure or self.insecure):
            raise TuneError(
                f"beyond this machine the page needs TLS, got the address {self.host} without; give "
                "--certificate and --key, or come by `ssh -L` instead, or say --insecure on a network "
                "where you trust everyone"
            )
        if address.is_unspecified and not self.names:
            raise TuneError(
                f"a server at all addresses has to know its name, got {self.host} alone; "
                "give --allow-host with the name or address that the browser will show"
            )

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
        """The address in numbers."""
        try:
            return ipaddress.ip_address("127.0.0.1" if self.host == "localhost" else self.host.strip("[]"))
        except ValueError as error:
            raise TuneError(
                f"a server listens at an address of this machine, as in 192.168.1.5, got {self.host!r}; "
                "names go to --allow-host"
            ) from error

    @property
    def secure(self) -> bool:
        """Whether it speaks TLS."""
        return self.certificate is not None

    @property
    def hosts(self) -> frozenset[str]:
        """What a browser may call it, beside the names of loopback."""
        return frozenset({_bracketed(str(self.address)), *(name.lower() for name in self.names)})


def serve(
    root: str | Path, listening: Listening, say: Callable[[str], None], new_token: bool = False
) -> None:
    """Serve the page until Ctrl-C.

    Args:
        root: where the runs are.
        listening: where and how to listen.
        say: told what a person is to read, line by line.
        new_token: shut out all who have the old ones.

    Raises:
        TuneError: when the port is taken, or the tokens cannot be kept safely.
    """
    held = tokens.Held(renew=new_token)
    store = Store(root)
    watches = Watches(store)
    with bound(listening) as bell:
        port = int(bell.getsockname()[1])
        access = Access(held, port, listening.hosts, listening.secure)
        config = uvicorn.Config(
            make_app(store, access, watches),
            http=Protocol,
            ws="none",
            lifespan="off",
            log_level="warning",
            access_log=False,  # it would hold the tokens
            server_header=False,
            proxy_headers=False,  # anyone can write them
            limit_concurrency=256,
            timeout_graceful_shutdown=1,
            ssl_certfile=listening.certificate,
            ssl_keyfile=listening.key,
        )
        config.load()
        name = listening.names[0] if listening.names else _bracketed(str(listening.address))
        address = f"{'https' if listening.secure else 'http'}://{name}:{port}"
        page_link.remember(address)
        say(f"the page     {address}/?token={held.now.write}")
        say(f"to look on   {address}/?token={held.now.read}")
        if listening.address.is_loopback:
            say(
                "from another machine or a phone: "
                f"ssh -L {port}:127.0.0.1:{port} {socket.gethostname()} and the same links there; "
                "or, in one network, --host ADDRESS with --certificate and --key"
            )
        elif not listening.secure:
            say("without TLS, whoever is on the way can read the token and then command the runs")
        say("Ctrl-C ends it; the training goes on")
        threading.Thread(target=_warm, args=(store,), name="autotune-warm", daemon=True).start()
        # uvicorn raises the signal once more when it has ended.
        with contextlib.suppress(KeyboardInterrupt):
            Server(config, watches).run(sockets=[bell])


class Server(uvicorn.Server):
    """One whose event streams, which have no end of their own, end with it."""

    def __init__(self, config: uvicorn.Config, watches: Watches) -> None:
        super().__init__(config)
        self._watches = watches

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop."""
        self._watches.close()
        await super().shutdown(sockets)


class Protocol(H11Protocol):
    """Connections on which nobody asks for anything: they count among those that the server can have.

    uvicorn ends them only after an answer, and only while not a byte comes.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody is there."""
        super().connection_made(transport)
        self._wait()

    def handle_events(self) -> None:
        """Some bytes are there."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._waiting.cancel()

    def on_response_complete(self) -> None:
        """An answer was given, and the next request may be there already."""
        self._waiting.cancel()
        self._wait()
        super().on_response_complete()

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(ASKING_SECONDS, self.timeout_keep_alive_handler)


def bound(listening: Listening) -> socket.socket:
    """A socket that listens at the address, at a port that was free.

    Raises:
        TuneError: when there is none.
    """
    wanted = range(PORT, PORT + TRIES) if listening.port is None else (listening.port,)
    family = socket.AF_INET6 if listening.address.version == 6 else socket.AF_INET
    for port in wanted:
        # Named, since asyncio else leaves out TCP_NODELAY, and each body waits 40 ms for its head's receipt.
        bell = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            bell.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bell.bind((str(listening.address), port))
            bell.listen(128)
            return bell
        except OSError as error:
            bell.close()
            reason = error.strerror
    raise TuneError(
        f"the page cannot be served at {listening.address}, port {wanted[-1]} ({reason}); "
        "leave --port out, or give an address that this machine has"
    )


def _warm(store: Store) -> None:
    """Open all runs, and read the newest one's loss; more would hold up whoever comes meanwhile."""
    try:
        for line in store.runs()[:1]:
            store.view(line["name"]).rows(LOSS)
    except Exception as error:  # it only saves time
        log.debug("not read ahead: %s", error)


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address
