"""What a URL leads to: allowed addresses and no others, an end to everything, and nothing told to strangers."""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from sglang_nemotron.host.http import download as downloading
from sglang_nemotron.host.http.download import NotFetched, download
from sglang_nemotron.reader.origins import Origins
from support.loopback import QuietHandler, listening
from support.waiting import NET_S

DATA = bytes(range(256)) * 5000
HERE = Origins(others=(ipaddress.ip_network("127.0.0.1/32"),))


# of servers that dawdle: each far below the limit that strikes, all of them together above it
BETWEEN_BYTES_S, BEFORE_REDIRECT_S = 0.02, 0.2


def got(url: str, origins: Origins = HERE, seconds: float = NET_S) -> bytes:
    return b"".join(download(url, origins, seconds=seconds))


def refusal(url: str, origins: Origins = HERE, seconds: float = NET_S) -> str:
    with pytest.raises(NotFetched) as error:
        got(url, origins, seconds)
    return str(error.value)


# ---- one that answers as it should, and in many other ways


class Handler(QuietHandler):
    """Of a path: /data, /to?<where>, /again, /gone, /packed, /long, /short, /header?name; counts what was asked for."""

    protocol_version = "HTTP/1.1"
    asked: list[tuple[str, dict[str, str]]]

    def do_GET(self) -> None:  # noqa: N802
        path, _, query = self.path.partition("?")
        self.asked.append((self.path, dict(self.headers.items())))
        if path == "/to":
            return self._head(302, Location=query, Set_Cookie="a=b")
        if path == "/again":
            return self._head(302, Location="/again")
        if path == "/gone":
            return self._head(404)
        if path == "/packed":
            return self._head(200, DATA, Content_Encoding="gzip")
        if path == "/cookie":
            return self._head(200, DATA, Set_Cookie="session=of-another")
        if path == "/long":
            return self._head(200, b"", Content_Length=str(1 << 40))
        if path == "/short":
            return self._head(200, DATA[:100], Content_Length="1000")
        if path == "/chunks":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for at in range(0, len(DATA), 100_000):
                piece = DATA[at : at + 100_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")
            return None
        return self._head(200, DATA)

    def _head(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        headers.setdefault("Content_Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(data)
        self.close_connection = True


@pytest.fixture
def server() -> Iterator[str]:
    Handler.asked = []
    with listening(Handler) as url:
        yield url


@contextmanager
def raw(answer: Callable[[socket.socket], object], host: str = "127.0.0.1") -> Iterator[str]:
    """The URL of a socket that gives each connection to `answer`, once its request's head was read."""
    listener = socket.create_server((host, 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(connection,), daemon=True).start()

    def one(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65_536)
                answer(connection)
            except OSError:
                # cut, as it should be
                ended.set()

    ended = threading.Event()
    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://{host}:{listener.getsockname()[1]}/a"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def names(monkeypatch: pytest.MonkeyPatch, table: dict[str, list[list[str]]]) -> list[str]:
    """A resolver that gives each name its addresses, one list after the other; returns the names that it was asked."""
    real, looked = socket.getaddrinfo, []

    def resolve(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
        looked.append(host)
        if host not in table:
            return real(host, port, *args, **kwargs)
        answers = table[host]
        addresses = answers.pop(0) if len(answers) > 1 else answers[0]
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        return [found for address in addresses for found in real(address, port, type=socket.SOCK_STREAM)]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    return looked


def test_bytes_come_as_they_are(server: str) -> None:
    assert got(f"{server}/data") == got(f"{server}/chunks") == DATA
    assert got(f"{server}/to?/to?/data") == DATA
    assert refusal(f"{server}/gone") == "404 Not Found from 127.0.0.1"


def test_a_url_is_asked_for_as_it_was_sent(server: str) -> None:
    got(f"{server}/a%20b/\u00e4?x=%2F&y=a+b#part")
    assert Handler.asked[-1][0] == "/a%20b/%C3%A4?x=%2F&y=a+b"
    got(server.replace("//", "//some%40body:pass@") + "/data")
    assert Handler.asked[-1][1]["Authorization"] == "Basic c29tZUBib2R5OnBhc3M="


# ---- addresses


NOT_PUBLIC = (
    *("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
    *("100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "::1", "::", "fe80::1", "fe80::1%1", "fc00::1", "fd00:ec2::254", "ff02::1"),
    # addresses of IPv4 in the clothes of IPv6
    *("::ffff:127.0.0.1", "::ffff:169.254.169.254", "64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::1"),
)


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_addresses_that_are_not_public_are_not_asked(address: str) -> None:
    assert not Origins().allows(address) and Origins(any_address=True).allows(address)


@pytest.mark.parametrize(
    "address", ["93.184.216.34", "8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_public_addresses_are_asked(address: str) -> None:
    assert Origins().allows(address)
    assert not Origins(public=False, others=(ipaddress.ip_network("10.0.0.0/8"),)).allows(address)


@pytest.mark.parametrize(
    "host",
    # as browsers and resolvers write 127.0.0.1, too
    ["127.0.0.1", "localhost", "2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0"],
)
def test_this_machine_is_not_asked_by_default(server: str, host: str) -> None:
    port = server.rpartition(":")[2]
    said = refusal(f"http://{host}:{port}/data", Origins())
    assert "is at no address that may be asked: public ones alone" in said or "there is no host" in said
    assert Handler.asked == []


def test_a_redirect_is_looked_at_like_the_url_itself(server: str) -> None:
    with raw(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nsecret"), "127.0.0.2") as inner:
        assert "127.0.0.2 is at no address" in refusal(f"{server}/to?{inner}")
        assert got(f"{server}/to?{inner}", replace(HERE, others=(ipaddress.ip_network("127.0.0.0/8"),))) == b"secret"
    for where in ("file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://127.0.0.1/a", "data:,x", "javascript:1"):
        assert "allowed: http, https" in refusal(f"{server}/to?{where}")
    assert "no URL" in refusal(f"{server}/to?http://[")
    assert "127.0.0.1; allowed: example.org" in refusal(f"{server}/data", replace(HERE, domains=("example.org",)))
    elsewhere = replace(HERE, domains=("127.0.0.1",))
    assert "localhost; allowed: 127.0.0.1" in refusal(f"{server}/to?http://localhost/a", elsewhere)


def test_a_redirect_for_ever_ends(server: str) -> None:
    assert refusal(f"{server}/again") == "more than 5 redirects"
    assert len(Handler.asked) == 6


def test_the_address_that_was_looked_at_is_the_one_that_is_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is public when it is looked at and this machine's when it is asked for: it is looked up once."""
    port = server.rpartition(":")[2]
    with raw(lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nsecret"), "127.0.0.2") as inner:
        inner_port = inner.removesuffix("/a").rpartition(":")[2]
        looked = names(monkeypatch, {"changes.example": [["127.0.0.1"], ["127.0.0.2"]]})
        assert got(f"http://changes.example:{port}/data") == DATA
        assert looked == ["changes.example"]
        # the other way round, and by a redirect to itself
        said = refusal(f"http://changes.example:{inner_port}/a")
        assert "changes.example is at no address that may be asked" in said
        names(monkeypatch, {"changes.example": [["127.0.0.1"], ["127.0.0.2"]]})
        said = refusal(f"http://changes.example:{port}/to?http://changes.example:{inner_port}/a")
        assert "changes.example is at no address that may be asked" in said


def test_of_several_addresses_the_allowed_ones_are_asked(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    port = server.rpartition(":")[2]
    names(monkeypatch, {"two.example": [["127.0.0.2", "127.0.0.1"]], "none.example": [[]]})
    assert got(f"http://two.example:{port}/data") == DATA
    assert refusal(f"http://none.example:{port}/data") == "there is no host none.example"


@pytest.mark.parametrize(
    "url",
    [
        *("http://", "http:///a", "http://a:99999/", "http://[::1/", "http://127.0.0.1\\@example.org/", "http:// a/"),
        *("http://127.0.0.1:80:80/", "http://a\tb/", "http://" + "a" * 70 + ".example/", "ftp://a/"),
        *("http://exa\nmple.org/", "HTTP", "http://.../a"),
    ],
)
def test_what_is_no_url_is_not_asked_for(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = names(monkeypatch, {})
    assert refusal(url, Origins(any_address=True))
    assert looked == []


# ---- an end to everything


def _dribbled(head: bytes) -> Callable[[socket.socket], None]:
    """A head at once, then a byte at a time, for ever: each comes long before a timeout of its own."""
    pause = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while not pause.wait(BETWEEN_BYTES_S):
            connection.sendall(b"a")

    return answer


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n",
        b"HTTP/1.1 200 OK\r\nX: ",
        b"HTTP/1.1 ",
        b"",
    ],
)
def test_a_byte_at_a_time_ends_at_the_deadline(head: bytes) -> None:
    with raw(_dribbled(head)) as url:
        assert refusal(url, seconds=0.3) == "127.0.0.1 takes too long"


def test_nothing_at_all_ends_at_the_deadline() -> None:
    with raw(lambda connection: connection.recv(1)) as url:
        assert refusal(url, seconds=0.3) == "127.0.0.1 takes too long"
        # nor does a handshake that is not answered hold anybody
        assert refusal(url.replace("http", "https"), seconds=0.3) == "127.0.0.1 takes too long"


def test_redirects_share_one_deadline() -> None:
    def slowly(connection: socket.socket) -> None:
        threading.Event().wait(BEFORE_REDIRECT_S)
        connection.sendall(b"HTTP/1.1 302 Found\r\nLocation: /a\r\nContent-Length: 0\r\n\r\n")

    with raw(slowly) as url:
        assert refusal(url, seconds=0.5) == "127.0.0.1 takes too long"


def test_bytes_are_counted(server: str) -> None:
    small = replace(HERE, max_bytes=1000)
    assert refusal(f"{server}/data", small) == f"it has {len(DATA)} bytes, above the download limit of 1000"
    assert refusal(f"{server}/long", small) == f"it has {1 << 40} bytes, above the download limit of 1000"
    assert refusal(f"{server}/chunks", small) == "it has more bytes than the download limit of 1000"
    assert got(f"{server}/data", replace(HERE, max_bytes=0)) == DATA
    assert refusal(f"{server}/short") == "127.0.0.1 ended it 900 bytes early"
    assert refusal(f"{server}/packed") == "127.0.0.1 sends it compressed (gzip)"


@pytest.mark.parametrize(
    "head",
    [
        b"\x16\x03\x01 no HTTP",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 1000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nabc",
        b"HTTP/1.1 302 Found\r\nLocation: http://\xff\xfe\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
)
def test_what_is_no_http_is_told_so(head: bytes) -> None:
    with raw(lambda connection: connection.sendall(head)) as url:
        assert refusal(url)


# ---- nothing of one download is another's, and nothing secret is told


def test_no_cookie_and_no_password_of_the_machine_goes_along(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password secret\n")
    (tmp_path / ".netrc").chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    got(f"{server}/cookie")
    got(f"{server}/to?/data")
    assert all("Cookie" not in headers and "Authorization" not in headers for _, headers in Handler.asked)


def test_a_password_is_for_its_own_host_alone(server: str) -> None:
    got(server.replace("//", "//me:secret@") + f"/to?{server}/data")
    assert [headers.get("Authorization") is not None for _, headers in Handler.asked] == [True, False]


@pytest.mark.parametrize("path", ["/gone?sig=SECRET", "/packed?sig=SECRET", "/short?sig=SECRET", "/to?ftp://SECRET/"])
def test_errors_tell_of_a_url_no_more_than_its_host(server: str, path: str) -> None:
    said = refusal(server.replace("//", "//me:SECRET@") + path)
    assert "SECRET" not in said and "sig" not in said


# ---- TLS and proxies


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with cert.pem, of media.example, and its key.pem."""
    folder, key = tmp_path_factory.mktemp("tls"), ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "media.example")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("media.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(serialization.Encoding.PEM, *plain))
    return folder


@contextmanager
def secure(certificate: Path) -> Iterator[int]:
    """The port of a server of HTTPS that sends DATA."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate / "cert.pem", certificate / "key.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    plain, _ = listener.accept()
                    with context.wrap_socket(plain, server_side=True) as connection:
                        connection.recv(65_536)
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(DATA), DATA))
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


@pytest.fixture
def _trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate / "cert.pem"))
    downloading._trust.cache_clear()
    yield
    downloading._trust.cache_clear()


@pytest.mark.usefixtures("_trusted")
def test_a_certificate_must_be_of_the_host(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, {"media.example": [["127.0.0.1"]], "other.example": [["127.0.0.1"]]})
    with secure(certificate) as port:
        assert got(f"https://media.example:{port}/a") == DATA
        said = refusal(f"https://other.example:{port}/a")
        assert said.startswith("the certificate of other.example is not valid: ")
    with raw(lambda connection: connection.sendall(b"HTTP/1.1 400 Bad\r\n\r\n")) as url:
        assert refusal(url.replace("http", "https")) == "127.0.0.1 speaks no TLS that is spoken here"


class Proxy(QuietHandler):
    """Connects to this machine, whatever host it is asked for."""

    asked: list[tuple[str, str | None]]

    def do_GET(self) -> None:  # noqa: N802
        self.asked.append((self.path, self.headers.get("Proxy-Authorization")))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(DATA)

    def do_CONNECT(self) -> None:  # noqa: N802
        self.asked.append((self.path, self.headers.get("Proxy-Authorization")))
        with socket.create_connection(("127.0.0.1", int(self.path.rpartition(":")[2]))) as there:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_copy, args=(there, self.connection), daemon=True)
            back.start()
            _copy(self.connection, there)
            back.join(NET_S)
        self.close_connection = True


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        return


@pytest.mark.usefixtures("_trusted")
def test_a_proxy_of_the_operators_is_used(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Proxy.asked = []
    names(monkeypatch, {"media.example": [[]], "inner.example": [["10.0.0.1"]]})
    with listening(Proxy) as url, secure(certificate) as port:
        for name in ("http_proxy", "https_proxy"):
            monkeypatch.setenv(name, url.replace("//", "//me:secret@"))
        monkeypatch.delenv("no_proxy", raising=False)
        monkeypatch.delenv("NO_PROXY", raising=False)
        assert got("http://media.example/a?b", Origins()) == DATA
        assert got(f"https://media.example:{port}/a", Origins()) == DATA
        assert Proxy.asked == [
            ("http://media.example:80/a?b", "Basic bWU6c2VjcmV0"),
            (f"media.example:{port}", "Basic bWU6c2VjcmV0"),
        ]
        # what this machine knows not to be public is not asked of a proxy either
        assert "inner.example is at no address" in refusal("http://inner.example/a", Origins())
        assert "169.254.169.254 is at no address" in refusal("http://169.254.169.254/latest", Origins())
        assert len(Proxy.asked) == 2
