"""Who may call: keys, kept as digests, and how often each may. Knows headers, no routes."""

import hashlib
import hmac
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from app.api.problems import Problem, overloaded

_MAX_CALLERS = 65_536


class KeyRing:
    """The keys that are valid now, as `sha256:<hex>`; several may be, so that one can replace another."""

    def __init__(self, digests: Sequence[str]) -> None:
        self._digests = [digest.encode() for digest in digests]

    def __bool__(self) -> bool:
        """Whether a key is needed at all."""
        return bool(self._digests)

    def __contains__(self, key: str) -> bool:
        """Whether `key` is valid; takes as long for every key."""
        digest = _digest(key).encode()
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0  # no early end, unlike any()


@dataclass
class _Bucket:
    tokens: float
    filled_at: float


class RateLimit:
    """A token bucket per caller: `per_second` requests on average, a second's worth (at least one) at once.

    0 is no limit. `_MAX_CALLERS` callers are remembered, the longest silent forgotten first.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._size = max(1.0, per_second)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, caller: str, now: float) -> float:
        """Count a request of `caller`; 0.0 if it may go on, else the seconds until the next may."""
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


@dataclass(frozen=True)
class Gate:
    """Keys and rates together."""

    keys: KeyRing
    admin_keys: KeyRing
    rate: RateLimit

    def admit(self, headers: Mapping[str, str], address: str, now: float) -> None:
        """Let a call for work pass.

        Raises:
            Problem: 401 without a valid key, 429 too often.
        """
        key = presented_key(headers)
        if self.keys and (key is None or key not in self.keys):
            raise _unauthorized(key)
        caller = _digest(key) if self.keys and key is not None else address
        if wait_s := self.rate.take(caller, now):
            retry_after_s = math.ceil(wait_s)
            raise overloaded(f"more requests a second than are allowed; retry in {retry_after_s} s", retry_after_s)

    def admit_admin(self, headers: Mapping[str, str]) -> None:
        """Let an operator pass.

        Raises:
            Problem: 401 without a valid key, 403 with one that is for work only.
        """
        key = presented_key(headers)
        if not self.admin_keys or (key is not None and key in self.admin_keys):
            return
        if key is not None and key in self.keys:
            raise Problem(403, "this key is for work; this route needs an admin key", "authentication")
        raise _unauthorized(key)


def presented_key(headers: Mapping[str, str]) -> str | None:
    """The key of `Authorization: Bearer …` or `X-API-Key: …`."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and key.strip():
        return key.strip()
    return headers.get("x-api-key")


def _digest(key: str) -> str:
    # Always hashed, never taken for a digest: who reads a digest in a configuration has no key.
    return "sha256:" + hashlib.sha256(key.encode()).hexdigest()


def _unauthorized(key: str | None) -> Problem:
    detail = "a key is needed" if key is None else "the key is not valid"
    remedy = "send it as Authorization: Bearer KEY or X-API-Key: KEY"
    return Problem(401, f"{detail}; {remedy}", "authentication", headers={"WWW-Authenticate": "Bearer"})
