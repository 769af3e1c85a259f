"""The interface that has an address; of this machine, only loopback is sure to be there."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from hvqray.training import node_interface
from hvqray.training.node_interface import interface_with


def test_the_interface_of_an_address_is_found() -> None:
    found = interface_with("127.0.0.1")
    assert found in {name for _, name in socket.if_nameindex()}


@pytest.mark.parametrize("address", ["203.0.113.77", "2001:db8::77", "no address"])
def test_of_an_address_that_is_another_machine_s_there_is_none(address: str) -> None:
    assert interface_with(address) is None


@pytest.mark.parametrize(("address", "interface"), [("fe80::1", "eth3"), ("::1", "lo"), ("fe80::2", None)])
def test_ipv6_is_looked_up_in_the_system_s_table(
    address: str, interface: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "if_inet6"
    table.write_text(
        "00000000000000000000000000000001 01 80 10 80       lo\n"
        "fe800000000000000000000000000001 02 40 20 80     eth3\n"
    )
    monkeypatch.setattr(node_interface, "_IPV6_TABLE", table)
    assert interface_with(address) == interface


def test_without_ipv6_none_has_such_an_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_interface, "_IPV6_TABLE", tmp_path / "missing")
    assert interface_with("::1") is None
