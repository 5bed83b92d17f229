"""A service's REST interface as the page needs it, with failures in words."""

import json
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import httpx

_TIMEOUT = httpx.Timeout(10, read=300)
_RETRY_LATER = (429, 503)
Answer = dict[str, Any]


class ServiceError(Exception):
    """The service gave no answer; the message is for the person at the page."""


@dataclass(frozen=True)
class Progress:
    """How many of the chunks of a long text are summarized in a round; rounds count from 1."""

    round: int
    done: int
    chunks: int


@dataclass(frozen=True)
class Client:
    """Requests to the service at `url`, with its key where it wants one."""

    url: str
    api_key: str | None = None

    async def info(self) -> Answer:
        """What `/info` says.

        Raises:
            ServiceError: no answer.
        """
        async with self._http() as http:
            answer: Answer = await self._answer(http, "GET", "/info")
            return answer

    async def ask(self, route: str, body: Mapping[str, Any]) -> Any:
        """The answer of an inference route.

        Raises:
            ServiceError: refused, failed, or no answer.
        """
        async with self._http() as http:
            return await self._answer(http, "POST", route, json=body)

    async def stream(self, body: Mapping[str, Any]) -> AsyncGenerator[str | Progress | Answer, None]:
        """Of `/summarize`, its progress and the pieces of the summary as they come, then the answer.

        Raises:
            ServiceError: refused, failed, or no answer.
        """
        async with self._http() as http:
            try:
                async with http.stream("POST", "/summarize", json={**body, "stream": True}) as response:
                    if response.is_error:
                        await response.aread()
                        raise ServiceError(_in_words(response))
                    event = ""
                    async for line in response.aiter_lines():
                        field, _, value = line.partition(": ")
                        if field == "event":
                            event = value
                        elif field == "data":
                            data = json.loads(value)
                            if event == "error":
                                raise ServiceError(_sentence(data["detail"]))
                            yield _PIECES.get(event, dict)(data)
            except httpx.TransportError as error:
                raise ServiceError(_AWAY) from error

    def _http(self) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        # The environment's proxy is for other hosts than the operator's own service.
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=_TIMEOUT, trust_env=False)

    async def _answer(self, http: httpx.AsyncClient, method: str, route: str, **options: Any) -> Any:
        try:
            response = await http.request(method, route, **options)
        except httpx.TransportError as error:
            raise ServiceError(_AWAY) from error
        if response.is_error:
            raise ServiceError(_in_words(response))
        return response.json()


_PIECES: Mapping[str, Callable[[Answer], Any]] = {
    "token": lambda data: data["text"],
    "progress": lambda data: Progress(**data),
}
_AWAY = "The service does not answer. It may be starting or restarting; try again in a moment."


def _in_words(response: httpx.Response) -> str:
    try:
        detail = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return f"The service answered {response.status_code}. Try again in a moment."
    if response.status_code in (401, 403):
        return "The service does not accept this page's key. Whoever runs the page can set another."
    wait = response.headers.get("Retry-After")
    if response.status_code in _RETRY_LATER and wait:
        return f"{_sentence(detail)} Try again in {wait} s."
    return _sentence(detail)


def _sentence(detail: str) -> str:
    text = f"{detail[:1].upper()}{detail[1:]}"
    return text if text.endswith((".", "!", "?")) else f"{text}."
