"""Token ids to tensors, through the model, to answers: the only tensors in `app`.

Knows nothing of queues, threads or time. One caller at a time.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app.engine.request import EngineAnswer, EngineError, EngineRequest, News
from model.decoding.batch import DecodingBatch
from model.decoding.graphs import StepGraphs
from model.decoding.options import DecodingOptions
from model.decoding.rows import Step
from model.leximind import LexiMind
from model.transfer import send

_CHECK_TOKENS = 8
_LENGTH_MULTIPLES = {"cuda": 64}  # of encoder batches, in tokens: few shapes, each fit for the device's kernels


@dataclass(frozen=True)
class Encoded:
    """An encoder batch: which row of it serves each request, and what the heads said.

    `num_tokens` counts real tokens, `padded_tokens` all that were computed.
    """

    hidden: Tensor  # (B, S, D)
    encoder_mask: Tensor  # (B, S)
    rows: dict[int, int]
    answers: dict[int, EngineAnswer]
    options: dict[int, DecodingOptions]
    num_tokens: int
    padded_tokens: int


class Runner:
    """Encodes batches of requests, and decodes those that want a summary together, whenever they joined."""

    def __init__(self, model: LexiMind, *, use_graphs: bool | None = None) -> None:
        """`use_graphs`: replay decode steps as CUDA graphs; None: where the model is on a GPU."""
        self._model = model.eval()
        self._use_graphs = self.on_gpu if use_graphs is None else use_graphs
        self._batch = self._new_batch()
        self._heads: dict[int, EngineAnswer] = {}  # of what decodes
        self._num_sent: dict[int, int] = {}  # tokens of what decodes that were in earlier news

    @property
    def num_rows(self) -> int:
        """Decoder rows in flight."""
        return self._batch.num_rows

    def padded_length(self, length: int) -> int:
        """Tokens that an encoder batch computes for each of its sources when the longest has `length`."""
        multiple = _LENGTH_MULTIPLES.get(self._model.device.type, 1)
        return -(-length // multiple) * multiple

    @torch.inference_mode()
    def encode(self, requests: Mapping[int, EngineRequest]) -> Encoded:
        """Encode `requests` as one padded batch, equal sources once, and run the heads that are asked for.

        Leaves what decodes untouched, also when it raises.
        """
        row_of = {ids: row for row, ids in enumerate(dict.fromkeys(one.input_ids for one in requests.values()))}
        input_ids, encoder_mask = self._pad(list(row_of))
        hidden = self._model.encode(input_ids, encoder_mask)  # (B, S, D)
        rows = {key: row_of[one.input_ids] for key, one in requests.items()}
        emotions = self._emotions(hidden, encoder_mask, {rows[key] for key, one in requests.items() if one.emotions})
        topics = self._topics(hidden, encoder_mask, {rows[key] for key, one in requests.items() if one.topic})
        if hidden.is_cuda:  # otherwise the caller would measure the launches, not the work
            torch.cuda.synchronize(hidden.device)
        return Encoded(
            hidden=hidden,
            encoder_mask=encoder_mask,
            rows=rows,
            answers={
                key: EngineAnswer(
                    emotions=emotions[rows[key]] if one.emotions else None,
                    topic=topics[rows[key]] if one.topic else None,
                )
                for key, one in requests.items()
            },
            options={key: one.options for key, one in requests.items() if one.options is not None},
            num_tokens=sum(map(len, row_of)),
            padded_tokens=input_ids.numel(),
        )

    @torch.inference_mode()
    def join(self, encoded: Encoded) -> list[News]:
        """Let what wants a summary join the rows in flight; answers the others at once.

        When it raises, what decodes is lost: `reset` follows.
        """
        if keys := list(encoded.options):
            rows = send(torch.tensor([encoded.rows[key] for key in keys]), self._model.device)
            hidden, encoder_mask = encoded.hidden[rows], encoded.encoder_mask[rows]  # (C, S, D), (C, S)
            self._batch.add(keys, hidden, encoder_mask, [encoded.options[key] for key in keys])
            self._heads |= {key: encoded.answers[key] for key in keys}
            self._num_sent |= dict.fromkeys(keys, 0)
        return [News(key, answer=answer) for key, answer in encoded.answers.items() if key not in encoded.options]

    def step(self) -> list[News]:
        """One decode step over everything in flight. When it raises, what decodes is lost: `reset` follows."""
        return [self._news_of(step) for step in self._batch.step()]

    def remove(self, keys: Collection[int]) -> None:
        """Free the rows of what is cancelled or expired; unknown keys are ignored."""
        self._batch.remove(keys)
        for key in keys:
            self._heads.pop(key, None)
            self._num_sent.pop(key, None)

    def reset(self) -> None:
        """Forget everything in flight."""
        self._batch = self._new_batch()
        self._heads.clear()
        self._num_sent.clear()

    def prepare(self, num_documents: int, source_length: int, target_length: int) -> None:
        """Allocate the cache for so many documents and record their decode steps, which takes seconds; on a GPU."""
        self._batch.prepare(num_documents, self.padded_length(source_length), target_length)

    def check(self) -> None:
        """Answer a minimal request of each kind, beside what decodes, so that warming up and faults are no client's.

        Raises:
            EngineError: the encoder's states or a head's scores are not finite.
            Exception: whatever the model raises.
        """
        config = self._model.config
        tasks = {"emotions": config.num_emotions > 0, "topic": config.num_topics > 0}
        kinds = (
            DecodingOptions(max_new_tokens=2),
            DecodingOptions(max_new_tokens=2, num_beams=2),
            DecodingOptions(max_new_tokens=2, do_sample=True),
        )
        source = (config.eos_id,) * _CHECK_TOKENS
        probe = Runner(self._model, use_graphs=False)
        encoded = probe.encode(
            {key: EngineRequest(source, 0.0, options=kind, **tasks) for key, kind in enumerate(kinds)}
        )
        scores = [
            one for answer in encoded.answers.values() for one in (*(answer.emotions or ()), *(answer.topic or ()))
        ]
        if not (encoded.hidden.isfinite().all() and all(map(math.isfinite, scores))):
            raise EngineError("the model's numbers are not finite on a minimal request; train or fetch it again")
        probe.join(encoded)
        while probe.num_rows:
            probe.step()

    def memory_bytes(self, kind: str) -> int:
        """GPU memory that is `allocated`, `reserved` or in `total`; only where the model is on a GPU."""
        device = self._model.device
        if kind == "total":
            return torch.cuda.mem_get_info(device)[1]
        return torch.cuda.memory_allocated(device) if kind == "allocated" else torch.cuda.memory_reserved(device)

    @property
    def on_gpu(self) -> bool:
        """Whether the model is on a CUDA device."""
        return self._model.device.type == "cuda"

    def _new_batch(self) -> DecodingBatch:
        return DecodingBatch(self._model, StepGraphs(self._model) if self._use_graphs else None)

    def _news_of(self, step: Step) -> News:
        if step.result is None:
            token_ids = () if step.token_id is None else (step.token_id,)
            self._num_sent[step.key] += len(token_ids)
            return News(step.key, token_ids)
        num_sent = self._num_sent.pop(step.key)
        answer = replace(self._heads.pop(step.key), summary=step.result)
        return News(step.key, step.result.token_ids[num_sent:], answer)

    def _pad(self, sources: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
        pad_id, longest = self._model.config.pad_id, max(map(len, sources))
        longest = self.padded_length(longest)
        padded = torch.tensor([ids + (pad_id,) * (longest - len(ids)) for ids in sources])
        lengths = torch.tensor([len(ids) for ids in sources])
        encoder_mask = torch.arange(longest) < lengths[:, None]  # (B, S)
        return send(padded, self._model.device), send(encoder_mask, self._model.device)

    def _emotions(self, hidden: Tensor, encoder_mask: Tensor, rows: set[int]) -> dict[int, tuple[float, ...]]:
        if not rows:
            return {}
        index = send(torch.tensor(sorted(rows)), hidden.device)
        logits = self._model.emotion_logits(hidden[index], encoder_mask[index])
        return _by_row(rows, logits.float().sigmoid())

    def _topics(self, hidden: Tensor, encoder_mask: Tensor, rows: set[int]) -> dict[int, tuple[float, ...]]:
        if not rows:
            return {}
        index = send(torch.tensor(sorted(rows)), hidden.device)
        logits = self._model.topic_logits(hidden[index], encoder_mask[index])
        return _by_row(rows, logits.float().softmax(dim=-1))


def _by_row(rows: set[int], probabilities: Tensor) -> dict[int, tuple[float, ...]]:
    return {row: tuple(values) for row, values in zip(sorted(rows), probabilities.tolist(), strict=True)}
