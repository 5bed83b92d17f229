import hashlib
import os
import re
import time
import timeit
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.access import AccessControl, KeyRing, RateLimit, caller_of
from app.api.problems import Problem
from app.keys import Key, KeysError, key_digest, read_keys_file
from app.settings import Settings

Serving = Callable[..., AbstractAsyncContextManager[httpx.AsyncClient]]
BODY = {"json": {"text": "a"}}


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_without_keys_everyone_may_call(client: httpx.AsyncClient) -> None:
    assert (await client.post("/topic", **BODY)).status_code == 200
    assert (await client.post("/topic", **BODY, headers=bearer("whatever"))).status_code == 200


async def test_work_and_info_need_one_of_the_keys(serving: Serving) -> None:
    async with serving(api_keys="first, second") as client:
        for headers in (bearer("first"), bearer("second"), {"X-API-Key": "first"}, {"Authorization": "bearer first"}):
            assert (await client.post("/topic", **BODY, headers=headers)).status_code == 200
            assert (await client.get("/info", headers=headers)).status_code == 200
        for headers in ({}, bearer("third"), bearer(""), bearer("firs"), {"Authorization": "Basic first"}):
            work, info = (
                await client.post("/topic", **BODY, headers=headers),
                await client.get("/info", headers=headers),
            )
            for refused in (work, info):
                assert refused.status_code == 401
                assert refused.headers["WWW-Authenticate"] == "Bearer"
                assert refused.json()["error_type"] == "authentication"


async def test_probes_need_no_key(serving: Serving) -> None:
    async with serving(api_keys="k", admin_keys="a") as client:
        for path in ("/health", "/health/live", "/health/ready", "/docs", "/openapi.json"):
            assert (await client.get(path)).status_code == 200


async def test_metrics_need_an_admin_key_where_there_are_any(serving: Serving) -> None:
    async with serving(api_keys="work", admin_keys="operator") as client:
        assert (await client.get("/metrics", headers=bearer("operator"))).status_code == 200
        assert (await client.get("/metrics", headers=bearer("work"))).status_code == 403
        assert (await client.get("/metrics", headers=bearer("none"))).status_code == 401
        assert (await client.get("/metrics")).status_code == 401
        assert (await client.post("/topic", **BODY, headers=bearer("operator"))).status_code == 401


async def test_key_is_asked_for_before_the_body_is_looked_at(serving: Serving) -> None:
    async with serving(api_keys="k") as client:
        assert (await client.post("/topic", content=b"{")).status_code == 401


async def test_a_digest_opens_to_its_key_and_not_to_itself(serving: Serving) -> None:
    digest = "sha256:" + hashlib.sha256(b"k").hexdigest()
    async with serving(api_keys=digest) as client:
        assert client.service.settings.api_keys == (digest,)  # type: ignore[attr-defined]
        assert (await client.post("/topic", **BODY, headers=bearer("k"))).status_code == 200
        assert (await client.post("/topic", **BODY, headers=bearer(digest))).status_code == 401


def test_finding_a_key_costs_the_same_among_many() -> None:
    keys = [Key(f"k{number}", key_digest(f"s{number}")) for number in range(5_000)]
    seconds = []
    for ring in (KeyRing(keys[:1]), KeyRing(keys)):
        assert ring.find("s0") == keys[0]
        assert ring.find("z") is None
        assert ring.find(None) is None
        seconds.append(min(timeit.repeat(lambda ring=ring: ring.find("z"), number=10, repeat=5)))  # type: ignore[misc]
    assert seconds[1] < 50 * seconds[0]  # 1,500 where each was compared


