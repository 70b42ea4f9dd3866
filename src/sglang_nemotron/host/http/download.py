"""A URL comes in, the bytes behind it go out piece by piece: from an address that the operator allows, before an end.

A name is resolved once, and the address that was looked at is the one that is asked; each redirect is looked at anew.
Nothing of one download is known to another: no cookies, no passwords of this machine, no connection. Not requests,
whose sessions have all three, and whose timeouts begin anew with every byte.
"""

from __future__ import annotations

import base64
import contextlib
import functools
import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, unquote, urljoin, urlsplit
from urllib.request import getproxies, proxy_bypass

from sglang_nemotron.reader.origins import ADDRESSES, Origins, normal_host

# as many as SGLang follows
MOST_REDIRECTS = 5
_REDIRECTS = (301, 302, 303, 307, 308)
_PIECE = 1 << 16
_PORTS = {"http": 80, "https": 443}
# of a path and a query, what stays as it was sent
_SAFE = "/?:@!$&'()*+,;=%~-._[]"

Result = TypeVar("Result")


class NotFetched(ValueError):
    """Why there are no bytes, in words for whoever sent the URL: of the URL, no more than its host is told."""


@dataclass(frozen=True, slots=True)
class _Target:
    scheme: str
    host: str
    port: int
    # path and query
    asked: str
    # of the URL itself, empty if it has none
    authorization: str = ""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.asked}"


def download(url: str, origins: Origins, *, seconds: float) -> Iterator[bytes]:
    """The body behind an http(s) URL. Blocks: for a thread. NotFetched.

    seconds: for all of it, however the other side deals its bytes out. Looking up a name alone may take longer: as long
    as this machine's resolver does.
    """
    deadline = time.monotonic() + seconds
    for _ in range(MOST_REDIRECTS + 1):
        target = _target(url, origins)
        with _Exchange(target, origins, deadline) as exchange:
            response = exchange.response
            location = response.headers.get("Location")
            if response.status not in _REDIRECTS or not location:
                yield from _body(exchange, target, origins.max_bytes)
                return
            url = _joined(url, location)
    raise NotFetched(f"more than {MOST_REDIRECTS} redirects")


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError as error:
        raise NotFetched("redirected to something that is no URL") from error


def _body(exchange: _Exchange, target: _Target, max_bytes: int) -> Iterator[bytes]:
    response = exchange.response
    if response.status != 200:
        raise NotFetched(f"{response.status} {response.reason[:80]} from {target.host}")
    # unasked for, and a few KB may become a hundred MB
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("", "identity"):
        raise NotFetched(f"{target.host} sends it compressed ({response.headers['Content-Encoding'][:20]})")
    if max_bytes and response.length is not None and response.length > max_bytes:
        raise NotFetched(f"it has {response.length} bytes, above the download limit of {max_bytes}")
    total = 0
    while True:
        piece = exchange.guarded(lambda: response.read1(_PIECE))
        if not piece:
            break
        total += len(piece)
        if max_bytes and total > max_bytes:
            raise NotFetched(f"it has more bytes than the download limit of {max_bytes}")
        yield piece
    if response.length:
        raise NotFetched(f"{target.host} ended it {response.length} bytes early")


def _target(url: str, origins: Origins) -> _Target:
    """What a URL asks for; NotFetched for a scheme or a domain that is not allowed, and for what is no URL."""
    # parsers disagree about these, and what one of them checked another would ask for
    if any(char in url for char in "\\\t\r\n") or url != url.strip():
        raise NotFetched("the URL has a blank or a backslash")
    try:
        parts = urlsplit(url)
        scheme, port = parts.scheme, parts.port
        host = "" if " " in parts.netloc else normal_host(parts.hostname or "")
    except ValueError as error:
        raise NotFetched("it is no URL") from error
    if scheme not in _PORTS:
        raise NotFetched(f"the scheme {scheme[:20]!r} is not fetched; allowed: http, https")
    if not host or any(char.isspace() or not char.isprintable() for char in host):
        raise NotFetched("the URL has no host")
    if origins.domains and host not in origins.domains:
        raise NotFetched(f"Media URL domain is not allowed: {host}; allowed: {', '.join(origins.domains)}")
    asked = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    return _Target(scheme, host, port or _PORTS[scheme], asked, _basic(parts.username, parts.password))


def _basic(user: str | None, password: str | None) -> str:
    if user is None:
        return ""
    return "Basic " + base64.b64encode(f"{unquote(user)}:{unquote(password or '')}".encode()).decode()


