"""How many replicas Ray Serve should have: by the tokens that wait for their encoders, as KEDA does on Kubernetes.

Ray copies this module's functions into its controller.
"""

import math
from typing import Any

QUEUED_TOKENS = "queued_tokens"
TOKENS_PER_REPLICA = 8192  # one full encoder batch (max_batch_tokens)


def by_queued_tokens(context: Any) -> tuple[int, dict[str, Any]]:
    """A replica for every `TOKENS_PER_REPLICA`; Ray keeps to `min_replicas`, `max_replicas` and the delays."""
    if not context.current_num_replicas:  # Ray takes any number at once then, and would end those that begin
        return context.target_num_replicas, {}
    waiting = sum((context.aggregated_metrics or {}).get(QUEUED_TOKENS, {}).values())
    return max(math.ceil(waiting / TOKENS_PER_REPLICA), 1), {}
