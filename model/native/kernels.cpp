// The decoder's step on a processor with AVX-512, in float32, bfloat16 or int8: all layers and the output matrix in one
// call, one thread team, no allocation but for the first. Knows plain arrays, neither Python nor torch; `library.py`
// mirrors the structs.
//
// What a row gives does not depend on the other rows: every product is summed over its inputs in order, whatever the
// number of rows, and attention reads a row's own keys only. So tokens are bit for bit those of the row alone.

#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kLanes = 16;      // floats in a register
constexpr int kColumns = 32;    // outputs of a weight block: two registers
constexpr int kTileRows = 12;   // 24 of the 32 registers accumulate
constexpr int kZero = 128;      // VNNI multiplies unsigned by signed bytes: activations are shifted up by this
constexpr int kPanelRows = 192; // rows whose activations stay in the second-level cache beside a weight block

enum Kind : int64_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };

}  // namespace

extern "C" {

// A matrix in blocks of 32 outputs, (ceil(out / 32), ceil(in / g), 32, g): g inputs of an output lie together in four
// bytes. `scales` and `sums` (128 times the sum of an output's weights) matter in int8 only.
struct Linear {
  const uint8_t* weight;
  const float* scales;
  const int32_t* sums;
  int64_t in, out;
};

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
  uint8_t *self_k, *self_v;  // (L, rows, H, target, K), bfloat16 unless the kind is float32
  int64_t self_stride, target_capacity;
  const int32_t* lineage;  // (rows, target): which beam of the document wrote a row's key
  int64_t lineage_stride;
  const uint8_t *cross_k, *cross_v;  // (L, documents, H, source, K)
  int64_t cross_stride, source_capacity;
  const float* source_bias;  // (documents, source)
  int64_t bias_stride;
  const int64_t *positions, *source_lengths;  // (rows,), (documents,)
};

}  // extern "C"

namespace {

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// --- numbers ---------------------------------------------------------------------------------------------------------

// exp to about one unit in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes); 0 below -87.3.
inline __m512 exp16(__m512 x) {
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_GE_OQ);
  x = _mm512_min_ps(x, _mm512_set1_ps(88.3f));
  const __m512 n = _mm512_roundscale_ps(_mm512_mul_ps(x, _mm512_set1_ps(1.44269504f)), 0);
  __m512 r = _mm512_fnmadd_ps(n, _mm512_set1_ps(0.693359375f), x);
  r = _mm512_fnmadd_ps(n, _mm512_set1_ps(-2.12194440e-4f), r);
  __m512 p = _mm512_set1_ps(1.9875691500e-4f);
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.3981999507e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(8.3334519073e-3f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(4.1665795894e-2f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(1.6666665459e-1f));
  p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(5.0000001201e-1f));
  p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), _mm512_add_ps(r, _mm512_set1_ps(1.0f)));
  return _mm512_maskz_scalef_ps(counts, p, n);
}

// The tanh form of GELU: x · sigmoid(2 √(2/π) (x + 0.044715 x³)).
inline __m512 gelu16(__m512 x) {
  const __m512 cube = _mm512_mul_ps(_mm512_mul_ps(x, x), x);
  const __m512 inner = _mm512_fmadd_ps(cube, _mm512_set1_ps(0.044715f), x);
  const __m512 e = exp16(_mm512_mul_ps(inner, _mm512_set1_ps(-1.5957691216f)));
  return _mm512_div_ps(x, _mm512_add_ps(e, _mm512_set1_ps(1.0f)));
}

