"""Topics of long articles by chunks against by their beginnings: `python -m benchmarks.long_topics BBC.jsonl.gz`.

BBC News Summary has them: business, sport and tech, longer than the bundled model reads. Asked as a client does.
"""

import asyncio
import gzip
import json
import sys
from pathlib import Path

import httpx

from app.main import create_app
from app.settings import Settings
from model.choices import BUNDLED

TOPICS = {"business": "Business", "sport": "Sports", "tech": "Sci/Tech"}


async def measure(path: Path) -> None:
    """Print the accuracy of both on the same articles."""
    app = create_app(Settings(checkpoint=BUNDLED, device="cpu", deadline_s=600.0))
    service = app.state.context.service
    await service.load()
    tokenizer, limit = service.deployment.checkpoint.tokenizer, service.deployment.checkpoint.tasks.max_source_tokens
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    chosen = [row for row in rows if row["category"] in TOPICS and len(tokenizer.encode(row["document"])) > limit]
    right = {"chunk": 0, "truncate": 0}
    differ = 0
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://leximind", timeout=600) as client:
        for row in chosen:
            found = {}
            for on_long in right:
                body = {"text": row["document"], "tasks": ["topic"], "summary": {"on_long": on_long}}
                answer = (await client.post("/analyze", json=body)).raise_for_status().json()
                found[on_long] = answer["topic"]["topic"]
                right[on_long] += found[on_long] == TOPICS[row["category"]]
            differ += len(set(found.values())) > 1
    await service.drain(5.0)
    print(f"{len(chosen)} articles of more than {limit} tokens, {differ} answered differently")
    for on_long, count in right.items():
        print(f"{on_long}: {count / len(chosen):.3f}")


if __name__ == "__main__":
    asyncio.run(measure(Path(sys.argv[1])))
