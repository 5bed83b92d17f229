// softmax(q kᵀ + bias) v: of one query on keys wherever they are, and of blocks of queries on keys packed as a matrix.

#pragma once

#include "matrices.h"

namespace {

constexpr int kQueryRows = 48;  // queries of one head that a thread takes at a time

// Scores of one query, to the next 16 of `length`, become exp(score + bias - most), 0 past the end; gives 1 / their sum.
// `bias(t, mask)` is that of 16 keys from t on.
template <typename Bias>
float exponentiate(float* scores, int64_t length, const Bias& bias) {
  const Floats nothing = splat(-INFINITY);
  Floats most = nothing;
  for (int64_t t = 0; t < length; t += kLanes) {
    const Mask mask = lane_mask(length - t);
    const Floats s = select(mask, load16(scores + t) + bias(t, mask), nothing);
    store16(scores + t, s);
    most = max(most, s);
  }
  const Floats top = splat(largest_lane(most));
  Floats total = splat(0.0f);
  for (int64_t t = 0; t < length; t += kLanes) {
    const Floats e = exp16(load16(scores + t) - top);
    store16(scores + t, e);
    total = total + e;
  }
  return 1.0f / add_lanes(total);
}

// One query of a head on keys wherever they are: `key(t)` and `value(t)` point to rows as `store_row` writes them,
// `bias(t)` is 16 scores' worth from key t on. `scores` has room for `length`, up to the next 16.
template <int kChunks, typename Number, typename Key, typename Value, typename Bias>
void attend(const float* query, int64_t width, int64_t length, const Key& key, const Value& value, const Bias& bias,
            float* scores, float* context) {
  Mask masks[kChunks];
  Floats q[kChunks], sum[kChunks];
  for (int c = 0; c < kChunks; ++c) {
    masks[c] = lane_mask(width - c * kLanes);
    q[c] = load16(query + c * kLanes, masks[c]);
    sum[c] = splat(0.0f);
  }
  for (int64_t t = 0; t < length; ++t) {
    const Number* k = key(t);
    Floats dot = q[0] * load16(k, masks[0]);
    for (int c = 1; c < kChunks; ++c) dot = fma(q[c], load16(k + c * kLanes, masks[c]), dot);
    scores[t] = add_lanes(dot);
  }
  const Floats inverse = splat(exponentiate(scores, length, bias));
  for (int64_t t = 0; t < length; ++t) {
    const Number* v = value(t);
    const Floats p = splat(scores[t]);
    for (int c = 0; c < kChunks; ++c) sum[c] = fma(p, load16(v + c * kLanes, masks[c]), sum[c]);
  }
  for (int c = 0; c < kChunks; ++c) store16(context + c * kLanes, masks[c], sum[c] * inverse);
}

template <typename Number, typename Key, typename Value, typename Bias>
void attend_any(const float* query, int64_t width, int64_t length, const Key& key, const Value& value, const Bias& bias,
                float* scores, float* context) {
  switch ((width + kLanes - 1) / kLanes) {  // at most 128 numbers a head, which `library.py` checks
    case 1: return attend<1, Number>(query, width, length, key, value, bias, scores, context);
    case 2: return attend<2, Number>(query, width, length, key, value, bias, scores, context);
    case 3: return attend<3, Number>(query, width, length, key, value, bias, scores, context);
    case 4: return attend<4, Number>(query, width, length, key, value, bias, scores, context);
    case 5: return attend<5, Number>(query, width, length, key, value, bias, scores, context);
    case 6: return attend<6, Number>(query, width, length, key, value, bias, scores, context);
    case 7: return attend<7, Number>(query, width, length, key, value, bias, scores, context);
    case 8: return attend<8, Number>(query, width, length, key, value, bias, scores, context);
    default: __builtin_unreachable();
  }
}

// A head's keys or values of one document as a matrix: keys have the positions as outputs, values as inputs. Both are
// written by units of four bytes, one float or two bfloat16.
template <Kind kind>
struct Head {
  static constexpr int64_t kGroup = Format<kind>::kGroup;
  static_assert(kGroup <= 2);
  static int64_t key_units(int64_t length, int64_t width) {
    return round_up(length, kColumns) * ((width + kGroup - 1) / kGroup);
  }
  static int64_t value_units(int64_t length, int64_t width) {
    return round_up(width, kColumns) * ((length + kGroup - 1) / kGroup);
  }
};

// `row` is scratch. bfloat16 rows are taken as they are, of an even width.
template <Kind kind, typename Number>
void pack_keys(const Number* from, int64_t stride, int64_t length, int64_t width, uint32_t* to, Operand& row) {
  const int64_t groups = (width + Head<kind>::kGroup - 1) / Head<kind>::kGroup;
  for (int64_t s = 0; s < round_up(length, kColumns); ++s) {
    uint32_t* column = to + s / kColumns * groups * kColumns + s % kColumns;
    const void* units = from + s * stride;
    if constexpr (std::is_same_v<Number, float>) {
      units = row.bytes.data();
      if (s < length) convert_row<kind>(from + s * stride, nullptr, 1.0f, width, row, 0);
    }
    for (int64_t g = 0; g < groups; ++g) {
      uint32_t unit = 0;
      if (s < length) std::memcpy(&unit, static_cast<const uint32_t*>(units) + g, sizeof(unit));
      column[g * kColumns] = unit;
    }
  }
}

// Sixteen bfloat16, each in four bytes.
inline Ints wide_bfloat16(const float* from, Mask mask) { return bfloat16_bits(load16(from, mask)); }
inline Ints wide_bfloat16(const uint16_t* from, Mask mask) { return load_wide(from, mask); }

template <Kind kind, typename Number>
void pack_values(const Number* from, int64_t stride, int64_t length, int64_t width, uint32_t* to) {
  const int64_t groups = (length + Head<kind>::kGroup - 1) / Head<kind>::kGroup;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t j = 0; j < round_up(width, kColumns); j += kLanes) {
      const Mask mask = lane_mask(std::max<int64_t>(width - j, 0));
      uint32_t* unit = to + (j / kColumns * groups + g) * kColumns + j % kColumns;
      const Number* at = from + g * Head<kind>::kGroup * stride + j;
      if constexpr (kind == kFloat32) {
        store16(reinterpret_cast<float*>(unit), load16(at, mask));
      } else {
        const Mask next = g * 2 + 1 < length ? mask : kNoLanes;
        const Ints low = wide_bfloat16(at, mask), high = wide_bfloat16(at + (next ? stride : 0), next);
        store_ints(unit, low | (high << 16));
      }
    }
}

