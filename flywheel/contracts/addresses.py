"""Where processes listen, and the names under which they answer."""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address

LOOPBACK_NAMES = frozenset({"127.0.0.1", "localhost", "::1"})


def is_loopback(host: str) -> bool:
    """Whether only this machine can connect to an address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def own_names(host: str, *, keys: bool, allowed: Collection[str] = ()) -> frozenset[str] | None:
    """The names that requests may call a listener by, or None when any will do.

    Without keys, loopback is the only wall: a name that a stranger's DNS points at 127.0.0.1 must
    not get through it. ``allowed`` are further names, and then the only ones also with keys.
    """
    if allowed:
        return LOOPBACK_NAMES | {name.lower() for name in allowed}
    return None if keys or not is_loopback(host) else LOOPBACK_NAMES
