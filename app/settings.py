"""Every setting of the service, once; the only reader of the environment (`LEXIMIND_*`)."""

import ipaddress
import os
import re
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.keys import key_digest
from model.choices import BUNDLED, DEVICE_NAME, Precision
from model.kernels.builds import AUTO, BUILDS, NONE

_PREFIX = "LEXIMIND_"
CommaSeparated = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What can be set for `leximind serve`: an environment variable `LEXIMIND_<NAME>` or a flag `--<name>` each.

    Raises:
        pydantic.ValidationError: a value outside its range.
    """

    model_config = SettingsConfigDict(env_prefix=_PREFIX, frozen=True, extra="forbid", hide_input_in_errors=True)

    checkpoint: Path = Field(default=BUNDLED, description="Checkpoint folder to serve; the bundled one by default.")
    device: str = Field(default="auto", pattern=f"^({DEVICE_NAME})$", description="auto, cpu, cuda or cuda:N.")
    dtype: Literal["auto", Precision] = Field(
        default="auto",
        description="auto is bfloat16 on a GPU and on a CPU with instructions for it, float32 elsewhere; int8 is for "
        "CPUs.",
    )
    kernels: str = Field(
        default=AUTO,
        pattern=f"^({'|'.join([AUTO, NONE, *(build.name for build in BUILDS)])})$",
        description="Build of the native kernels that computes on a CPU: "
        f"{', '.join(build.name for build in BUILDS)}; auto is the fastest that the processor runs, none is torch.",
    )
    threads: int = Field(
        default=0,
        ge=0,
        le=1024,
        description="Threads of the model on a CPU, at most the cores that affinity and CPU quota allow; 0: as many.",
    )

    host: str = Field(default="127.0.0.1", description="Address to listen on.")
    port: int = Field(default=8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least level that is logged."
    )
    log_json: bool = Field(default=False, description="Log JSON objects instead of plain lines.")
    tracing: bool = Field(
        default=False,
        description="Send OpenTelemetry traces by OTLP over HTTP, to OTEL_EXPORTER_OTLP_ENDPOINT; needs the extra "
        "tracing.",
    )
    cors_origins: CommaSeparated = Field(
        default=(), description="Origins that browsers may call from, by commas; none by default."
    )

    api_keys: CommaSeparated = Field(
        default=(),
        repr=False,
        description="Accepted keys, by commas, each plain or as sha256:<hex>; none means open to all.",
    )
    admin_keys: CommaSeparated = Field(
        default=(), repr=False, description="Keys for /metrics, in the same form; none means that /metrics is open."
    )
    api_keys_file: Path | None = Field(
        default=None,
        description="File of keys beside these, a line each: id, key or sha256:<hex>, and the class if it is batch or "
        "admin (for /metrics); read again on SIGHUP.",
    )
    reload_root: Path | None = Field(
        default=None,
        description="Folder below which an admin key may have another checkpoint served (POST /admin/reload); "
        "none by default.",
    )
    reload: Literal["beside", "drain"] = Field(
        default="beside",
        description="How another checkpoint is loaded: beside the present one, which serves meanwhile; or, where there "
        "is no memory for two, after a drain of it, with 503 for new requests until the other serves.",
    )
    requests_per_second: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="Requests a second per key, or per address without keys (IPv6: per /64 network); 0: any.",
    )
    trusted_proxies: CommaSeparated = Field(
        default=(),
        description="Addresses or networks of proxies, by commas, whose X-Forwarded-For names the client; "
        "none by default.",
    )

    max_connections: int = Field(
        default=0,
        ge=0,
        description="Most open connections; then the one that has been without a request for longest is closed for a "
        "new one. 0: 4096, or what the limit of descriptors (raised at start where allowed) leaves.",
    )
    header_timeout_s: float = Field(
        default=10.0, gt=0, allow_inf_nan=False, description="Seconds for a request's headers to come."
    )
    body_timeout_s: float = Field(
        default=30.0, gt=0, allow_inf_nan=False, description="Seconds for a request's body to come."
    )
    write_timeout_s: float = Field(
        default=30.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds, in all, that a client may leave an answer unread that waits for it; then it is cut off.",
    )
    idle_timeout_s: float = Field(
        default=60.0, gt=0, allow_inf_nan=False, description="Seconds that a connection stays open between requests."
    )
    max_buffered_bytes: int = Field(
        default=256 * 2**20,
        ge=1,
        description="Most bytes of all request bodies together; then the oldest that is incomplete is given up.",
    )
    max_body_bytes: int = Field(default=2 * 2**20, ge=1, description="Longest request body in bytes.")
    max_text_chars: int = Field(default=200_000, ge=1, description="Longest text in characters.")
    max_items: int = Field(default=32, ge=1, description="Most texts in a request.")
    max_new_tokens: int = Field(default=512, ge=1, description="Most new tokens that a request may ask of a summary.")
    max_cost: int = Field(
        default=65_536,
        ge=1,
        description="Most decoding a request may ask: new tokens x beams, summed over texts and their chunks.",
    )
    max_concurrent_requests: int = Field(
        default=512, ge=1, description="Most requests in progress; more are refused with 429."
    )
    max_queued_requests: int = Field(default=1024, ge=1, description="Most sources that wait for the model.")
    max_queued_tokens: int = Field(default=262_144, ge=1, description="Most tokens that wait for the model.")
    max_tokenizer_bytes: int = Field(
        default=1_000_000,
        ge=1,
        description="Most bytes of long texts that wait for the tokenizer: a second of it or less.",
    )
    max_batch_tokens: int = Field(default=8192, ge=1, description="Most tokens in an encoder batch, padding included.")
    max_decode_rows: int = Field(default=64, ge=1, description="Most rows (documents x beams) that decode at once.")
    max_batch_work_rows: int = Field(
        default=4,
        ge=1,
        description="Most rows of priority batch that decode at once, and most of its sources in an encoder batch, "
        "while interactive requests keep coming; after 30 s without one it may have all.",
    )
    max_stall_s: float = Field(
        default=0.25,
        gt=0,
        allow_inf_nan=False,
        description="Seconds for which one encoder batch may delay the rows that decode.",
    )
    drafts: bool = Field(
        default=True,
        description="Decode several tokens a step where a summary copies and it is worth it; answers stay the same.",
    )
    watchdog_s: float = Field(
        default=120.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds that one step of the model may take before /health/live says 503.",
    )
    deadline_s: float = Field(
        default=60.0,
        gt=0,
        allow_inf_nan=False,
        description="Seconds a request may take; X-Request-Timeout-Ms may shorten it.",
    )
    shutdown_delay_s: float = Field(
        default=0.0,
        ge=0,
        le=3600,
        allow_inf_nan=False,
        description="Seconds after SIGTERM in which requests are still taken while /health/ready says 503, so that "
        "load balancers notice first.",
    )
    drain_timeout_s: float = Field(
        default=30.0,
        ge=0,
        allow_inf_nan=False,
        description="Seconds that requests in progress may take to finish after SIGTERM.",
    )

    @field_validator("tracing")
    @classmethod
    def _check_tracing(cls, tracing: bool) -> bool:
        if tracing:
            try:
                import_module("opentelemetry.exporter.otlp.proto.http")
            except ImportError:
                raise ValueError("OpenTelemetry is not installed; pip install 'leximind[tracing]'") from None
        return tracing

    @field_validator("cors_origins", "api_keys", "admin_keys", "trusted_proxies", mode="before")
    @classmethod
    def _split_at_commas(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.match("https?://", origin):
                raise ValueError(f"{origin} is no origin; write it with its scheme, such as https://{origin}")
        return origins

    @field_validator("max_body_bytes")
    @classmethod
    def _check_buffer(cls, max_body_bytes: int, info: ValidationInfo) -> int:
        if max_body_bytes > (buffered := info.data.get("max_buffered_bytes", max_body_bytes)):
            raise ValueError(f"it must be at most max_buffered_bytes, {buffered}; lower it or raise that")
        return max_body_bytes

    @field_validator("api_keys", "admin_keys", mode="before")
    @classmethod
    def _refuse_no_keys(cls, value: object) -> object:
        if isinstance(value, str) and not value.strip(" ,"):  # such as the variable of a secret that was never set
            raise ValueError("it holds no key; leave it out to be open to all")
        return value

    @field_validator("api_keys", "admin_keys")
    @classmethod
    def _hash_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(key_digest(key) for key in keys)

    @field_validator("api_keys_file", "reload_root", mode="before")
    @classmethod
    def _refuse_no_path(cls, value: object) -> object:
        if value == "":
            raise ValueError("it names no path; leave it out to have none")
        return value

    @field_validator("reload_root")
    @classmethod
    def _check_reload_root(cls, root: Path | None) -> Path | None:
        if root is not None and not root.is_dir():
            raise ValueError("there is no such folder; name the one that checkpoints are put in")
        return root

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError as error:
                raise ValueError(f"{error}; write an address (10.0.0.7) or a network (10.0.0.0/8)") from None
        return proxies


def unknown_variables() -> list[str]:
    """Variables that look like a setting and are none: a typo must not pass in silence."""
    known = {f"{_PREFIX}{name}".upper() for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.upper().startswith(_PREFIX) and name.upper() not in known)


def prepare_ray() -> bool:
    """Have Ray, which is imported next, report nothing to its makers unless asked to.

    Returns:
        Whether the environment names a cluster to join (`RAY_ADDRESS`).
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    return "RAY_ADDRESS" in os.environ
