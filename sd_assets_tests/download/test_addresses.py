"""The address policy, without a network."""

import ipaddress

import pytest

from sd_assets.download.addresses import AddressPolicy, literal_address


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("10.1.2.3", "private"),
        ("100.64.0.1", "carrier-grade NAT"),
        ("100.100.100.200", "carrier-grade NAT"),  # metadata of a cloud
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("168.63.129.16", "cloud metadata"),
        ("169.254.169.254", "link-local"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.192", "reserved"),
        ("192.0.2.1", "documentation"),
        ("192.168.1.1", "private"),
        ("198.18.0.1", "benchmarking"),
        ("198.51.100.7", "documentation"),
        ("203.0.113.7", "documentation"),
        ("224.0.0.1", "multicast"),
        ("239.255.255.250", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::7f00:1", "reserved"),  # IPv4-compatible
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::127.0.0.1", "loopback"),
        ("64:ff9b::a9fe:a9fe", "link-local"),
        ("64:ff9b:1::1", "local NAT64"),
        ("2002:7f00:1::", "loopback"),
        ("2002:c0a8:101::1", "private"),
        ("2001::1", "reserved"),  # Teredo
        ("2001:db8::1", "documentation"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),  # metadata of a cloud
        ("fe80::1", "link-local"),
        ("fe80::1%eth0", "link-local"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
        ("4000::1", "reserved"),
    ],
)
def test_what_is_not_public_is_refused(address: str, why: str) -> None:
    refusal = AddressPolicy().refusal(address, 80)
    assert refusal is not None
    assert refusal.endswith(f"is {why}")


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.0.1",
        "172.32.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00:1450:4001::1",
        "::ffff:8.8.8.8",
        "64:ff9b::8.8.8.8",
        "2002:808:808::1",
    ],
)
def test_what_is_public_is_permitted(address: str) -> None:
    assert AddressPolicy().refusal(address, 443) is None


def test_the_allow_list_permits_networks_and_ports() -> None:
    policy = AddressPolicy(["127.0.0.1:8000", "10.0.0.0/8", "[::1]"])
    assert policy.refusal("127.0.0.1", 8000) is None
    assert policy.refusal("::ffff:127.0.0.1", 8000) is None
    assert policy.refusal("127.0.0.1", 8001) is not None
    assert policy.refusal("127.0.0.2", 8000) is not None
    assert policy.refusal("10.200.0.1", 1) is None
    assert policy.refusal("::1", 80) is None
    assert policy.refusal("192.168.0.1", 80) is not None


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("2130706433", "127.0.0.1"),
        ("0x7f000001", "127.0.0.1"),
        ("0X7F.1", "127.0.0.1"),
        ("0177.0.0.1", "127.0.0.1"),
        ("017700000001", "127.0.0.1"),
        ("127.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
    ],
)
def test_every_spelling_of_an_address_is_known(host: str, address: str) -> None:
    assert literal_address(host) == ipaddress.ip_address(address)


def test_names_are_no_addresses() -> None:
    for name in ("example.com", "localhost", "1.2.3.4.example", "0x7f.example", "x"):
        assert literal_address(name) is None
    for neither in ("999.1.1.1", "1.2.3.4.5", "example.0x1", "4294967296"):
        with pytest.raises(ValueError, match="neither a name nor an address"):
            literal_address(neither)
