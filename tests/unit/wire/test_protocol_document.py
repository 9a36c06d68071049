"""docs/protocol.md lists every message with its tag and fields, and nothing else."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from segue.wire import messages
from segue.wire.messages import PROTOCOL_VERSION, Message

DOCUMENT = Path(__file__).parents[3] / "docs" / "protocol.md"
ROW = re.compile(r"^\| (?:(\d+) \| )?(\w+) \| ([\w, ]+) \| ", re.MULTILINE)


def test_the_document_lists_every_message_with_its_tag_and_fields() -> None:
    code = {
        name: (kind.__struct_config__.tag, list(kind.__struct_fields__))
        for name, kind in vars(messages).items()
        if inspect.isclass(kind) and issubclass(kind, Message) and kind is not Message
    }
    document = {
        name: (int(tag) if tag else None, fields.split(", "))
        for tag, name, fields in ROW.findall(DOCUMENT.read_text())
        if name not in ("tag", "part")
    }
    assert document == code
    assert len(code) > 30


def test_the_document_names_the_version() -> None:
    assert f"`Hello.version` is {PROTOCOL_VERSION}." in DOCUMENT.read_text()
