"""Stages meet in a private file, or at the very address that was asked for."""

import socket
from datetime import timedelta
from pathlib import Path

import pytest

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.processes import meeting
from runtimes.torch_pipeline.processes.meeting import (
    Address,
    listen,
    loopback_only,
    meeting_store,
    parse_address,
)
from tests.runtimes.sockets_of_tests import free_port


def test_addresses_are_read() -> None:
    assert parse_address("10.0.0.1:29500") == Address("10.0.0.1", 29500)
    assert parse_address("[::1]:1") == Address("::1", 1)
    assert str(parse_address("host:65535")) == "host:65535"


@pytest.mark.parametrize("text", ["", "host", "host:", ":1", "host:0", "host:65536", "h:-1", "h:²"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_address(text)
    assert str(refused.value) == f"--master: expected HOST:PORT, got {text!r}"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_only_the_address_is_listened_at(host: str) -> None:
    with listen(Address(host, free_port())) as listener:
        assert listener.getsockname()[0] in {"127.0.0.1", "::1"}


def test_a_name_that_means_this_machine_to_itself_alone_is_reached_from_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.1.1", port))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with listen(Address("node-0", port)) as listener:
        assert listener.getsockname() == ("0.0.0.0", port)


def test_a_taken_port_is_one_clear_line() -> None:
    with listen(Address("127.0.0.1", free_port())) as taken:
        address = Address(*taken.getsockname()[:2])
        with pytest.raises(InputError) as refused:
            listen(address)
    assert str(refused.value) == (
        f"--master: cannot listen on {address}: Address already in use; choose another port, or an "
        "address of this machine"
    )


def test_a_name_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(InputError) as refused:
        listen(Address("nowhere", 1))
    start = "--master: cannot listen on nowhere:1: Name or service not known; "
    assert str(refused.value).startswith(start)


def test_stages_of_one_machine_meet_in_a_private_file(tmp_path: Path) -> None:
    first, second = (meeting_store(tmp_path, 2, "", None) for _ in range(2))
    first.set("key", "value")
    assert second.get("key") == b"value"
    (path,) = tmp_path.iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_stages_of_several_meet_at_a_socket_that_was_handed_over(tmp_path: Path) -> None:
    listener = listen(Address("127.0.0.1", free_port()))
    address = str(Address(*listener.getsockname()[:2]))
    first = meeting_store(tmp_path, 2, address, listener.detach())
    second = meeting_store(tmp_path, 2, address, None)
    first.set("key", "value")
    assert second.get("key") == b"value"
    assert list(tmp_path.iterdir()) == []


def test_a_first_machine_that_does_not_come_is_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "PATIENCE", timedelta(seconds=1))
    with pytest.raises(InputError, match="--master: nobody listened at "):
        meeting_store(tmp_path, 2, f"127.0.0.1:{free_port()}", None)


def test_gloo_and_nccl_keep_to_loopback() -> None:
    names = loopback_only()
    assert set(names) == {"GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"}
    assert len(set(names.values())) == 1
    assert names["GLOO_SOCKET_IFNAME"] in {name for _, name in socket.if_nameindex()}
