"""The architecture as data: everything that decides the shape and arithmetic of a network, to and from JSON."""

import dataclasses
import reprlib
from dataclasses import dataclass, field
from typing import Any, get_origin

from model.errors import ConfigError


@dataclass(frozen=True)
class ModelConfig:
    """Architecture of one LexiMind network; the defaults are google/flan-t5-base's.

    `vocab_size` counts the rows of the embedding, `num_tokens` the ids that mean something: ids from
    `num_tokens` on pad the matrix and are never emitted. The inner width of attention is
    `num_heads * d_kv`, which need not be `d_model`. `num_positions` is the length of the learned position
    tables (0: none); later positions rely on the relative bias alone. `tie_lm_head` shares the output
    matrix with the embedding; `scale_lm_head` multiplies its input by `d_model ** -0.5`, as the original T5
    (tied) does and T5 v1.1 / FLAN-T5 (untied) do not. `heads` has the number of labels of each classification head
    by its name, in order.

    Raises:
        ConfigError: a value that no network can have.
    """

    vocab_size: int = 32128
    num_tokens: int = 32100
    d_model: int = 768
    num_heads: int = 12
    d_kv: int = 64
    d_ff: int = 2048
    num_encoder_layers: int = 12
    num_decoder_layers: int = 12
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    num_positions: int = 512
    layer_norm_epsilon: float = 1e-6
    dropout: float = 0.1
    tie_lm_head: bool = False
    scale_lm_head: bool = False
    pad_id: int = 0
    eos_id: int = 1
    unk_id: int = 2
    heads: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, most in _MOST.items():
            value, least = getattr(self, name), 0 if name in _MAY_BE_NONE else 1
            if value < least:
                raise ConfigError(f"{name} is {value}; it must be {'0 (none) or more' if not least else 'at least 1'}")
            if value > most:
                raise ConfigError(f"{name} is {value}; it must be at most {most}")
        if self.num_tokens > self.vocab_size:
            raise ConfigError(f"num_tokens is {self.num_tokens}, more than vocab_size {self.vocab_size}")
        buckets, distance = self.relative_attention_num_buckets, self.relative_attention_max_distance
        if buckets % 4 or distance <= buckets // 2:
            raise ConfigError(
                f"relative_attention_num_buckets is {buckets} and relative_attention_max_distance {distance}; "
                "the buckets must be a multiple of 4 and the distance more than half of them"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"dropout is {reprlib.repr(self.dropout)}; it must lie in [0, 1)")
        if not 0.0 < self.layer_norm_epsilon < 1.0:
            raise ConfigError(f"layer_norm_epsilon is {reprlib.repr(self.layer_norm_epsilon)}; it must lie in (0, 1)")
        if (self.pad_id, self.eos_id, self.unk_id) != (0, 1, 2):
            raise ConfigError(
                f"pad_id, eos_id and unk_id are {self.pad_id}, {self.eos_id}, {self.unk_id}; every T5 has 0, 1, 2"
            )

        if len(self.heads) > _MOST_HEADS:
            raise ConfigError(f"heads: there are {len(self.heads)}; at most {_MOST_HEADS} are read")
        for name, num_labels in self.heads.items():
            if type(num_labels) is not int or not 2 <= num_labels <= _MOST_LABELS:
                raise ConfigError(
                    f"heads: {name} has {num_labels!r} labels; a head has a whole number of them, 2 to {_MOST_LABELS}"
                )

    @property
    def inner_width(self) -> int:
        """Width of queries, keys and values together: H * K."""
        return self.num_heads * self.d_kv

    def to_json(self) -> dict[str, Any]:
        """The fields as a JSON object."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, fields: Any) -> "ModelConfig":
        """The inverse of `to_json`; what was added since the first version may be missing and is its default then.

        Raises:
            ConfigError: a field that this version does not know, lacks, or cannot have.
        """
        if not isinstance(fields, dict):
            raise ConfigError(f"the configuration is {reprlib.repr(fields)}; it must be an object")
        types: dict[str, Any] = {one.name: get_origin(one.type) or one.type for one in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - types.keys()):
            raise ConfigError(f"unknown fields {reprlib.repr(unknown)}; this version knows {sorted(types)}")
        if missing := sorted(_REQUIRED - fields.keys()):
            raise ConfigError(f"missing fields {missing}")
        for name, value in fields.items():
            if type(value) is not types[name] and not (types[name] is float and type(value) is int):
                raise ConfigError(f"{name} is {reprlib.repr(value)}; it must be of type {types[name].__name__}")
        return cls(**fields)


_MAY_BE_NONE = ("num_positions",)
# Several times what any published T5 has: a damaged or hostile file must not make a process allocate without end.
_MOST = {
    "vocab_size": 2**22,
    "num_tokens": 2**22,
    "d_model": 2**16,
    "num_heads": 2**10,
    "d_kv": 2**10,
    "d_ff": 2**19,
    "num_encoder_layers": 256,
    "num_decoder_layers": 256,
    "relative_attention_num_buckets": 2**10,
    "relative_attention_max_distance": 2**16,
    "num_positions": 2**20,
}
_MOST_LABELS, _MOST_HEADS = 2**16, 256
# Of every checkpoint. A field that is not among them says by its default what checkpoints without it are.
_REQUIRED = frozenset(
    (*_MOST, "layer_norm_epsilon", "dropout", "tie_lm_head", "scale_lm_head", "pad_id", "eos_id", "unk_id")
)
