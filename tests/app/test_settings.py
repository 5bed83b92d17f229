from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from app.flags import SettingsError, settings_from
from app.keys import key_digest
from app.settings import Settings, unknown_variables
from model.choices import BUNDLED


def test_defaults_are_those_of_the_contract() -> None:
    settings = Settings()
    assert (settings.host, settings.port, settings.checkpoint) == ("127.0.0.1", 8000, BUNDLED)
    assert (settings.max_body_bytes, settings.max_items, settings.max_concurrent_requests) == (2 * 2**20, 32, 512)
    assert (settings.deadline_s, settings.cors_origins, settings.api_keys) == (60.0, (), ())


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEXIMIND_PORT", "9000")
    monkeypatch.setenv("LEXIMIND_CORS_ORIGINS", "https://a.example, https://b.example,")
    monkeypatch.setenv("LEXIMIND_API_KEYS", "one,two")
    monkeypatch.setenv("LEXIMIND_LOG_JSON", "true")
    settings = Settings()
    assert settings.port == 9000
    assert settings.cors_origins == ("https://a.example", "https://b.example")
    assert settings.api_keys == (key_digest("one"), key_digest("two"))
    assert settings.log_json


def test_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEXIMIND_PORT", "9000")
    assert settings_from({"port": 9001, "host": None}).port == 9001
    assert settings_from({"port": None}).port == 9000


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("port", 65536, "less than or equal to 65535"),
        ("max_items", 0, "greater than or equal to 1"),
        ("deadline_s", "inf", "finite"),
        ("device", "gpu", "match pattern"),
        ("threads", 1025, "less than or equal to 1024"),
        ("dtype", "int4", "'auto', 'float32', 'bfloat16' or 'int8'"),
        ("log_level", "loud", "'debug', 'info'"),
    ],
)
def test_bad_value_is_refused_with_flag_variable_and_limit(name: str, value: Any, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({name: value})
    message = str(caught.value)
    assert message.startswith(f"--{name.replace('_', '-')} (LEXIMIND_{name.upper()}) is {value!r}")
    assert reason in message


@pytest.mark.parametrize("value", ["", ",", " ", " , "])
def test_keys_that_are_none_do_not_open_the_server(value: str) -> None:
    with pytest.raises(SettingsError, match="holds no key; leave it out to be open to all"):
        settings_from({"api_keys": value})


@pytest.mark.parametrize("name", ["LEXIMIND_API_KEYS", "LEXIMIND_ADMIN_KEYS", "LEXIMIND_API_KEYS_FILE"])
def test_variable_of_a_secret_that_was_never_set_does_not_open_the_server(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, "")
    with pytest.raises(SettingsError, match=f"{name}.*leave it out"):
        settings_from({})


@pytest.mark.parametrize("value", ["*", "proxy.example", "10.0.0.0/33", "10.0.0.1/8"])
def test_proxy_that_is_no_address_or_network_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match=r"write an address \(10.0.0.7\) or a network \(10.0.0.0/8\)"):
        settings_from({"trusted_proxies": value})


def test_origin_without_a_scheme_is_refused() -> None:
    with pytest.raises(SettingsError, match="localhost:3000 is no origin; write it with its scheme"):
        settings_from({"cors_origins": "https://a.example,localhost:3000"})


def test_key_that_headers_cannot_hold_is_refused() -> None:
    with pytest.raises(SettingsError, match="printable ASCII"):
        settings_from({"api_keys": "schlüssel"})


def test_bad_key_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError) as caught:
        settings_from({"api_keys": "sha256:secret"})
    assert "64 hexadecimal digits" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:1"])
def test_devices_are_known(device: str) -> None:
    assert Settings(device=device).device == device


def test_unknown_setting_is_refused() -> None:
    with pytest.raises(ValidationError):
        Settings(prot=1)  # type: ignore[call-arg]


def test_misspelt_variable_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEXIMIND_PORT", "9000")
    monkeypatch.setenv("leximind_host", "::1")
    monkeypatch.setenv("LEXIMIND_PROT", "9000")
    assert unknown_variables() == ["LEXIMIND_PROT"]


def test_environment_is_read_in_one_file_only() -> None:  # and `os.environ`: tests/test_architecture.py
    package = Path(__file__).parents[2] / "app"
    assert [path.name for path in package.rglob("*.py") if "BaseSettings" in path.read_text()] == ["settings.py"]
