"""A disk made of what a process asked of the kernel: strace's record, cut anywhere.

`trace` runs a program under strace; `Disk` replays its writes and syncs up to a cut and then loses
power: of what was not synced, any subset of 512-byte sectors is on the platter, in any order of
files.  A created name is taken as durable, an unlinked one may be back until its folder is synced.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
CALLS = "openat,pwrite64,write,fsync,fdatasync,ftruncate,unlink"
_LINE = re.compile(r"^(\d+)\s+(?:(\w+)\((.*)|<\.\.\. (\w+) resumed>(.*))$", re.DOTALL)
_FD = re.compile(r"^\d+<([^>]*)>(?:\(deleted\))?(?:, )?(.*)$", re.DOTALL)


@dataclass(frozen=True)
class Op:
    """One call: write (offset, data), sync, truncate (size), unlink, create or ack (text)."""

    kind: str
    path: str
    offset: int = 0
    data: bytes = b""


def trace(command: list[str], folder: Path) -> list[Op]:
    """What `command` did to files below `folder`; a write to a file ``*.acks`` is an ack."""
    record = folder.parent / "strace.out"
    options = ["-f", "-xx", "-y", "-s", "1000000", "-e", f"trace={CALLS}", "-o", str(record)]
    environment = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(["strace", *options, *command], check=True, env=environment)
    operations: list[Op] = []
    begun: dict[str, tuple[str, str]] = {}
    for line in record.read_text().splitlines():
        match = _LINE.match(line)
        if not match:
            continue
        pid, call, rest, resumed, result = match.groups()
        if resumed:
            call, rest = begun.pop(pid)
            rest += result
            if call not in ("fsync", "fdatasync"):
                continue  # taken at its beginning
        elif rest.endswith("<unfinished ...>"):
            begun[pid] = call, rest.removesuffix("<unfinished ...>").rstrip()
            if call in ("fsync", "fdatasync"):
                continue  # counts when it has returned
        if not rest.rstrip().endswith("ENOENT (No such file or directory)"):
            operation = _operation(call, rest, str(folder))
            if operation:
                operations.append(operation)
    return operations


def _unhex(text: str) -> bytes:
    return bytes.fromhex(text.strip('"').replace("\\x", ""))


def _operation(call: str, rest: str, folder: str) -> Op | None:
    if call in ("openat", "unlink"):
        quoted = re.search(r'"((?:\\x..)*)"', rest)
        path = _unhex(quoted[1]).decode() if quoted else ""
        if not path.startswith(folder) or (call == "openat" and "O_CREAT" not in rest):
            return None
        return Op("create" if call == "openat" else "unlink", path)
    match = _FD.match(rest)
    path = _unhex(match[1]).decode(errors="replace") if match and "\\x" in match[1] else ""
    if not match or not path.startswith(folder):
        return None
    if call in ("fsync", "fdatasync"):
        return Op("sync", path)
    if call == "ftruncate":
        return Op("truncate", path, int(re.findall(r"\d+", match[2])[0]))
    quoted_data, *numbers = match[2].split('"')[1:]
    data = _unhex(quoted_data)
    if path.endswith(".acks"):
        return Op("ack", path, 0, data)
    return Op("write", path, int(re.findall(r"\d+", numbers[0])[1]), data)


@dataclass
class File:
    """What is durable for certain, and what was asked since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Op] = field(default_factory=list)

    def sync(self) -> None:
        for op in self.pending:
            _apply(self.durable, op)
        self.pending.clear()


def _apply(data: bytearray, op: Op) -> None:
    if op.kind == "truncate":
        del data[op.offset :]
        data.extend(bytes(op.offset - len(data)))
    else:
        data.extend(bytes(max(0, op.offset + len(op.data) - len(data))))
        data[op.offset : op.offset + len(op.data)] = op.data


class Disk:
    """The files of a folder, as operations are replayed."""

    def __init__(self, operations: list[Op], *, ignore_sync: bool = False) -> None:
        self.folder = os.path.dirname(operations[0].path)
        self.files: dict[str, File] = {}
        self.unlinked: dict[str, File] = {}
        self.acks: list[str] = []
        self.ignore_sync = ignore_sync

    def replay(self, op: Op) -> None:
        if op.kind == "ack":
            self.acks.append(op.data.decode().strip())
            return
        if op.path == self.folder:
            self.unlinked.clear()
            return
        file = self.files.setdefault(op.path, File())
        if op.kind == "sync":
            if not self.ignore_sync:
                file.sync()
        elif op.kind == "unlink":
            self.unlinked[op.path] = self.files.pop(op.path)
        elif op.kind != "create":
            file.pending.append(op)

    def in_flight(self) -> bool:
        """Whether anything was asked and not synced."""
        return any(file.pending for file in self.files.values())

    def lose_power(self, rng: random.Random, folder: Path) -> None:
        """Put into `folder` what a platter might hold now."""
        lost_unlinks = {p: f for p, f in self.unlinked.items() if rng.random() < 0.5}
        for path, file in (lost_unlinks | self.files).items():
            data = bytearray(file.durable)
            keep = rng.choice((0.0, 0.5, 0.9, 1.0))
            for op in file.pending:
                if op.kind == "truncate":
                    if rng.random() < keep:
                        _apply(data, op)
                    continue
                for at in range(0, len(op.data), SECTOR):
                    if rng.random() < keep:
                        piece = op.data[at : at + SECTOR]
                        _apply(data, Op("write", path, op.offset + at, piece))
            (folder / Path(path).name).write_bytes(data)
