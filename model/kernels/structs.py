"""The kernels' structs, field by field as in `network.h`; to be made by keyword, since both sides go by the order."""

from ctypes import POINTER, Structure, c_float, c_int64, c_void_p


class Linear(Structure):
    """A packed matrix."""

    _fields_ = (("weight", c_void_p), ("scales", c_void_p), ("sums", c_void_p), ("inputs", c_int64), ("out", c_int64))


class DecoderLayer(Structure):
    """Norm weights and matrices of a layer."""

    _fields_ = (
        *((name, c_void_p) for name in ("self_norm", "cross_norm", "feed_forward_norm")),
        *((name, Linear) for name in ("qkv", "self_out", "q", "cross_out", "wi", "wo")),
    )


class Shape(Structure):
    """Sizes of the network; `kind` is that of a `Format`."""

    _fields_ = (
        *((name, c_int64) for name in ("kind", "d_model", "num_heads", "d_kv", "d_ff")),
        ("epsilon", c_float),
    )


class EncoderLayer(Structure):
    """Norm weights and matrices of a layer."""

    _fields_ = (
        *((name, c_void_p) for name in ("attention_norm", "feed_forward_norm")),
        *((name, Linear) for name in ("qkv", "out", "wi", "wo")),
    )


class Encoder(Structure):
    """All that encoding reads of the network, but the relative bias."""

    _fields_ = (
        ("shape", Shape),
        ("num_layers", c_int64),
        ("layers", POINTER(EncoderLayer)),
        ("norm", c_void_p),
    )


class Decoder(Structure):
    """All that a step reads of the network."""

    _fields_ = (
        ("shape", Shape),
        ("num_layers", c_int64),
        ("layers", POINTER(DecoderLayer)),
        ("norm", c_void_p),
        ("lm_head", Linear),
        ("bias", c_void_p),
        ("num_distances", c_int64),
    )


class Cache(Structure):
    """What a step reads and writes of a `KVCache`; strides in elements."""

    _fields_ = (
        ("num_documents", c_int64),
        ("num_beams", c_int64),
        ("self_keys", c_void_p),
        ("self_values", c_void_p),
        ("self_stride", c_int64),
        ("target_capacity", c_int64),
        ("lineage", c_void_p),
        ("lineage_stride", c_int64),
        ("cross_keys", c_void_p),
        ("cross_values", c_void_p),
        ("cross_key_stride", c_int64),
        ("cross_value_stride", c_int64),
        ("source_capacity", c_int64),
        ("additive_mask", c_void_p),
        ("mask_stride", c_int64),
        ("positions", c_void_p),
        ("source_ends", c_void_p),
        ("token_ends", c_void_p),
    )