def test_file_of_many_keys_is_read_while_others_wait(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("".join(f"k{number} s{number}\n" for number in range(20_000)))
    started_at = time.process_time()
    assert len(read_keys_file(tmp_path / "keys")) == 20_000
    assert time.process_time() - started_at < 5  # 20 where each was compared with all before


@pytest.mark.parametrize(("left", "use"), [("ops third admin\n", "inference"), ("web first\n", "/metrics")])
def test_file_without_its_last_key_opens_nothing(tmp_path: Path, left: str, use: str) -> None:
    path = tmp_path / "keys"
    path.write_text("web first\nops third admin\n")
    access = AccessControl(Settings(api_keys_file=path))
    path.write_text(left)
    with pytest.raises(KeysError, match=f"holds no key for {use} any more"):
        access.reload()
    for admit in (lambda: access.authorize({}, "", 0.0), lambda: access.authorize_admin({})):
        with pytest.raises(Problem):
            admit()
    access.authorize({"x-api-key": "first"}, "", 0.0)
    access.authorize_admin({"x-api-key": "third"})


def test_rate_allows_a_seconds_worth_at_once_then_the_average() -> None:
    rate = RateLimit(per_second=4)
    assert [rate.consume("me", 0.0) for _ in range(5)] == [0, 0, 0, 0, 0.25]
    assert rate.consume("me", 0.2) == pytest.approx(0.05)
    assert rate.consume("me", 0.25) == 0
    assert rate.consume("me", 0.25) > 0
    assert rate.consume("you", 0.25) == 0
    assert [rate.consume("me", 100.0) == 0 for _ in range(5)] == [True] * 4 + [False]


def test_rate_below_one_a_second_lets_one_through() -> None:
    rate = RateLimit(per_second=0.1)
    assert rate.consume("me", 0.0) == 0
    assert rate.consume("me", 0.0) == pytest.approx(10)
    assert rate.consume("me", 10.0) == 0


def test_rate_remembers_a_bounded_number_of_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.access._MAX_CALLERS", 2)
    rate = RateLimit(per_second=1)
    for caller in ("a", "b", "c"):
        rate.consume(caller, 0.0)
    assert rate.consume("c", 0.0) > 0
    assert rate.consume("a", 0.0) == 0  # forgotten


def test_rate_is_per_key_and_without_keys_per_address() -> None:
    keyed = AccessControl(Settings(api_keys="k,l", requests_per_second=1))
    keyed.authorize({"x-api-key": "k"}, "1.1.1.1", 0.0)
    keyed.authorize({"x-api-key": "l"}, "1.1.1.1", 0.0)
    with pytest.raises(Problem):
        keyed.authorize({"x-api-key": "k"}, "2.2.2.2", 0.0)
    open_to_all = AccessControl(Settings(requests_per_second=1))
    open_to_all.authorize({"x-api-key": "k"}, "1.1.1.1", 0.0)
    open_to_all.authorize({"x-api-key": "k"}, "2.2.2.2", 0.0)
    with pytest.raises(Problem):  # another made-up key is no other caller
        open_to_all.authorize({"x-api-key": "l"}, "1.1.1.1", 0.0)


@pytest.mark.parametrize(
    ("address", "caller"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", "no address"),
        ("a" * 14_000, "no address"),
    ],
)
def test_caller_is_an_address_or_a_network_of_ipv6(address: str, caller: str) -> None:
    assert caller_of(address) == caller


def test_keys_of_a_file_have_id_and_class_and_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(f"# rotated monthly\n\nweb  first\nnightly {key_digest('second')} batch\nops third admin\n")
    access = AccessControl(Settings(api_keys_file=path, api_keys="fourth"))
    key = access.authorize({"x-api-key": "first"}, "", 0.0)
    assert key is not None
    assert (key.id, key.key_class) == ("web", "interactive")
    key = access.authorize({"x-api-key": "second"}, "", 0.0)
    assert key is not None
    assert (key.id, key.key_class) == ("nightly", "batch")
    key = access.authorize({"x-api-key": "fourth"}, "", 0.0)
    assert key is not None
    assert key.id == key_digest("fourth")[7:15]
    access.authorize_admin({"x-api-key": "third"})
    with pytest.raises(Problem):
        access.authorize({"x-api-key": "third"}, "", 0.0)
    path.write_text("web first\nweb-2 fifth\nops third admin\n")
    assert access.reload() == 4
    for valid in ("first", "fifth", "fourth"):
        access.authorize({"x-api-key": valid}, "", 0.0)
    with pytest.raises(Problem):
        access.authorize({"x-api-key": "second"}, "", 0.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no key"),
        ("# nothing\n", "holds no key"),
        ("web\n", "line 1: has 1 fields"),
        ("web sesame\n\nnew sesame batch now\n", "line 3: has 4 fields"),
        ("web sesame bulk\n", "line 1: the class, which comes last, must be one of interactive, batch, admin"),
        ("we/b sesame\n", "line 1: the id"),
        ("web sesame\nweb open-sesame\n", "line 2: the id web stands above already"),
        ("web sesame\nnew sesame\n", "line 2: the key stands above already"),
        ("web sha256:sesame\n", "line 1: a key that starts with sha256:"),
        ("web sésame\n", "line 1: a key must be of printable ASCII"),
    ],
)
def test_wrong_file_of_keys_is_refused_by_line_and_keeps_those_of_before(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(KeysError, match=re.escape(message)) as refused:
        AccessControl(Settings(api_keys_file=path))
    assert "sesame" not in str(refused.value)
    path.write_text("web valid")
    access = AccessControl(Settings(api_keys_file=path))
    path.write_text(content)
    with pytest.raises(KeysError):
        access.reload()
    assert access.authorize({"x-api-key": "valid"}, "", 0.0) is not None


def test_missing_and_huge_files_of_keys_are_refused(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="cannot be read"):
        AccessControl(Settings(api_keys_file=tmp_path / "none"))
    (tmp_path / "huge").write_bytes(b"#" * (2**20 + 1))
    with pytest.raises(KeysError, match="more than 1048576 bytes"):
        AccessControl(Settings(api_keys_file=tmp_path / "huge"))


@pytest.mark.timeout(20)
def test_pipe_in_place_of_the_file_of_keys_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "keys")
    with pytest.raises(KeysError, match="is no regular file"):
        AccessControl(Settings(api_keys_file=tmp_path / "keys"))


