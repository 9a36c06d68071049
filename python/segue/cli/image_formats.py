"""What format an image file has, and that nothing but the file itself is read for it.

Who wrote an image need not be who imports it: a guest can write the header of a qcow2 file into its
raw image, and name any file of the operator's there as its backing file.  So what a file looks like
must be what its name says, images that refer to other files are refused, and `qemu-img` is told the
format that was looked at, and to open no backing file (`source`).
"""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from segue.cli.options import Failed

RAW = "raw"
MAGICS = {
    b"QFI\xfb": "qcow2",
    b"KDMV": "vmdk",
    b"vhdxfile": "vhdx",
    b"conectix": "vpc",
}
VDI_MAGIC_AT, VDI_MAGIC = 64, b"\x7f\x10\xda\xbe"
VERSION_WITH_FEATURES, INCOMPATIBLE_AT, DATA_FILE = 3, 72, 1 << 2
"""Of a qcow2 header (docs/interop/qcow2.txt of QEMU): big-endian, a bit for an external file."""
ENDINGS = {
    ".raw": RAW,
    ".img": RAW,
    ".iso": RAW,
    ".bin": RAW,
    ".dd": RAW,
    ".qcow2": "qcow2",
    ".vmdk": "vmdk",
    ".vhdx": "vhdx",
    ".vhd": "vpc",
    ".vpc": "vpc",
    ".vdi": "vdi",
}
"""What a name's ending says; any other says nothing."""
REFERENCES = ("backing-filename", "full-backing-filename", "data-file")
"""Keys of `qemu-img info`, at any depth, whose values are other files."""


def need_image_file(path: Path) -> None:
    """Raises `Failed` for what has no size and no place to read again from: pipes, terminals."""
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise Failed(
            f"{path} is neither a file nor a block device: no disk is made of anything else"
        )


def image_format(path: Path) -> str:
    """What the file's first bytes say it is; raw if they say nothing.

    Raises `Failed` where its name says something else, or where it is a device, which holds what a
    guest has written, and does not look raw.
    """
    with open(path, "rb") as file:
        head = file.read(VDI_MAGIC_AT + len(VDI_MAGIC))
    if head[VDI_MAGIC_AT:] == VDI_MAGIC:
        looks = "vdi"
    else:
        looks = next((name for magic, name in MAGICS.items() if head.startswith(magic)), RAW)
    unnamed = RAW if stat.S_ISBLK(path.stat().st_mode) else looks
    says = ENDINGS.get(path.suffix.lower(), unnamed)
    if says != looks:
        why = "whoever wrote it chose how it looks, so say which it is"
        raise _unlike_its_name(f"{path} looks like {looks}", says, why, looks)
    return looks


def export_format(path: Path) -> str:
    """What a new image is written as: raw; raises `Failed` where its name says something else."""
    says = ENDINGS.get(path.suffix.lower(), RAW)
    if says != RAW:
        raise _unlike_its_name(f"{path} would be {RAW}", says, "say which it is to be", RAW)
    return RAW


def _unlike_its_name(what: str, says: str, why: str, image: str) -> Failed:
    return Failed(f"{what}, its name like {says}: {why} (--format {says} or --format {image})")


def need_qemu_img(image: str) -> None:
    """Raises `Failed` if the format takes a tool that is not here."""
    if image != RAW and shutil.which("qemu-img") is None:
        raise Failed(f"{image} images take qemu-img, which is not here (Debian: qemu-utils)")


def image_size_bytes(path: Path, image: str) -> int:
    """Size of the disk in an image of that format; `Failed` if it is in other files as well."""
    if image == RAW:
        with open(path, "rb") as file:
            return file.seek(0, os.SEEK_END)  # a device's `stat` has none
    name = str(path.absolute())
    if image == "qcow2" and _has_data_file(path):
        # Some qemu-img open it even to tell of it, and what it is called can do more than be read.
        raise _refers(path, image, "its external data file")
    command = ["qemu-img", "info", "--output=json", "-f", image, name]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise Failed(last_line(done.stderr))
    info = json.loads(done.stdout)
    other = next((other for other in _files(info) if other != name), None)
    if other is not None:
        raise _refers(path, image, other)
    size: int = info["virtual-size"]
    return size


def source(path: Path, image: str) -> str:
    """The image as `qemu-img` is to open it: of that format, from that file and no other."""
    driver = "host_device" if stat.S_ISBLK(path.stat().st_mode) else "file"
    file = {"driver": driver, "filename": str(path.absolute())}
    return "json:" + json.dumps({"driver": image, "backing": None, "file": file})


def last_line(said: bytes) -> str:
    """Why `qemu-img` failed."""
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "qemu-img failed and does not say why"


def _refers(path: Path, image: str, other: str) -> Failed:
    return Failed(
        f"{path} takes data from another file, {other}, which whoever wrote the image chose: "
        f"if you mean that, make one file of both first (qemu-img convert -f {image} "
        f"-O qcow2 {path} NEW, or qemu-img rebase -b '')"
    )


def _has_data_file(path: Path) -> bool:
    with open(path, "rb") as file:
        head = file.read(INCOMPATIBLE_AT + 8)
    features = int.from_bytes(head[INCOMPATIBLE_AT:])
    return int.from_bytes(head[4:8]) >= VERSION_WITH_FEATURES and bool(features & DATA_FILE)


def _files(info: Any) -> Iterator[str]:
    """All files that an answer of `qemu-img info` names: extents, children, backing files."""
    if isinstance(info, list):
        for each in info:
            yield from _files(each)
    elif isinstance(info, dict):
        for key, value in info.items():
            if isinstance(value, str) and (key in REFERENCES or key == "filename"):
                yield value
            else:
                yield from _files(value)
