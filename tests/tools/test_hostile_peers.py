"""Hostile peers on the link end their own link, and nothing else (promise P9, rule 10).

``SEGUE_HOSTILE_S`` makes the campaigns longer than their usual seconds.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
from pathlib import Path

from segue import _native
from segue.installation import Installation, Process, wait_until
from segue.wire.framing import frame
from segue.wire.messages import MAX_FAULTS, Hello, MapFault, Operation, encode
from tests.tools.conftest import MIB
from tests.tools.hostile import LEAST_SESSIONS, attack_agent, attack_controller

SECONDS = float(os.environ.get("SEGUE_HOSTILE_S", "4"))
SEED = int(os.environ.get("SEGUE_HOSTILE_SEED", "1"))
MOST_MEMORY = 600 * MIB
DEADLINE_S = 60


def memory(pid: int) -> int:
    """The most a process has ever had in memory, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no VmHWM")


def unexpected(log: Path) -> list[str]:
    """Lines of a log that tell of our own mistakes."""
    words = ("Traceback", "event=unexpected", "procedure_failed", "event=failed", "panicked")
    return [line for line in log.read_text().splitlines() if any(word in line for word in words)]


def write_and_read(address: str, stop: threading.Event, found: list[int]) -> None:
    """An honest host: counts its rounds, and those that read wrong bytes."""
    host = _native.NbdClient(address, "disk")
    rng = random.Random(SEED)
    while not stop.is_set():
        data, offset = rng.randbytes(4096), rng.randrange(2048) * 4096
        host.pwrite(data, offset)
        found[0] += 1
        found[1] += host.pread(4096, offset) != data
    host.close()


def test_hostile_agents_end_their_own_links_alone(installation: Installation) -> None:
    before = installation.client.status()
    [honest] = installation.client.agents()
    stop, found = threading.Event(), [0, 0]
    host = threading.Thread(target=write_and_read, args=(installation.socket("one"), stop, found))
    host.start()
    path = str(installation.data / "controller.sock")
    installed = bytes.fromhex(before.installation)
    try:
        welcomed = attack_controller(path, random.Random(SEED), SECONDS, installed)
    finally:
        stop.set()
        host.join()
    assert welcomed >= LEAST_SESSIONS
    assert found[0] > 0
    assert found[1] == 0
    after = installation.client.status()
    assert (after.pid, after.term) == (before.pid, before.term)
    assert honest.incarnation in {info.incarnation for info in installation.client.agents()}
    assert [disk.name for disk in installation.client.disks()] == ["disk"]
    assert unexpected(installation.controller.log) == []
    assert unexpected(installation.agents["one"].log) == []
    assert memory(after.pid) < MOST_MEMORY


def test_a_flood_of_faults_ends_that_link(installation: Installation) -> None:
    """Faults that wait for a lease that is never asked for: all that an agent could keep."""
    pid = installation.client.status().pid
    path = str(installation.data / "controller.sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.settimeout(DEADLINE_S)
        hello = Hello(1, "flood", 5, 0, 0, b"", [], [], lease_lost=False)
        sock.sendall(frame(encode(hello)))
        assert sock.recv(4096)
        try:
            for request in range(2 * MAX_FAULTS):
                fault = MapFault(request, 1, 0, 1, Operation.READ, 0, 1, 0)
                sock.sendall(frame(encode(fault)))
            while sock.recv(4096):
                pass
        except ConnectionError:
            pass
    assert "event=agent_floods agent=flood" in installation.controller.log.read_text()
    assert installation.client.status().pid == pid
    assert memory(pid) < MOST_MEMORY


def test_connections_that_say_nothing_keep_nobody_out(installation: Installation) -> None:
    path = str(installation.data / "controller.sock")
    silent = [socket.socket(socket.AF_UNIX) for _ in range(80)]
    for sock in silent:
        sock.connect(path)
        # A whole frame is announced, and most of it sent.
        sock.sendall((1 << 20).to_bytes(4, "little") + bytes(100_000))
    refused = "others have yet to say hello"
    wait_until("a refusal", lambda: refused in installation.controller.log.read_text())
    for sock in silent:
        sock.close()
    installation.start_agent("two")


def test_hosts_that_take_too_much_are_refused_with_the_reason(installation: Installation) -> None:
    installation.start_agent("two", "--handshake-timeout", "1", "--disk-connections", "2")
    address, uri = installation.socket("two"), installation.uri("disk", "two")
    hosts = [_native.NbdClient(address, "disk") for _ in range(2)]
    with socket.socket(socket.AF_UNIX) as silent:
        silent.settimeout(DEADLINE_S)
        silent.connect(address)
        assert silent.recv(8) == b"NBDMAGIC"
        while silent.recv(4096):
            pass
    third = subprocess.run(["qemu-img", "info", uri], capture_output=True, text=True, check=False)
    assert third.returncode != 0
    assert "the disk has 2 connections already" in third.stderr
    for host in hosts:
        host.pwrite(bytes(4096), 0)
    text = installation.agents["two"].log.read_text()
    assert "it has taken 1 s for it" in text
    assert "refused: the disk has 2 connections already" in text


def test_a_hostile_controller_ends_its_own_link_alone(folder: Path) -> None:
    """The agent comes back for ever, and stops in order when it is told to."""
    path = str(folder / "controller.sock")
    file = folder / "left"
    _native.create_container(f"file://{file}", 16 * MIB, MIB, b"i" * 16, b"i" * 16, 1, "page")
    texts = [f"file://{file}", "page", "direct", "", f"file://{folder}/none", "x" * 4096, "\n"]
    args = ["agent", "--name", "one", "--controller", f"unix://{path}"]
    agent = Process("agent", [*args, "--listen", f"unix://{folder}/nbd.sock"], folder)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        agent.start()
        try:
            sessions = attack_agent(listener, random.Random(SEED), SECONDS, texts)
            agent.must_run()
            assert memory(agent.pid) < MOST_MEMORY
        finally:
            listener.close()
            status = agent.stop() if agent.running else -1
    assert sessions >= LEAST_SESSIONS
    assert status == 0
    assert unexpected(agent.log) == []


def test_a_log_that_cannot_be_written_stops_nobody(installation: Installation) -> None:
    """Hosts that break the protocol are told of in the log, whose disk is full."""
    two = installation.agents["two"] = Process(
        "agent-two", ["agent", "--data", str(installation.data), "--name", "two"], Path("/dev")
    )
    two.log = Path("/dev/full")
    two.start()
    installation.wait_for_agent("two")
    rng = random.Random(SEED)
    for _ in range(20):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(installation.socket("two"))
            sock.settimeout(DEADLINE_S)
            sock.sendall(rng.randbytes(200))
            try:
                while sock.recv(4096):
                    pass
            except ConnectionError:
                pass
    host = _native.NbdClient(installation.socket("two"), "disk")
    host.pwrite(b"1" * 4096, 0)
    assert host.pread(4096, 0) == b"1" * 4096
    host.close()
    two.must_run()
