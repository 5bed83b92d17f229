"""Access control: which keys are valid, and how often each caller may call. Knows headers, no routes."""

import ipaddress
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.api.problems import Problem, overloaded
from app.keys import Key, KeysError, keys_of, presented_digest, read_keys_file
from app.settings import Settings

_MAX_CALLERS = 65_536


class KeyRing:
    """The keys that are valid now; several at once, so that one can replace another."""

    def __init__(self, keys: Sequence[Key]) -> None:
        self._keys = {key.digest: key for key in reversed(keys)}  # of equal ones the first holds

    def __bool__(self) -> bool:
        """Whether a key is required at all."""
        return bool(self._keys)

    def find(self, presented: str | None) -> Key | None:
        """The key that a client sent, None if it is not valid.

        One lookup, however many there are: its timing depends on a digest, which reveals nothing of a key.
        """
        return None if presented is None else self._keys.get(presented_digest(presented))


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class RateLimit:
    """A token bucket per caller: `per_second` requests on average, a second's worth (at least one) at once.

    0 is no limit. `_MAX_CALLERS` callers are kept, the longest inactive dropped first.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._size = max(1.0, per_second)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def consume(self, caller: str, now: float) -> float:
        """Take a token of `caller`; 0.0 if there was one, else the seconds until there is."""
        if not self._per_second:
            return 0.0
        bucket = self._buckets.pop(caller, None) or _Bucket(self._size, now)
        self._buckets[caller] = bucket
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        bucket.tokens = min(self._size, bucket.tokens + (now - bucket.filled_at) * self._per_second)
        bucket.filled_at = now
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self._per_second
        bucket.tokens -= 1
        return 0.0


class AccessControl:
    """Keys and rates together. `reload` reads the file of keys again; admitted requests go on."""

    def __init__(self, settings: Settings) -> None:
        """Raises:
        KeysError: the file of keys cannot be used.
        """
        self._settings = settings
        self._rate = RateLimit(settings.requests_per_second)
        self.keys = self.admin_keys = KeyRing(())
        self.reload()

    def reload(self) -> int:
        """Read the keys from the settings and the file again; returns how many there are.

        Raises:
            KeysError: the file cannot be used, or holds no key any more for inference or for `/metrics`, which would
                open them to all; the keys stay as they were.
        """
        settings = self._settings
        keys = [*keys_of(settings.api_keys, "interactive"), *keys_of(settings.admin_keys, "admin")]
        if settings.api_keys_file is not None:
            keys += read_keys_file(settings.api_keys_file)
        for_inference = KeyRing([key for key in keys if key.key_class != "admin"])
        for_admins = KeyRing([key for key in keys if key.key_class == "admin"])
        for before, now, use in ((self.keys, for_inference, "inference"), (self.admin_keys, for_admins, "/metrics")):
            if before and not now:
                raise KeysError(
                    f"{settings.api_keys_file}: holds no key for {use} any more, which would open it to all; "
                    "replace the last one instead, or restart without"
                )
        self.keys, self.admin_keys = for_inference, for_admins
        return len(keys)

    def authorize(self, headers: Mapping[str, str], address: str, now: float) -> Key | None:
        """Check an inference request; returns its key, None where none is required.

        Raises:
            Problem: 401 without a valid key, 429 too often.
        """
        presented = presented_key(headers)
        key = self.keys.find(presented)
        if self.keys and key is None:
            raise _unauthorized(presented)
        if wait_s := self._rate.consume(caller_of(address) if key is None else f"key {key.id}", now):
            retry_after_s = math.ceil(wait_s)
            raise overloaded(f"more requests a second than are allowed; retry in {retry_after_s} s", retry_after_s)
        return key

    def authorize_admin(self, headers: Mapping[str, str]) -> None:
        """Check a request for an operator's route.

        Raises:
            Problem: 401 without a valid key, 403 with one for inference only.
        """
        presented = presented_key(headers)
        if not self.admin_keys or self.admin_keys.find(presented) is not None:
            return
        if self.keys.find(presented) is not None:
            raise Problem(403, "this key is for inference; this route needs an admin key", "authentication")
        raise _unauthorized(presented)


def caller_of(address: str) -> str:
    """The caller that `address` stands for in a rate: itself, or its /64 network for IPv6, which a host has whole.

    Anything else, which a proxy may forward, counts as one caller.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "no address"
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((parsed, 64), strict=False))


def presented_key(headers: Mapping[str, str]) -> str | None:
    """The key of `Authorization: Bearer …` or `X-API-Key: …`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key")


def _unauthorized(key: str | None) -> Problem:
    detail = "a key is required" if key is None else "the key is not valid"
    remedy = "send it as Authorization: Bearer KEY or X-API-Key: KEY"
    return Problem(401, f"{detail}; {remedy}", "authentication", headers={"WWW-Authenticate": "Bearer"})