class _Exchange:
    """One request and its response; a context manager that ends both. NotFetched from entering on.

    A timer cuts the connection at the deadline, whichever part of it dribbles: timeouts of sockets begin anew with each
    byte.
    """

    response: http.client.HTTPResponse

    def __init__(self, target: _Target, origins: Origins, deadline: float) -> None:
        self._target, self._origins, self._deadline = target, origins, deadline
        self._late = threading.Event()
        self._open = contextlib.ExitStack()

    def __enter__(self) -> _Exchange:
        try:
            self.response = self.guarded(self._ask)
        except BaseException:
            self._open.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def guarded(self, work: Callable[[], Result]) -> Result:
        """What `work` gives; NotFetched for whatever the network or the deadline does to it."""
        try:
            result = work()
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if not self._late.is_set():
                raise NotFetched(_told(error, self._target.host)) from error
            result = None
        if self._late.is_set() or result is None:
            raise NotFetched(f"{self._target.host} takes too long")
        return result

    def _ask(self) -> http.client.HTTPResponse:
        target = self._target
        proxy = _proxy_of(target)
        if proxy is None:
            sock = self._cut_at_deadline(self._dial(self._addresses()))
        else:
            self._look_before_proxy()
            sock = self._cut_at_deadline(socket.create_connection((proxy.host, proxy.port), self._left()))
            if target.scheme == "https":
                _tunnel(sock, target, proxy)
        headers = {
            "User-Agent": "sglang-nemotron",
            "Accept": "*/*",
            "Accept-Encoding": "identity",
            "Connection": "close",
        }
        if target.authorization:
            headers["Authorization"] = target.authorization
        if target.scheme == "https":
            sock = self._open.enter_context(_trust().wrap_socket(sock, server_hostname=target.host))
            connection = http.client.HTTPSConnection(target.host, target.port, context=_trust())
        else:
            connection = http.client.HTTPConnection(target.host, target.port)
            if proxy is not None and proxy.authorization:
                headers["Proxy-Authorization"] = proxy.authorization
        self._open.callback(connection.close)
        connection.sock = sock
        connection.request(
            "GET", target.asked if proxy is None or target.scheme == "https" else target.url, headers=headers
        )
        response = connection.getresponse()
        self._open.callback(response.close)
        return response

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            self._late.set()
            raise TimeoutError
        return left

    def _cut_at_deadline(self, sock: socket.socket) -> socket.socket:
        self._open.callback(sock.close)
        # another name of the connection, which stays ours when TLS takes the socket over
        second = self._open.enter_context(sock.dup())

        def cut() -> None:
            self._late.set()
            with contextlib.suppress(OSError):
                second.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._left(), cut)
        timer.daemon = True
        timer.start()
        self._open.callback(timer.cancel)
        return sock

    def _addresses(self) -> list[tuple[int, tuple[str, int]]]:
        """(family, address) of each that may be asked; NotFetched if there is none."""
        found = socket.getaddrinfo(self._target.host, self._target.port, type=socket.SOCK_STREAM)
        allowed = [(family, where) for family, _, _, _, where in found if self._origins.allows(str(where[0]))]
        if not allowed:
            raise NotFetched(
                f"{self._target.host} is at no address that may be asked: public ones alone, unless the operator sets "
                f"{ADDRESSES}"
            )
        return allowed  # type: ignore[return-value]

    def _look_before_proxy(self) -> None:
        """A proxy looks names up by itself; but what this machine knows to be forbidden is not asked for."""
        with contextlib.suppress(socket.gaierror):
            self._addresses()

    def _dial(self, addresses: list[tuple[int, tuple[str, int]]]) -> socket.socket:
        """A connection to the first that answers."""
        problem: OSError = TimeoutError()
        for family, address in addresses:
            sock = socket.socket(family, socket.SOCK_STREAM)
            try:
                sock.settimeout(self._left())
                sock.connect(address)
                return sock
            except OSError as error:
                sock.close()
                problem = error
        raise problem


def _told(error: Exception, host: str) -> str:
    if isinstance(error, socket.gaierror):
        return f"there is no host {host}"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate of {host} is not valid: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"{host} speaks no TLS that is spoken here"
    if isinstance(error, TimeoutError):
        return f"{host} takes too long"
    if isinstance(error, OSError):
        return f"{host}: {error.strerror or type(error).__name__}"
    return f"{host} does not speak HTTP ({type(error).__name__})"


@functools.cache
def _trust() -> ssl.SSLContext:
    """The authorities that this machine trusts, where requests looks for them too."""
    import certifi

    named = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE") or certifi.where()
    folder = os.path.isdir(named)
    return ssl.create_default_context(cafile=None if folder else named, capath=named if folder else None)


# ---- proxies that the operator set


def _proxy_of(target: _Target) -> _Target | None:
    """The proxy that the environment names for this target, as every program of this machine uses it."""
    proxies = getproxies()
    named = proxies.get(target.scheme) or proxies.get("all")
    if not named or proxy_bypass(target.host):
        return None
    parts = urlsplit(named if "://" in named else f"http://{named}")
    if parts.scheme != "http" or not parts.hostname:
        raise NotFetched("the server's proxy is none that is spoken to: http:// alone")
    return _Target("http", parts.hostname, parts.port or 80, "", _basic(parts.username, parts.password))


def _tunnel(sock: socket.socket, target: _Target, proxy: _Target) -> None:
    """Lets a proxy connect to the target; what is sent from now on is between the two."""
    host = f"[{target.host}]" if ":" in target.host else target.host
    lines = [f"CONNECT {host}:{target.port} HTTP/1.1", f"Host: {host}:{target.port}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    response = http.client.HTTPResponse(sock, method="CONNECT")
    response.begin()
    if response.status != 200:
        raise NotFetched(f"the server's proxy says {response.status} to {target.host}")
