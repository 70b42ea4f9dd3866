"""Whether a server can listen where it is told to, asked before anything is loaded.

SGLang finds out when the weights are loaded: its HTTP server ends then, and the processes around it wait for ever.
"""

from __future__ import annotations

import errno
import socket


def check_port(host: str, port: int) -> None:
    """ValueError of two lines if nothing can listen there."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            # as uvicorn does: what a connection of before has left there does not count
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise ValueError(f"port {port} of {host} is in use\n  remedy: choose another with --port") from None
        raise ValueError(
            f"nothing can listen at {host}, port {port}: {error.strerror}\n"
            "  remedy: give an address of this machine with --host, and a port that you may use with --port"
        ) from None
