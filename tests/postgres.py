"""A real PostgreSQL server for the tests that need one, on a socket of its own."""

import contextlib
import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from pathlib import Path

import pytest

OPTIONS = "-c listen_addresses= -c fsync=off -c shared_buffers=16MB -c max_connections=50"


class Server:
    """A cluster in `folder`, reached through a socket that lies there too."""

    def __init__(self, binaries, folder):
        self._binaries, self.folder = binaries, folder
        # PostgreSQL refuses to run as root.
        self._user = pwd.getpwnam("postgres") if os.getuid() == 0 else None
        if self._user is not None:
            os.chown(folder, self._user.pw_uid, self._user.pw_gid)
        self._run("initdb", "-D", folder / "data", "-U", "tester", "-A", "trust", "-E", "UTF8", "--no-sync")

    def start(self):
        log, options = self.folder / "log", f"-k {self.folder} {OPTIONS}"
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-l", log, "-o", options, "start")

    def stop(self):
        """At once, as in a crash."""
        self._run("pg_ctl", "-D", self.folder / "data", "-w", "-m", "immediate", "stop")

    def url(self, database="postgres"):
        return f"postgresql://tester@/{database}?host={self.folder}"

    def database(self, options=""):
        """The address of a new, empty database."""
        import psycopg  # here, because every test passes by this file

        name = f"runs_{uuid.uuid4().hex}"
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def _run(self, program, *arguments):
        as_user = {} if self._user is None else {"user": self._user.pw_uid, "group": self._user.pw_gid}
        command = [self._binaries / program, *map(str, arguments)]
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, cwd=self.folder, extra_groups=[], **as_user
        )


def binaries():
    """The folder of PostgreSQL's programs; Debian does not put them on the path. None: there are none."""
    if (found := shutil.which("initdb")) is not None:
        return Path(found).parent
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    return versions[-1].parent if versions else None


@pytest.fixture(scope="session")
def postgres():
    """The server; one for each process of a test run."""
    programs = binaries()
    if programs is None:
        missing = "a run's record in PostgreSQL is tested with the real one: apt-get install postgresql"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    folder = Path(tempfile.mkdtemp(prefix="autotune-pg-"))  # a socket's path is at most 107 bytes long
    server = Server(programs, folder)
    try:
        server.start()
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()
        shutil.rmtree(folder)
