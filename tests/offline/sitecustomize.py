"""No network: in every Python that has this folder on its path, connections beyond this machine fail.

Python imports a module of this name when it starts; ``tests/conftest.py`` puts the folder on the path of all programs
that tests start. Programs in other languages, such as the browser, are not held back.
"""

import ipaddress
import socket
from typing import Any

_connect = socket.socket.connect


def _guarded(self: socket.socket, address: Any) -> None:
    far = self.family in (socket.AF_INET, socket.AF_INET6) and address[0] != "localhost"
    if far and not ipaddress.ip_address(address[0]).is_loopback:
        raise OSError(f"the tests have no network, so none of them may connect to {address[0]}")
    _connect(self, address)


socket.socket.connect = _guarded  # type: ignore[method-assign]
