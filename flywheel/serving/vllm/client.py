"""A client of one vLLM server, in terms of what our releases answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import httpx

from flywheel.errors import (
    ArtefactError,
    FlywheelError,
    NotFound,
    RequestError,
    TooLarge,
    Unavailable,
)
from flywheel.serving.engine import Generated

# Longer than any answer takes; one that is dead is noticed by its closed connection.
ANSWER_SECONDS = 120.0
# Below the log-probability of anything that a model would ever say.
_NEVER = -100.0


class VllmClient:
    """Thread-safe. Raises Unavailable when the server is away, RequestError when it refuses."""

    def __init__(self, url: str, *, connections: int = 64) -> None:
        self.url = url.rstrip("/")
        limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=5.0)
        self._http = httpx.Client(
            base_url=self.url, limits=limits, timeout=timeout, trust_env=False
        )

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def healthy(self) -> bool:
        """Whether it says that it can answer."""
        try:
            return self._http.get("/health", timeout=2.0).status_code == 200
        except httpx.HTTPError:
            return False

    def models(self) -> list[str]:
        """The names of what it serves."""
        return [str(model["id"]) for model in self._call("GET", "/v1/models", None)["data"]]

    def classify(self, model: str, sequences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Probabilities of every label for each sequence of token ids."""
        answer = self._call("POST", "/classify", {"model": model, "input": sequences})
        rows = sorted(answer["data"], key=lambda item: int(item["index"]))
        return [item["probs"] for item in rows]

    def choose(self, model: str, prompt: Sequence[int], choices: Sequence[int]) -> list[float]:
        """Log-probability of each of the choices, one token each, as the whole answer.

        Raises ArtefactError when the server chose among others.
        """
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": 1,
            "temperature": 1.0,
            "logprobs": len(choices),
            "allowed_token_ids": choices,
            # By their text two tokens may be the same: those of a letter and of its byte are.
            "return_tokens_as_token_ids": True,
        }
        answer = self._call("POST", "/v1/completions", body)
        [tops] = answer["choices"][0]["logprobs"]["top_logprobs"]
        seen = {name: float(logprob) for name, logprob in tops.items()}
        names = [f"token_id:{choice}" for choice in choices]
        if seen.keys() != set(names):
            raise ArtefactError(
                f"{self.url} chose among {', '.join(sorted(seen))} instead of "
                f"{', '.join(sorted(names))}: it is no vLLM that keeps to allowed_token_ids"
            )
        return [max(seen[name], _NEVER) for name in names]

    def generate(self, model: str, prompt: Sequence[int], max_tokens: int) -> Generated:
        """The likeliest answer, token by token."""
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0.0,
            "logprobs": 1,
        }
        answer = self._call("POST", "/v1/completions", body)
        choice, usage = answer["choices"][0], answer["usage"]
        said = [float(logprob) for logprob in (choice["logprobs"] or {})["token_logprobs"] or ()]
        mean = sum(said) / len(said) if said else _NEVER
        return Generated(
            text=choice["text"] or "",
            confidence=math.exp(max(mean, _NEVER)),
            tokens_in=int(usage["prompt_tokens"]),
            tokens_out=int(usage["completion_tokens"]),
        )

    def longest(self, model: str) -> int:
        """How many tokens a prompt and its answer may take together."""
        answer = self._call("POST", "/tokenize", {"model": model, "prompt": "?"})
        return int(answer["max_model_len"])

    def load_adapter(self, name: str, path: str) -> None:
        """Serve a LoRA adapter of the server's model under ``name``."""
        self._call("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def unload_adapter(self, name: str) -> None:
        """Forget an adapter."""
        self._call("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def _call(self, method: str, path: str, body: object) -> Any:
        try:
            response = self._http.request(method, path, json=body)
        except httpx.TimeoutException:
            raise Unavailable(f"{self.url} did not answer in time", retry_after=2.0) from None
        except (httpx.TransportError, RuntimeError) as error:
            # RuntimeError: the client was closed, which is the end of what it asked.
            raise Unavailable(
                f"{self.url} does not answer: {error or type(error).__name__}", retry_after=2.0
            ) from None
        if response.status_code == 200:
            return response.json() if "json" in response.headers.get("content-type", "") else None
        raise _refusal(self.url, response)


def _refusal(url: str, response: httpx.Response) -> FlywheelError:
    """What a refusal of vLLM's means, with vLLM's own words."""
    try:
        problem = response.json()
        message = str(problem.get("error", problem).get("message", problem))
    except (ValueError, AttributeError):
        message = response.text[:300]
    if "maximum context length" in message or "maximum model length" in message:
        return TooLarge(f"the text is too long: {message}")
    if response.status_code == 404:
        return NotFound(f"{url}: {message}")
    if response.status_code < 500:
        return RequestError(f"{url}: {message}")
    return Unavailable(f"{url} failed: {message}", retry_after=2.0)