inline __mmask16 first(int64_t count) { return count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

inline __m512 load16(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }

inline __m512 load16(const uint16_t* from, __mmask16 mask) {  // bfloat16
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}

inline void store16(float* to, __mmask16 mask, __m512 x) { _mm512_mask_storeu_ps(to, mask, x); }

inline void store16(uint16_t* to, __mmask16 mask, __m512 x) {
  _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
}

// --- rows on their way into a matrix ---------------------------------------------------------------------------------

// Rows in the numbers of a kind: `values` with `stride` bytes a row; in int8 one scale a row.
struct Operand {
  std::vector<uint8_t> bytes;
  std::vector<float> scales;
  int64_t stride = 0;

  void reserve(int64_t rows, int64_t width) {
    stride = round_up(width, kColumns) * 4;
    if (static_cast<int64_t>(bytes.size()) < rows * stride) bytes.resize(rows * stride);
    if (static_cast<int64_t>(scales.size()) < rows) scales.resize(rows);
  }
};

// One row of `width` floats, zeros up to the next 32, times `weight` and `scale` where there are such.
template <Kind kind>
void convert_row(const float* x, const float* weight, float scale, int64_t width, Operand& to, int64_t row) {
  uint8_t* out = to.bytes.data() + row * to.stride;
  const __m512 factor = _mm512_set1_ps(scale);
  const auto value = [&](int64_t i) {
    const __mmask16 mask = first(width - i);
    const __m512 v = _mm512_mul_ps(load16(x + i, mask), factor);
    return weight ? _mm512_mul_ps(v, load16(weight + i, mask)) : v;
  };
  if constexpr (kind == kFloat32) {
    for (int64_t i = 0; i < width; i += kLanes) _mm512_storeu_ps(reinterpret_cast<float*>(out) + i, value(i));
  } else if constexpr (kind == kBfloat16) {
    for (int64_t i = 0; i < width; i += kLanes)
      store16(reinterpret_cast<uint16_t*>(out) + i, __mmask16(0xffff), value(i));
  } else {
    __m512 most = _mm512_set1_ps(1e-12f);
    for (int64_t i = 0; i < width; i += kLanes) most = _mm512_max_ps(most, _mm512_abs_ps(value(i)));
    const float step = _mm512_reduce_max_ps(most) / 127.0f;
    to.scales[row] = step;
    const __m512 inverse = _mm512_set1_ps(1.0f / step);
    for (int64_t i = 0; i < width; i += kLanes) {
      const __m512i level = _mm512_cvtps_epi32(_mm512_mul_ps(value(i), inverse));
      const __m512i shifted = _mm512_add_epi32(level, _mm512_set1_epi32(kZero));
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), _mm512_cvtusepi32_epi8(shifted));
    }
  }
}

template <Kind kind>
void normalise_row(const float* x, const float* weight, float epsilon, int64_t width, Operand& to, int64_t row) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < width; i += kLanes) {
    const __m512 v = load16(x + i, first(width - i));
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  const float scale = 1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / static_cast<float>(width) + epsilon);
  convert_row<kind>(x, weight, scale, width, to, row);
}

// --- matrices --------------------------------------------------------------------------------------------------------

// kRows rows by one weight block: four bytes of each row and two registers of weights at a time.
template <Kind kind, int kRows, typename Epilogue>
void tile(const Linear& linear, int64_t block, const Operand& x, int64_t row, const Epilogue& epilogue) {
  constexpr int64_t kGroup = kind == kFloat32 ? 1 : kind == kBfloat16 ? 2 : 4;
  const int64_t groups = (linear.in + kGroup - 1) / kGroup;
  const uint8_t* weight = linear.weight + block * groups * 4 * kColumns;
  const uint8_t* rows = x.bytes.data() + row * x.stride;
  const int64_t stride = x.stride;
  __m512i sums[kRows][2] = {};
  for (int64_t group = 0; group < groups; ++group) {
    const __m512i w0 = _mm512_loadu_si512(weight + group * 128);
    const __m512i w1 = _mm512_loadu_si512(weight + group * 128 + 64);
#pragma GCC unroll 12
    for (int r = 0; r < kRows; ++r) {
      int32_t four;
      std::memcpy(&four, rows + r * stride + group * 4, 4);
      const __m512i a = _mm512_set1_epi32(four);
      if constexpr (kind == kFloat32) {
        const __m512 f = _mm512_castsi512_ps(a);
        sums[r][0] = _mm512_castps_si512(_mm512_fmadd_ps(f, _mm512_castsi512_ps(w0), _mm512_castsi512_ps(sums[r][0])));
        sums[r][1] = _mm512_castps_si512(_mm512_fmadd_ps(f, _mm512_castsi512_ps(w1), _mm512_castsi512_ps(sums[r][1])));
      } else if constexpr (kind == kBfloat16) {
        sums[r][0] = _mm512_castps_si512(
            _mm512_dpbf16_ps(_mm512_castsi512_ps(sums[r][0]), (__m512bh)a, (__m512bh)w0));
        sums[r][1] = _mm512_castps_si512(
            _mm512_dpbf16_ps(_mm512_castsi512_ps(sums[r][1]), (__m512bh)a, (__m512bh)w1));
      } else {
        sums[r][0] = _mm512_dpbusd_epi32(sums[r][0], a, w0);
        sums[r][1] = _mm512_dpbusd_epi32(sums[r][1], a, w1);
      }
    }
  }
  const int64_t column = block * kColumns;
  for (int r = 0; r < kRows; ++r) {
    __m512 out[2];
    for (int half = 0; half < 2; ++half) {
      if constexpr (kind == kInt8) {
        const __m512i shift = _mm512_loadu_si512(linear.sums + column + half * kLanes);
        const __m512 scale = _mm512_loadu_ps(linear.scales + column + half * kLanes);
        const __m512 whole = _mm512_cvtepi32_ps(_mm512_sub_epi32(sums[r][half], shift));
        out[half] = _mm512_mul_ps(_mm512_mul_ps(whole, scale), _mm512_set1_ps(x.scales[row + r]));
      } else {
        out[half] = _mm512_castsi512_ps(sums[r][half]);
      }
    }
    epilogue(row + r, block, out[0], out[1]);
  }
}

