// softmax(q kᵀ + bias) v: of one query on keys wherever they are, and of the queries of a whole document.

#pragma once

#include "matrices.h"

namespace {

constexpr int kQueryRows = 48;  // queries of one head that a thread takes at a time

// Scores of one query, to the next 16 of `length`, become exp(score + bias - most), 0 past the end; gives 1 / their sum.
// `bias(t, mask)` is that of 16 keys from t on.
template <typename Bias>
float soften(float* scores, int64_t length, const Bias& bias) {
  const __m512 nothing = _mm512_set1_ps(-INFINITY);
  __m512 most = nothing;
  for (int64_t t = 0; t < length; t += kLanes) {
    const __mmask16 mask = first(length - t);
    const __m512 s = _mm512_mask_add_ps(nothing, mask, _mm512_loadu_ps(scores + t), bias(t, mask));
    _mm512_storeu_ps(scores + t, s);
    most = _mm512_max_ps(most, s);
  }
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(most));
  __m512 total = _mm512_setzero_ps();
  for (int64_t t = 0; t < length; t += kLanes) {
    const __m512 e = exp16(_mm512_sub_ps(_mm512_loadu_ps(scores + t), top));
    _mm512_storeu_ps(scores + t, e);
    total = _mm512_add_ps(total, e);
  }
  return 1.0f / _mm512_reduce_add_ps(total);
}

// `key(t)` and `value(t)` point to rows as `store_row` writes them, `bias(t)` is 16 scores' worth from key t on.
template <int kChunks, typename Number, typename Key, typename Value, typename Bias>
void attend(const float* query, int64_t width, int64_t length, float* scores, float* context, const Key& key,
            const Value& value, const Bias& bias) {
  __mmask16 masks[kChunks];
  __m512 q[kChunks], sum[kChunks];
  for (int c = 0; c < kChunks; ++c) {
    masks[c] = first(width - c * kLanes);
    q[c] = load16(query + c * kLanes, masks[c]);
    sum[c] = _mm512_setzero_ps();
  }
  for (int64_t t = 0; t < length; ++t) {
    const Number* k = key(t);
    __m512 dot = _mm512_mul_ps(q[0], load16(k, masks[0]));
    for (int c = 1; c < kChunks; ++c) dot = _mm512_fmadd_ps(q[c], load16(k + c * kLanes, masks[c]), dot);
    scores[t] = _mm512_reduce_add_ps(dot) * scale_of(k, width);
  }
  const __m512 inverse = _mm512_set1_ps(soften(scores, length, bias));
  for (int64_t t = 0; t < length; ++t) {
    const Number* v = value(t);
    const __m512 p = _mm512_set1_ps(scores[t] * scale_of(v, width));
    for (int c = 0; c < kChunks; ++c) sum[c] = _mm512_fmadd_ps(p, load16(v + c * kLanes, masks[c]), sum[c]);
  }
  for (int c = 0; c < kChunks; ++c) _mm512_mask_storeu_ps(context + c * kLanes, masks[c], _mm512_mul_ps(sum[c], inverse));
}

template <typename Number, typename Key, typename Value, typename Bias>
void attend_any(const float* query, int64_t width, int64_t length, float* scores, float* context, const Key& key,
                const Value& value, const Bias& bias) {
  switch ((width + kLanes - 1) / kLanes) {  // at most 128 numbers a head, which `library.py` checks
    case 1: return attend<1, Number>(query, width, length, scores, context, key, value, bias);
    case 2: return attend<2, Number>(query, width, length, scores, context, key, value, bias);
    case 3: return attend<3, Number>(query, width, length, scores, context, key, value, bias);
    case 4: return attend<4, Number>(query, width, length, scores, context, key, value, bias);
    case 5: return attend<5, Number>(query, width, length, scores, context, key, value, bias);
    case 6: return attend<6, Number>(query, width, length, scores, context, key, value, bias);
    case 7: return attend<7, Number>(query, width, length, scores, context, key, value, bias);
    default: return attend<8, Number>(query, width, length, scores, context, key, value, bias);
  }
}