inline Linear packed_matrix(const uint32_t* units, int64_t in, int64_t out) {
  return {reinterpret_cast<const uint8_t*>(units), nullptr, nullptr, in, out};
}

// What a thread needs for some queries of one head.
struct HeadScratch {
  Operand row, queries, weights;
  std::vector<float> scores, inverse;
  int64_t stride = 0;

  void reserve(int64_t length, int64_t width) {
    row.reserve(1, width);
    queries.reserve(kQueryRows, width);
    weights.reserve(kQueryRows, length);
    stride = round_up(length, kColumns);
    if (static_cast<int64_t>(scores.size()) < kQueryRows * stride) scores.resize(kQueryRows * stride);
    inverse.resize(kQueryRows);
  }
};

thread_local HeadScratch head_scratch;

template <typename Number>
struct WriteHead {  // some columns of the context, each row times its factor where there are such
  Number* to;
  int64_t stride, width;
  const float* factors;
  void operator()(int64_t row, int64_t block, Floats a, Floats b) const {
    const Floats factor = splat(factors ? factors[row] : 1.0f);
    const int64_t column = block * kColumns;
    Number* at = to + row * stride + column;
    store16(at, lane_mask(std::max<int64_t>(width - column, 0)), a * factor);
    store16(at + kLanes, lane_mask(std::max<int64_t>(width - column - kLanes, 0)), b * factor);
  }
};

// `count` queries of one head on packed keys and values. `bias(r, t, mask)` is what is added to query r's scores of 16
// keys from t on; `weigh(r, terms, inverse)` puts the row of softmax, `terms` times `inverse`, into `work.weights`.
template <Kind kind, typename Bias, typename Weigh, typename Epilogue>
void attend_block(const Rows& queries, int64_t count, const Linear& keys, const Linear& values, HeadScratch& work,
                  const Bias& bias, const Weigh& weigh, const Epilogue& write) {
  multiply_alone<kind>(keys, queries, count, Write{work.scores.data(), work.stride});
  for (int64_t r = 0; r < count; ++r) {
    float* scores = work.scores.data() + r * work.stride;
    const float inverse =
        exponentiate(scores, keys.out, [&](int64_t t, Mask mask) { return bias(r, t, mask); });
    weigh(r, scores, inverse);
  }
  multiply_alone<kind>(values, work.weights, count, write);
}

}  // namespace