template <Kind kind, typename Epilogue>
void tiles(int count, const Linear& linear, int64_t block, const Operand& x, int64_t row, const Epilogue& epilogue) {
  switch (count) {
    case 1: return tile<kind, 1>(linear, block, x, row, epilogue);
    case 2: return tile<kind, 2>(linear, block, x, row, epilogue);
    case 3: return tile<kind, 3>(linear, block, x, row, epilogue);
    case 4: return tile<kind, 4>(linear, block, x, row, epilogue);
    case 5: return tile<kind, 5>(linear, block, x, row, epilogue);
    case 6: return tile<kind, 6>(linear, block, x, row, epilogue);
    case 7: return tile<kind, 7>(linear, block, x, row, epilogue);
    case 8: return tile<kind, 8>(linear, block, x, row, epilogue);
    case 9: return tile<kind, 9>(linear, block, x, row, epilogue);
    case 10: return tile<kind, 10>(linear, block, x, row, epilogue);
    case 11: return tile<kind, 11>(linear, block, x, row, epilogue);
    default: return tile<kind, 12>(linear, block, x, row, epilogue);
  }
}

// This thread's share of the blocks, for all rows.
template <Kind kind, typename Epilogue>
void multiply(const Linear& linear, const Operand& x, int64_t num_rows, const Epilogue& epilogue) {
  const int64_t blocks = (linear.out + kColumns - 1) / kColumns;
  const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
  for (int64_t panel = 0; panel < num_rows; panel += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, num_rows - panel);
    const int64_t height = (rows + kTileRows - 1) / kTileRows;  // equal tiles: 16 rows as 8 and 8
    for (int64_t block = blocks * thread / threads; block < blocks * (thread + 1) / threads; ++block)
      for (int64_t part = 0; part < height; ++part) {
        const int64_t begin = rows * part / height, end = rows * (part + 1) / height;
        tiles<kind>(static_cast<int>(end - begin), linear, block, x, panel + begin, epilogue);
      }
  }
}

// What becomes of the sums.
struct Write {
  float* to;
  int64_t stride;
  void operator()(int64_t row, int64_t block, __m512 a, __m512 b) const {
    float* at = to + row * stride + block * kColumns;
    _mm512_storeu_ps(at, a);
    _mm512_storeu_ps(at + kLanes, b);
  }
};

struct Add {
  float* to;
  int64_t stride;
  void operator()(int64_t row, int64_t block, __m512 a, __m512 b) const {
    float* at = to + row * stride + block * kColumns;
    _mm512_storeu_ps(at, _mm512_add_ps(_mm512_loadu_ps(at), a));
    _mm512_storeu_ps(at + kLanes, _mm512_add_ps(_mm512_loadu_ps(at + kLanes), b));
  }
};

struct Gate {  // gelu(gate) · value
  float* to;
  int64_t stride;
  void operator()(int64_t row, int64_t block, __m512 gate, __m512 value) const {
    _mm512_storeu_ps(to + row * stride + block * kLanes, _mm512_mul_ps(gelu16(gate), value));
  }
};

// --- attention of one query ------------------------------------------------------------------------------------------

// `key(t)` and `value(t)` point to `width` numbers, `bias(t)` is 16 scores' worth from key t on.
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
    scores[t] = _mm512_reduce_add_ps(dot);
  }
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
  for (int64_t t = 0; t < length; ++t) {
    const Number* v = value(t);
    const __m512 p = _mm512_set1_ps(scores[t]);
    for (int c = 0; c < kChunks; ++c) sum[c] = _mm512_fmadd_ps(p, load16(v + c * kLanes, masks[c]), sum[c]);
  }
  const __m512 inverse = _mm512_set1_ps(1.0f / _mm512_reduce_add_ps(total));
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