// A head's keys or values of one document as a matrix: keys have the positions as outputs, values as inputs. Both are
// written by units of four bytes, one float or two bfloat16.
template <Kind kind>
struct Head {
  static constexpr int64_t kGroup = kind == kFloat32 ? 1 : 2;
  static int64_t key_units(int64_t length, int64_t width) {
    return round_up(length, kColumns) * ((width + kGroup - 1) / kGroup);
  }
  static int64_t value_units(int64_t length, int64_t width) {
    return round_up(width, kColumns) * ((length + kGroup - 1) / kGroup);
  }
};

template <Kind kind>
void pack_keys(const float* from, int64_t stride, int64_t length, int64_t width, uint32_t* to, Operand& row) {
  const int64_t groups = (width + Head<kind>::kGroup - 1) / Head<kind>::kGroup;
  const uint32_t* units = reinterpret_cast<const uint32_t*>(row.bytes.data());
  for (int64_t s = 0; s < round_up(length, kColumns); ++s) {
    uint32_t* column = to + s / kColumns * groups * kColumns + s % kColumns;
    if (s < length) convert_row<kind>(from + s * stride, nullptr, 1.0f, width, row, 0);
    for (int64_t g = 0; g < groups; ++g) column[g * kColumns] = s < length ? units[g] : 0;
  }
}

template <Kind kind>
void pack_values(const float* from, int64_t stride, int64_t length, int64_t width, uint32_t* to) {
  const int64_t groups = (length + Head<kind>::kGroup - 1) / Head<kind>::kGroup;
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t j = 0; j < round_up(width, kColumns); j += kLanes) {
      const __mmask16 mask = first(width - j > 0 ? width - j : 0);
      uint32_t* unit = to + (j / kColumns * groups + g) * kColumns + j % kColumns;
      const float* at = from + g * Head<kind>::kGroup * stride + j;
      if constexpr (kind == kFloat32) {
        _mm512_storeu_si512(unit, _mm512_castps_si512(load16(at, mask)));
      } else {
        const __mmask16 next = g * 2 + 1 < length ? mask : __mmask16(0);
        const auto half = [](__m512 x) { return _mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)); };
        const __m512i low = half(load16(at, mask)), high = half(load16(at + (next ? stride : 0), next));
        _mm512_storeu_si512(unit, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
    }
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

struct WriteHead {  // some columns of the context, each row times its factor
  float* to;
  int64_t stride, width;
  const float* factors;
  void operator()(int64_t row, int64_t block, __m512 a, __m512 b) const {
    const __m512 factor = _mm512_set1_ps(factors[row]);
    const int64_t column = block * kColumns;
    float* at = to + row * stride + column;
    _mm512_mask_storeu_ps(at, first(std::max<int64_t>(width - column, 0)), _mm512_mul_ps(a, factor));
    _mm512_mask_storeu_ps(at + kLanes, first(std::max<int64_t>(width - column - kLanes, 0)), _mm512_mul_ps(b, factor));
  }
};

// Queries `begin` to `end` of one head on all keys of their document. `bias` is this head's at offset 0 (key minus
// query), `hidden` 0 or -inf a key.
template <Kind kind>
void attend_whole(const float* queries, int64_t stride, int64_t begin, int64_t end, int64_t length, int64_t width,
                  const uint32_t* keys, const uint32_t* values, const float* bias, const float* hidden, float* context,
                  int64_t context_stride, HeadScratch& work) {
  const int64_t count = end - begin;
  for (int64_t r = 0; r < count; ++r)
    convert_row<kind>(queries + (begin + r) * stride, nullptr, 1.0f, width, work.queries, r);
  const Linear key_matrix{reinterpret_cast<const uint8_t*>(keys), nullptr, nullptr, width, length};
  multiply_alone<kind>(key_matrix, work.queries, count, Write{work.scores.data(), work.stride});
  for (int64_t r = 0; r < count; ++r) {
    float* scores = work.scores.data() + r * work.stride;
    const float* offsets = bias - (begin + r);
    work.inverse[r] = soften(scores, length, [&](int64_t t, __mmask16 mask) {
      return _mm512_add_ps(load16(offsets + t, mask), load16(hidden + t, mask));
    });
    convert_row<kind>(scores, nullptr, 1.0f, length, work.weights, r);
  }
  const Linear value_matrix{reinterpret_cast<const uint8_t*>(values), nullptr, nullptr, length, width};
  multiply_alone<kind>(value_matrix, work.weights, count,
                       WriteHead{context + begin * context_stride, context_stride, width, work.inverse.data()});
}

}  // namespace
