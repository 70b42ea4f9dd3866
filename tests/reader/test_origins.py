"""What an operator writes about addresses and folders, and what it then allows."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path

import pytest

from sglang_nemotron.reader.origins import ADDRESSES, FOLDERS, Origins, normal_host
from sglang_nemotron.reader.settings import media_origins


def _origins(**environment: str) -> Origins:
    return media_origins(environment, None, 64)


def test_by_default_public_addresses_and_no_files() -> None:
    default = _origins()
    assert default == Origins() and default.max_bytes == 64 << 20
    assert default.allows("8.8.8.8") and not default.allows("127.0.0.1")
    assert not default.names_files and default.file(__file__) is None


@pytest.mark.parametrize(
    ("text", "allowed", "refused"),
    [
        ("public", ("8.8.8.8",), ("127.0.0.1", "10.0.0.1")),
        ("any", ("8.8.8.8", "127.0.0.1", "::1"), ()),
        ("public, 10.1.0.0/16,127.0.0.1", ("8.8.8.8", "10.1.2.3", "127.0.0.1", "::ffff:10.1.2.3"), ("10.2.0.1", "::1")),
        ("10.0.0.0/8", ("10.2.0.1",), ("8.8.8.8",)),
        ("fd00::/8,", ("fd00::1",), ("fe80::1", "2606:4700::1111")),
    ],
)
def test_a_list_of_addresses(text: str, allowed: tuple[str, ...], refused: tuple[str, ...]) -> None:
    origins = _origins(**{ADDRESSES: text})
    assert all(origins.allows(address) for address in allowed)
    assert not any(origins.allows(address) for address in refused)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "everything", "10.0.0.0/33", "example.org", "public;any"])
def test_a_list_that_means_nothing_ends_the_start(text: str) -> None:
    with pytest.raises(ValueError, match=f"{ADDRESSES} has .*give public, any or networks"):
        _origins(**{ADDRESSES: text})


def test_folders_are_told_by_whole_paths(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "x").touch()
    origins = _origins(**{FOLDERS: f"{tmp_path}/link{os.pathsep}"})
    assert origins.folders == (str(tmp_path / "a"),) and origins.names_files
    assert origins.file(f"{tmp_path}/link/x") == origins.file(f"{tmp_path}/a/../a/x") == f"{tmp_path}/a/x"
    assert origins.file(f"{tmp_path}/a/../x") is None and origins.file(f"{tmp_path}/ax") is None
    assert _origins(**{FOLDERS: "any"}).file("/etc/../etc/hostname") == "/etc/hostname"
    for text in ("a", f"{tmp_path}/nope", f"{tmp_path}/a/x", "any:/"):
        with pytest.raises(ValueError, match=f"{FOLDERS} has .*give folders by whole paths"):
            _origins(**{FOLDERS: text})


def test_domains_are_compared_as_dns_writes_them() -> None:
    origins = media_origins({}, ["Example.ORG.", "b\u00fccher.example", "[::1]"], 0)
    assert origins.domains == ("::1", "example.org", "xn--bcher-kva.example") and origins.max_bytes == 0
    assert normal_host("EXAMPLE.org") in origins.domains and normal_host("[0:0::1]") in origins.domains
    with pytest.raises(ValueError, match="is no host name"):
        normal_host("a" * 70 + ".example")
    assert ipaddress.ip_address(normal_host("127.0.0.1"))