// --- the step --------------------------------------------------------------------------------------------------------

struct Scratch {
  Operand operand;
  std::vector<float> wide;     // (R, queries, keys and values), or (R, feed-forward)
  std::vector<float> context;  // (R, H·K)
  int64_t wide_stride = 0, context_stride = 0;

  void reserve(const Shape& shape, int64_t rows) {
    const int64_t inner = shape.num_heads * shape.d_kv;
    operand.reserve(rows, std::max({shape.d_model, inner, shape.d_ff}));
    wide_stride = round_up(std::max(3 * inner, shape.d_ff), kColumns);
    context_stride = round_up(inner, kColumns);
    if (static_cast<int64_t>(wide.size()) < rows * wide_stride) wide.resize(rows * wide_stride);
    if (static_cast<int64_t>(context.size()) < rows * context_stride) context.resize(rows * context_stride);
  }
};

thread_local Scratch scratch;

template <typename Step>
void mine(int64_t count, const Step& step) {
  for (int64_t i = omp_get_thread_num(); i < count; i += omp_get_num_threads()) step(i);
}

template <Kind kind>
void step(const Decoder& decoder, const Cache* caches, int64_t num_caches, float* x, float* logits, Scratch& work) {
  using Number = std::conditional_t<kind == kFloat32, float, uint16_t>;
  const Shape& shape = decoder.shape;
  const int64_t heads = shape.num_heads, width = shape.d_kv, inner = heads * width;
  const int64_t x_stride = round_up(shape.d_model, kColumns);
  int64_t num_rows = 0, longest = 0;
  for (int64_t c = 0; c < num_caches; ++c) {
    num_rows += caches[c].num_documents * caches[c].num_beams;
    longest = std::max({longest, caches[c].target_capacity, caches[c].source_capacity});
  }
  std::vector<float> scores(longest + kLanes);
  float* wide = work.wide.data();
  float* context = work.context.data();
  Operand& operand = work.operand;

  const auto normalise = [&](const float* weight) {
    mine(num_rows, [&](int64_t r) {
      normalise_row<kind>(x + r * x_stride, weight, shape.epsilon, shape.d_model, operand, r);
    });
#pragma omp barrier
  };
  const auto convert = [&](const float* from, int64_t stride, int64_t columns) {
#pragma omp barrier
    mine(num_rows, [&](int64_t r) { convert_row<kind>(from + r * stride, nullptr, 1.0f, columns, operand, r); });
#pragma omp barrier
  };

  for (int64_t l = 0; l < decoder.num_layers; ++l) {
    const DecoderLayer& layer = decoder.layers[l];

    normalise(layer.self_norm);
    multiply<kind>(layer.qkv, operand, num_rows, Write{wide, work.wide_stride});
#pragma omp barrier
    int64_t first_row = 0;
    for (int64_t c = 0; c < num_caches; ++c) {
      const Cache& cache = caches[c];
      const int64_t rows = cache.num_documents * cache.num_beams, room = cache.target_capacity * width;
      Number* keys = reinterpret_cast<Number*>(cache.self_k) + l * cache.self_stride;
      Number* values = reinterpret_cast<Number*>(cache.self_v) + l * cache.self_stride;
      mine(rows * heads, [&](int64_t i) {  // a head of a row reads what the same head wrote, but for other beams
        const int64_t r = i / heads, h = i % heads, at = i * room + cache.positions[r] * width;
        const float* row = wide + (first_row + r) * work.wide_stride + h * width;
        for (int64_t j = 0; j < width; j += kLanes) {
          const __mmask16 mask = first(width - j);
          store16(keys + at + j, mask, load16(row + inner + j, mask));
          store16(values + at + j, mask, load16(row + 2 * inner + j, mask));
        }
      });
      first_row += rows;
    }
    first_row = 0;
    for (int64_t c = 0; c < num_caches; ++c) {
      const Cache& cache = caches[c];
      const int64_t rows = cache.num_documents * cache.num_beams, room = cache.target_capacity * width;
      const Number* keys = reinterpret_cast<const Number*>(cache.self_k) + l * cache.self_stride;
      const Number* values = reinterpret_cast<const Number*>(cache.self_v) + l * cache.self_stride;
      mine(rows * heads, [&](int64_t i) {
        const int64_t r = i / heads, h = i % heads, age = cache.positions[r];
        const int64_t family = r / cache.num_beams * cache.num_beams;
        const int32_t* lineage = cache.lineage + r * cache.lineage_stride;
        const auto place = [&](int64_t t) {
          const int64_t holder = t == age ? r : family + lineage[t];
          return (holder * heads + h) * room + t * width;
        };
        const float* table = decoder.bias + h * decoder.num_distances;
        const auto bias = [&](int64_t t, __mmask16 mask) {
          const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
          __m512i distance = _mm512_sub_epi32(_mm512_set1_epi32(static_cast<int>(age - t)), lane);
          distance = _mm512_min_epi32(distance, _mm512_set1_epi32(static_cast<int>(decoder.num_distances - 1)));
          return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, distance, table, 4);
        };
        attend_any<Number>(
            wide + (first_row + r) * work.wide_stride + h * width, width, age + 1, scores.data(),
            context + (first_row + r) * work.context_stride + h * width, [&](int64_t t) { return keys + place(t); },
            [&](int64_t t) { return values + place(t); }, bias);
      });
      first_row += rows;
    }
    convert(context, work.context_stride, inner);
    multiply<kind>(layer.self_out, operand, num_rows, Add{x, x_stride});
#pragma omp barrier

    normalise(layer.cross_norm);
    multiply<kind>(layer.q, operand, num_rows, Write{wide, work.wide_stride});
#pragma omp barrier
    first_row = 0;
    for (int64_t c = 0; c < num_caches; ++c) {
      const Cache& cache = caches[c];
      const int64_t room = cache.source_capacity * width;
      mine(cache.num_documents * heads, [&](int64_t i) {
        const int64_t document = i / heads, h = i % heads;
        const Number* keys = reinterpret_cast<const Number*>(cache.cross_k) + l * cache.cross_stride + i * room;
        const Number* values = reinterpret_cast<const Number*>(cache.cross_v) + l * cache.cross_stride + i * room;
        const float* hidden = cache.source_bias + document * cache.bias_stride;
        for (int64_t n = 0; n < cache.num_beams; ++n) {  // beams share the keys, which stay near meanwhile
          const int64_t r = first_row + document * cache.num_beams + n;
          attend_any<Number>(
              wide + r * work.wide_stride + h * width, width, cache.source_lengths[document], scores.data(),
              context + r * work.context_stride + h * width, [&](int64_t t) { return keys + t * width; },
              [&](int64_t t) { return values + t * width; },
              [&](int64_t t, __mmask16 mask) { return load16(hidden + t, mask); });
        }
      });
      first_row += cache.num_documents * cache.num_beams;
    }
    convert(context, work.context_stride, inner);
    multiply<kind>(layer.cross_out, operand, num_rows, Add{x, x_stride});
#pragma omp barrier

    normalise(layer.feed_forward_norm);
    multiply<kind>(layer.wi, operand, num_rows, Gate{wide, work.wide_stride});
    convert(wide, work.wide_stride, shape.d_ff);
    multiply<kind>(layer.wo, operand, num_rows, Add{x, x_stride});
#pragma omp barrier
  }
  normalise(decoder.norm);
  multiply<kind>(decoder.lm_head, operand, num_rows, Write{logits, round_up(decoder.lm_head.out, kColumns)});
}

}  // namespace

