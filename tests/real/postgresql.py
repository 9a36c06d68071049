"""A PostgreSQL server of Debian's package, and clients that know what was committed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from pathlib import Path
from typing import Any, Self

import pytest

from segue.installation import wait_until
from tests.tools.conftest import TOOL_DEADLINE_S

USER = "postgres"
"""It refuses to run as root."""
ACCOUNTS = 5000
SETTINGS = {
    "listen_addresses": "",
    "shared_buffers": "8MB",
    "max_wal_size": "8MB",
    "min_wal_size": "4MB",
    "checkpoint_timeout": "30s",
    "wal_compression": "off",
}
"""Small, so that a few seconds of load go through checkpoints and the recycling of WAL."""
SCHEMA = f"""
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL, filler char(84) NOT NULL);
CREATE TABLE history (client int, n int, account int NOT NULL, delta int NOT NULL,
                      word text NOT NULL, PRIMARY KEY (client, n));
CREATE INDEX ON history (word);
INSERT INTO accounts SELECT id, 0, md5(id::text) FROM generate_series(0, {ACCOUNTS - 1}) AS id;
"""


class Server:
    """The server of the data folder `folder`; its socket is in `place`.

    A context in which it may run: killed at its end if it does.
    """

    def __init__(self, folder: Path, place: Path) -> None:
        programs = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
        if not programs:
            pytest.skip("postgresql is not installed: make tools")
        self._programs = programs[-1]
        self._folder = folder
        self._sockets = place / "pg"
        self._log = place / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()

    def initialize(self) -> None:
        """initdb with checksums, in an empty filesystem."""
        for folder in (self._folder, self._sockets):
            folder.mkdir(mode=0o700)
            subprocess.run(["chown", USER, folder], check=True)
        words = ("--data-checksums", "--auth=trust", "--wal-segsize=1", "--no-instructions")
        self.tool("initdb", *words, "--locale=C", "--encoding=UTF8", f"--pgdata={self._folder}")

    def start(self) -> None:
        """Start it, and wait until it has recovered."""
        settings = {**SETTINGS, "unix_socket_directories": str(self._sockets)}
        words = [f"--{name}={value}" for name, value in settings.items()]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder, *words],
                **self._as_its_user(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        wait_until("PostgreSQL", self._ready)

    def kill(self) -> None:
        """kill -9 of every process of it, and wait until they are gone."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        for each in (pid, *map(int, children)):
            os.kill(each, signal.SIGKILL)
        self._process.wait()
        wait_until("backends to end", lambda: not any(map(running, children)))

    def stop(self) -> None:
        """A clean stop."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        assert self._process.wait(TOOL_DEADLINE_S) == 0, self._tail()

    def check(self) -> None:
        """Every table and index is sound, and when it has stopped every page's checksum right."""
        self.tool(
            "pg_amcheck", "--install-missing", "--heapallindexed", "--all", *self._connection()
        )
        self.stop()
        self.tool("pg_checksums", "--check", f"--pgdata={self._folder}")

    def sql(self, text: str) -> list[list[str]]:
        """The rows."""
        words = ("-XqAt", "-F", "\t", "-v", "ON_ERROR_STOP=1", "-c", text)
        said = self.tool("psql", *self._connection(), *words)
        return [line.split("\t") for line in said.splitlines()]

    def tool(self, name: str, *words: str) -> str:
        """What one of PostgreSQL's programs prints; it must succeed."""
        done = subprocess.run(
            [self._programs / name, *words],
            **self._as_its_user(),
            capture_output=True,
            text=True,
            timeout=TOOL_DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"{name}: {done.stdout}{done.stderr}\n{self._tail()}"
        return str(done.stdout)

    def client(self, script: Path, acknowledged: Path) -> subprocess.Popen[bytes]:
        """psql at work on a script; its output goes to the file `acknowledged`."""
        words = ["-Xq", "-v", "ON_ERROR_STOP=1", "-f", str(script)]
        with open(acknowledged, "ab") as out:
            return subprocess.Popen(
                [self._programs / "psql", *self._connection(), *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.DEVNULL,
            )

    def _connection(self) -> tuple[str, ...]:
        return ("-h", str(self._sockets), "-U", USER)

    def _as_its_user(self) -> dict[str, Any]:
        return {"user": USER, "group": USER, "extra_groups": [], "cwd": "/"}

    def _ready(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._tail()
        words = ("-q", *self._connection())
        return subprocess.run([self._programs / "pg_isready", *words], check=False).returncode == 0

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-3000:] if self._log.exists() else ""


class Load:
    """Clients in the manner of pgbench: each transaction changes an account and notes that it did.

    What they do is decided by the seed; what was acknowledged is written down outside the server.
    """

    CLIENTS = 4
    TRANSACTIONS = 20_000
    """Of each client: more than it ever comes to."""

    def __init__(self, server: Server, place: Path) -> None:
        self._server = server
        self._place = place
        self._first = [0] * self.CLIENTS
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        """Go on behind what is in the database."""
        for client in range(self.CLIENTS):
            script = self._place / f"client-{client}.sql"
            first = self._first[client]
            with open(script, "w") as out:
                for n in range(first, self.TRANSACTIONS):
                    out.write(transaction(client, n))
            self._running.append(self._server.client(script, self._acknowledged(client)))

    def committed(self) -> int:
        """How many transactions have been acknowledged, in all rounds."""
        return sum(self._last(client) + 1 for client in range(self.CLIENTS))

    def wait_for(self, more: int) -> None:
        """Until so many more are acknowledged; all clients must be at work."""
        wanted = self.committed() + more

        def done() -> bool:
            assert all(psql.poll() is None for psql in self._running), "a client has failed"
            return self.committed() >= wanted

        wait_until(f"{wanted} commits", done)

    def end(self) -> None:
        """Wait for the clients of a dead server."""
        for psql in self._running:
            assert psql.wait(TOOL_DEADLINE_S) != 0
        self._running.clear()

    def compare(self) -> int:
        """Every acknowledged commit is there, whole, and nothing else but one more a client.

        The number of transactions there.
        """
        rows = self._server.sql("SELECT client, n, account, delta, word FROM history")
        there = {(int(client), int(n)): rest for client, n, *rest in rows}
        for client in range(self.CLIENTS):
            last = max((n for c, n in there if c == client), default=-1)
            assert last in (self._last(client), self._last(client) + 1)
            for n in range(last + 1):
                assert there.get((client, n)) == list(map(str, values(client, n))), (client, n)
            self._first[client] = last + 1
        wrong = self._server.sql(
            "SELECT id FROM accounts LEFT JOIN (SELECT account, sum(delta) FROM history GROUP BY 1)"
            " AS h ON h.account = id WHERE balance <> coalesce(sum, 0)"
        )
        assert wrong == []
        return len(there)

    def _acknowledged(self, client: int) -> Path:
        return self._place / f"acknowledged-{client}"

    def _last(self, client: int) -> int:
        """The last transaction acknowledged; -1: none."""
        path = self._acknowledged(client)
        lines = path.read_bytes().rpartition(b"\n")[0].splitlines() if path.exists() else []
        return int(lines[-1]) if lines else -1


def values(client: int, n: int) -> tuple[int, int, str]:
    """Account, delta and word of a transaction."""
    rng = random.Random(f"{client} {n}")
    return rng.randrange(ACCOUNTS), rng.randint(-1000, 1000), rng.randbytes(40).hex()


def transaction(client: int, n: int) -> str:
    """Its text for psql, which prints its number once it is committed."""
    account, delta, word = values(client, n)
    return (
        f"BEGIN; UPDATE accounts SET balance = balance + {delta} WHERE id = {account};"
        f" INSERT INTO history VALUES ({client}, {n}, {account}, {delta}, '{word}'); COMMIT;\n"
        f"\\echo {n}\n"
    )


def running(pid: str) -> bool:
    """Whether there is such a process."""
    return Path(f"/proc/{pid}").exists()
