// The network and the cache as plain structs; `structs.py` has the same fields in the same order.

#pragma once

#include "matrices.h"

extern "C" {

struct DecoderLayer {
  const float *self_norm, *cross_norm, *feed_forward_norm;
  Linear qkv, self_out, q, cross_out, wi, wo;  // wi: 16 gates, then their 16 values, and so on
};

struct EncoderLayer {
  const float *attention_norm, *feed_forward_norm;
  Linear qkv, out, wi, wo;
};

struct Shape {
  int64_t kind, d_model, num_heads, d_kv, d_ff;
  float epsilon;
};

struct Encoder {
  Shape shape;
  int64_t num_layers;
  const EncoderLayer* layers;
  const float* norm;
};

struct Decoder {
  Shape shape;
  int64_t num_layers;
  const DecoderLayer* layers;
  const float* norm;
  Linear lm_head;
  const float* bias;  // (H, distances) of self-attention; the last one for all that are farther
  int64_t num_distances;
};

// The documents of one beam width, as KVCache holds them. Strides are counted in elements.
struct Cache {
  int64_t num_documents, num_beams;
  uint8_t *self_keys, *self_values;  // (L, rows, H, target, K), bfloat16 unless the kind is float32
  int64_t self_stride, target_capacity;
  const int32_t* lineage;  // (rows, target): which beam of the document wrote a row's key
  int64_t lineage_stride;
  uint8_t *cross_keys, *cross_values;  // (L, documents, H), each a `SourceHead` of `source_capacity` positions
  int64_t cross_key_stride, cross_value_stride, source_capacity;
  const float* additive_mask;  // (documents, source), 0 or -inf
  int64_t mask_stride;
  const int64_t *positions, *source_ends;  // (rows,), (documents,)
  const int64_t* token_ends;  // (rows,) tokens of a step up to each row's last, summed; null where each has one
};

}  // extern "C"
