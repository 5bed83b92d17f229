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

constexpr int kQueries = 4;  // that read a key at a time

// Some queries of one head, where their contexts go, and room for the scores of `kQueries` of them.
struct Queries {
  const float* rows;
  int64_t stride, count;
  float* context;
  int64_t context_stride;
  float* scores;
  int64_t scores_stride;
};

// `kCount` queries from the `first` on. `key(t)` and `value(t)` point to rows as `store_row` writes them, `bias(t)` is 16
// scores' worth from key t on. A query's numbers do not depend on how many are taken together.
template <int kChunks, int kCount, typename Number, typename Key, typename Value, typename Bias>
void attend(const Queries& of, int64_t first, int64_t width, int64_t length, const Key& key, const Value& value,
            const Bias& bias) {
  Mask masks[kChunks];
  Floats q[kCount][kChunks], sum[kCount][kChunks], inverse[kCount];
  for (int c = 0; c < kChunks; ++c) {
    masks[c] = lane_mask(width - c * kLanes);
    for (int n = 0; n < kCount; ++n) {
      q[n][c] = load16(of.rows + (first + n) * of.stride + c * kLanes, masks[c]);
      sum[n][c] = splat(0.0f);
    }
  }
  for (int64_t t = 0; t < length; ++t) {
    const Number* k = key(t);
    const float scale = scale_of(k, width);
    Floats dot[kCount];
    for (int c = 0; c < kChunks; ++c) {
      const Floats part = load16(k + c * kLanes, masks[c]);
      for (int n = 0; n < kCount; ++n) dot[n] = c ? fma(q[n][c], part, dot[n]) : q[n][0] * part;
    }
    for (int n = 0; n < kCount; ++n) of.scores[n * of.scores_stride + t] = add_lanes(dot[n]) * scale;
  }
  for (int n = 0; n < kCount; ++n)
    inverse[n] = splat(exponentiate(of.scores + n * of.scores_stride, length, bias));
  for (int64_t t = 0; t < length; ++t) {
    const Number* v = value(t);
    const float scale = scale_of(v, width);
    Floats p[kCount];
    for (int n = 0; n < kCount; ++n) p[n] = splat(of.scores[n * of.scores_stride + t] * scale);
    for (int c = 0; c < kChunks; ++c) {
      const Floats part = load16(v + c * kLanes, masks[c]);
      for (int n = 0; n < kCount; ++n) sum[n][c] = fma(p[n], part, sum[n][c]);
    }
  }
  for (int n = 0; n < kCount; ++n)
    for (int c = 0; c < kChunks; ++c)
      store16(of.context + (first + n) * of.context_stride + c * kLanes, masks[c], sum[n][c] * inverse[n]);
}

template <int kChunks, typename Number, typename Key, typename Value, typename Bias>
void attend_all(const Queries& of, int64_t width, int64_t length, const Key& key, const Value& value, const Bias& bias) {
  int64_t n = 0;
  if constexpr (kChunks <= 4)  // of wider heads the registers hold two
    for (; n + 4 <= of.count; n += 4) attend<kChunks, 4, Number>(of, n, width, length, key, value, bias);
  for (; n + 2 <= of.count; n += 2) attend<kChunks, 2, Number>(of, n, width, length, key, value, bias);
  if (n < of.count) attend<kChunks, 1, Number>(of, n, width, length, key, value, bias);
}

template <typename Number, typename Key, typename Value, typename Bias>
void attend_any(const Queries& of, int64_t width, int64_t length, const Key& key, const Value& value, const Bias& bias) {
  switch ((width + kLanes - 1) / kLanes) {  // at most 128 numbers a head, which `library.py` checks
    case 1: return attend_all<1, Number>(of, width, length, key, value, bias);
    case 2: return attend_all<2, Number>(of, width, length, key, value, bias);
    case 3: return attend_all<3, Number>(of, width, length, key, value, bias);
    case 4: return attend_all<4, Number>(of, width, length, key, value, bias);
    case 5: return attend_all<5, Number>(of, width, length, key, value, bias);
    case 6: return attend_all<6, Number>(of, width, length, key, value, bias);
    case 7: return attend_all<7, Number>(of, width, length, key, value, bias);
    case 8: return attend_all<8, Number>(of, width, length, key, value, bias);
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