async def test_too_often_is_429_with_an_integer_retry_after(serving: Serving) -> None:
    async with serving(requests_per_second=0.01) as client:
        assert (await client.post("/topic", **BODY)).status_code == 200
        refused = await client.post("/topic", **BODY)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["Retry-After"]) <= 100
        assert (await client.get("/health")).status_code == 200


async def test_keys_are_in_no_log_and_no_metric(serving: Serving, caplog: Any) -> None:
    caplog.set_level("DEBUG")
    async with serving(api_keys="open-sesame") as client:
        await client.post("/topic", **BODY, headers=bearer("open-sesame"))
        await client.post("/topic", **BODY, headers=bearer("shut-sesame"))
        assert "sesame" not in caplog.text + (await client.get("/metrics")).text
        assert "sesame" not in repr(client.service.settings)  # type: ignore[attr-defined]


async def test_cors_is_off_unless_set(serving: Serving) -> None:
    ask = {"Origin": "https://site.example", "Access-Control-Request-Method": "POST"}
    async with serving() as client:
        assert "access-control-allow-origin" not in (await client.post("/topic", **BODY, headers=ask)).headers
        assert (await client.options("/topic", headers=ask)).status_code == 405
    async with serving(cors_origins="https://site.example,https://two.example") as client:
        assert (await client.options("/topic", headers=ask)).status_code == 200
        answered = await client.post("/topic", **BODY, headers=ask)
        assert answered.headers["access-control-allow-origin"] == "https://site.example"
        too_large = await client.post("/topic", json={"text": "a" * 3_000_000}, headers=ask)
        assert too_large.status_code == 413
        assert too_large.headers["access-control-allow-origin"] == "https://site.example"
        other = await client.post("/topic", **BODY, headers={"Origin": "https://other.example"})
        assert "access-control-allow-origin" not in other.headers
