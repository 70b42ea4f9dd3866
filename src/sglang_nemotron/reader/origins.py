"""Where an operator lets media come from comes in; whether one address, host or file is allowed goes out.

Nothing here asks a network or opens a file, and nothing knows SGLang.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable
from dataclasses import dataclass

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# the variables by which an operator says so
ADDRESSES, FOLDERS = "SGLANG_NEMOTRON_MEDIA_ADDRESSES", "SGLANG_NEMOTRON_MEDIA_FOLDERS"
PUBLIC, ANY = "public", "any"
# addresses of IPv6 that a network translates to those of IPv4 in their last 32 bits (RFC 6052)
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")
# what Python, or an older one, takes for public: Azure's answers to its own machines; protocol assignments, of which
# Oracle's cloud uses one (RFC 6890); addresses that a network translates in a way of its own (RFC 8215)
_NOT_PUBLIC = tuple(map(ipaddress.ip_network, ("168.63.129.16/32", "192.0.0.0/24", "64:ff9b:1::/48")))


@dataclass(frozen=True, slots=True)
class Origins:
    """Where the media of a server may come from.

    public, others: addresses that everybody reaches, and networks beside them; `any_address` allows all. folders: those
    whose files a client may name, as real paths; `any_file` allows all. domains: host names, none of them meaning all.
    max_bytes: of one download, 0 for no limit of its own.
    """

    public: bool = True
    any_address: bool = False
    others: tuple[Network, ...] = ()
    folders: tuple[str, ...] = ()
    any_file: bool = False
    domains: tuple[str, ...] = ()
    max_bytes: int = 64 << 20

    @property
    def names_files(self) -> bool:
        """Whether a client may name any file at all."""
        return self.any_file or bool(self.folders)

    def allows(self, address: str) -> bool:
        """Whether this address may be asked. address: as a resolver writes it, of IPv4 or IPv6."""
        if self.any_address:
            return True
        meant = meaning(ipaddress.ip_address(address.partition("%")[0]))
        return _within(meant, self.others) or (self.public and is_public(meant))

    def file(self, path: str) -> str | None:
        """The real path of a file that a client may name; None for any other, whether it exists or not."""
        real = os.path.realpath(path)
        if self.any_file or any(os.path.commonpath([folder, real]) == folder for folder in self.folders):
            return real
        return None


def meaning(address: Address) -> Address:
    """The address that is asked in the end: of IPv4, where one of IPv6 stands for it."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.sixtofour is not None:
            return address.sixtofour
        if address in _TRANSLATED:
            return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def is_public(address: Address) -> bool:
    """Whether everybody on the internet reaches it: none of this machine, a network of its own, or a cloud."""
    return (
        address.is_global and not address.is_multicast and not address.is_reserved and not _within(address, _NOT_PUBLIC)
    )


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address.version == network.version and address in network for network in networks)


def read_addresses(text: str) -> tuple[bool, bool, tuple[Network, ...]]:
    """(public addresses, any address, networks beside) of text like `public,10.1.0.0/16`; ValueError."""
    words = _words(text, ",") or [PUBLIC]
    networks: list[Network] = []
    for word in words:
        if word in (PUBLIC, ANY):
            continue
        try:
            networks.append(ipaddress.ip_network(word))
        except ValueError as error:
            raise ValueError(
                f"{ADDRESSES} has {word!r}; give {PUBLIC}, {ANY} or networks like 10.1.0.0/16, separated by commas"
            ) from error
    return PUBLIC in words, ANY in words, tuple(networks)


def read_folders(text: str) -> tuple[tuple[str, ...], bool]:
    """(real paths of folders, any file) of a list like `/data/a:/data/b`, or `any`; ValueError."""
    words = _words(text, os.pathsep)
    if words == [ANY]:
        return (), True
    for word in words:
        if not os.path.isabs(word) or not os.path.isdir(word):
            raise ValueError(
                f"{FOLDERS} has {word!r}; give folders by whole paths, separated by {os.pathsep!r}, or {ANY}"
            )
    return tuple(os.path.realpath(word) for word in words), False


def _words(text: str, separator: str) -> list[str]:
    return [word.strip() for word in text.split(separator) if word.strip()]


def normal_host(host: str) -> str:
    """A host name as domains are compared: small letters, without a last dot, as DNS writes it; ValueError."""
    bare = host.strip().rstrip(".").removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        pass
    try:
        return bare.encode("idna").decode("ascii").lower()
    except UnicodeError as error:
        raise ValueError(f"{host[:80]!r} is no host name") from error


def normal_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({normal_host(host) for host in hosts}))
