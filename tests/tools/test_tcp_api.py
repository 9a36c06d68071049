"""The HTTP API over TCP: with TLS and the token only, and never to other machines without."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from segue.client import ApiError, Client
from segue.installation import Installation
from tests.tools.conftest import Tool, segue
from tests.tools.test_tcp import free_port


class Remote(NamedTuple):
    """An installation that is reached by URL."""

    installation: Installation
    url: str
    certificate: str
    token: str


def certificate(folder: Path) -> tuple[str, str]:
    """A new one for localhost and its key, as docs/api.md makes them."""
    made, key = folder / "api.crt", folder / "api.key"
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    kind = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2")
    Tool("openssl")("req", "-x509", *kind, "-keyout", key, "-out", made, *names)
    return str(made), str(key)


@pytest.fixture
def remote(folder: Path) -> Iterator[Remote]:
    """A controller with TLS on a TCP port, and agent *one*."""
    cert, key = certificate(folder)
    port = free_port()
    args = ("--api-listen", f"tcp://127.0.0.1:{port}", "--api-cert", cert, "--api-key", key)
    with Installation(folder / "data", args) as made:
        made.start_controller()
        made.start_agent("one")
        token = (made.data / "api.token").read_text().strip()
        yield Remote(made, f"https://localhost:{port}", cert, token)
        made.stop()


def test_the_whole_way_by_url(remote: Remote, folder: Path) -> None:
    data = remote.installation.data
    assert stat.S_IMODE((data / "api.token").stat().st_mode) == 0o600
    known = {"SEGUE_API_TOKEN": remote.token, "SEGUE_API_CA": remote.certificate}

    def by_url(*args: str, **environment: str) -> tuple[int, str, str]:
        done = segue(None, "--api", remote.url, *args, **environment)
        return done.returncode, done.stdout, done.stderr

    uri = f"file://{folder}/left"
    assert by_url("container", "add", "left", uri, "--size", "64M", **known)[0] == 0
    assert by_url("disk", "create", "d", "8M", **known)[1] == "disk d: 8M\n"
    listed = json.loads(by_url("disk", "list", "--json", **known)[1])
    assert [disk["name"] for disk in listed] == ["d"]
    code, _, said = by_url("disk", "uri", "d", **known)
    assert (code, "sockets of their machine only" in said) == (1, True)

    for token, sentence in (("", "no valid token"), (remote.token + "x", "no valid token")):
        code, out, said = by_url("disk", "delete", "d", **known | {"SEGUE_API_TOKEN": token})
        assert (code, out) == (1, "")
        assert sentence in said
    code, _, said = by_url("disk", "list", SEGUE_API_TOKEN=remote.token)
    assert code == 1
    assert "its certificate is not trusted: self-signed certificate" in said
    assert len(said.splitlines()) == 1
    with pytest.raises(ApiError, match="cannot reach the controller at http://localhost"):
        Client(remote.url.replace("https", "http"), token=remote.token).disks()

    # On its own machine, and after a restart with the same token, as before.
    remote.installation.controller.kill()
    remote.installation.start_controller()
    client = Client(remote.url, token=remote.token, ca=remote.certificate)
    assert client.disks() == remote.installation.client.disks() != []


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["tcp://0.0.0.0:7"], "can be reached from other machines: give --api-cert"),
        (["unix:///tmp/x"], "this is for tcp://HOST:PORT"),
        (["tcp://127.0.0.1:0", "--api-cert", "x"], "--api-cert and --api-key go together"),
        (["tcp://0.0.0.0:0", "--api-cert", "no.crt", "--api-key", "no.key"], "are no certificate"),
    ],
)
def test_a_door_that_is_not_right_is_refused(folder: Path, args: list[str], sentence: str) -> None:
    done = segue(folder / "data", "controller", "--api-listen", *args)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert sentence in line
    assert not (folder / "data").exists()


@pytest.mark.parametrize(
    ("mode", "text", "sentence"),
    [(0o644, "t" * 40, "not its owner's alone"), (0o600, "short", "holds no token")],
)
def test_a_token_that_others_may_know_is_refused(
    folder: Path, mode: int, text: str, sentence: str
) -> None:
    data = folder / "data"
    data.mkdir(mode=0o700)
    (data / "api.token").write_text(text)
    (data / "api.token").chmod(mode)
    done = segue(data, "controller", "--api-listen", "tcp://127.0.0.1:0")
    assert done.returncode == 1
    assert sentence in done.stderr.splitlines()[-1]
