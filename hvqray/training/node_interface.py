"""The network interface by which the processes of several machines find each other."""

from __future__ import annotations

import fcntl
import ipaddress
import socket
import struct
from pathlib import Path

_SIOCGIFADDR = 0x8915
"""Linux's request for the IPv4 address of an interface."""
_IPV6_TABLE = Path("/proc/net/if_inet6")


def interface_with(address: str) -> str | None:
    """The name of this machine's interface that has the IP `address`, None where none is seen to."""
    try:
        wanted = ipaddress.ip_address(address)
    except ValueError:
        return None
    if wanted.version == 6:
        return _interface_with_ipv6(wanted.packed.hex())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                reply = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, request)
            except OSError:  # it has no such address
                continue
            if reply[20:24] == wanted.packed:
                return name
    return None


def _interface_with_ipv6(digits: str) -> str | None:
    if not _IPV6_TABLE.is_file():
        return None
    rows = [line.split() for line in _IPV6_TABLE.read_text(encoding="ascii").splitlines()]
    return next((row[-1] for row in rows if row[0] == digits), None)
