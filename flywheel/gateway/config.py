"""What a gateway may be told about its limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# When the disk has what the operating system has: whenever that likes, once a second, or before
# any answer.
Fsync = Literal["never", "interval", "always"]


@dataclass(frozen=True, slots=True)
class GatewayLimits:
    """Bounds on one request and on what is kept while Kafka or a model is away."""

    max_body_bytes: int = 256 * 1024
    max_text_chars: int = 20_000
    shadow_concurrency: int = 4
    shadow_queue: int = 1_000
    drain_seconds: float = 5.0