extern "C" {

// `x` (R, d_model up to the next 32) embedded tokens, lost; `logits` (R, vocabulary up to the next 32).
void leximind_decoder_step(const Decoder* decoder, const Cache* caches, int64_t num_caches, float* x, float* logits,
                           int64_t num_threads) {
  int64_t num_rows = 0;
  for (int64_t c = 0; c < num_caches; ++c) num_rows += caches[c].num_documents * caches[c].num_beams;
  Scratch& work = scratch;
  work.reserve(decoder->shape, num_rows);
#pragma omp parallel num_threads(num_threads)
  switch (decoder->shape.kind) {
    case kFloat32: step<kFloat32>(*decoder, caches, num_caches, x, logits, work); break;
    case kBfloat16: step<kBfloat16>(*decoder, caches, num_caches, x, logits, work); break;
    default: step<kInt8>(*decoder, caches, num_caches, x, logits, work);
  }
}

}  // extern "C"

// For the test that `library.py` has the same structs.
extern "C" {
extern const int64_t leximind_sizeof_Linear = sizeof(Linear);
extern const int64_t leximind_sizeof_DecoderLayer = sizeof(DecoderLayer);
extern const int64_t leximind_sizeof_Decoder = sizeof(Decoder);
extern const int64_t leximind_sizeof_Cache = sizeof(Cache);
}
