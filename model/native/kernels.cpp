// The network on a processor with AVX-512, in float32, bfloat16 or int8: the encoder, the keys and values of
// cross-attention, and the decoder's step, each one call and one thread team. Knows plain arrays, neither Python nor
// torch; `library.py` mirrors the structs.
//
// What a row gives does not depend on the other rows: every product is summed over its inputs in order, whatever the
// number of rows, and attention reads a document's own keys only. So states and tokens are bit for bit those of the
// document alone.

#include <immintrin.h>
#include <omp.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

namespace {

constexpr int kLanes = 16;      // floats in a register
constexpr int kColumns = 32;    // outputs of a weight block: two registers
constexpr int kTileRows = 12;   // 24 of the 32 registers accumulate
constexpr int kZero = 128;      // VNNI multiplies unsigned by signed bytes: activations are shifted up by this
constexpr int kPanelRows = 192; // rows whose activations stay in the second-level cache beside a weight block
constexpr int kGroupRows = 384; // rows that pass through all layers of the encoder together, in the third-level cache
constexpr int kQueryRows = 48;  // queries of one head that a thread takes at a time

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

// Bytes of an odd number of cache lines: rows a power of two apart share one set of the first-level cache, which then
// holds eight of a tile's twelve rows.
int64_t odd_lines(int64_t bytes) { return ((bytes + 63) / 64 | 1) * 64; }

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
    stride = odd_lines(round_up(width, kColumns) * 4);
    if (static_cast<int64_t>(bytes.size()) < rows * stride) bytes.resize(rows * stride);
    if (static_cast<int64_t>(scales.size()) < rows) scales.resize(rows);
  }
};

// Where a product finds its rows.
struct Rows {
  const uint8_t* bytes;
  int64_t stride;
  const float* scales;
  Rows(const Operand& x) : bytes(x.bytes.data()), stride(x.stride), scales(x.scales.data()) {}
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

// Four bytes of a row by four of each of 16 outputs. Written out, since GCC 12 copies and spills every sum in each turn
// when these are intrinsics: a third of the speed.
template <Kind kind>
inline void accumulate(__m512i& sum, __m512i x, __m512i weight) {
  if constexpr (kind == kInt8) asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weight));
  if constexpr (kind == kBfloat16) asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weight));
  if constexpr (kind == kFloat32) asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weight));
}

// The sums of kRows rows by 32 outputs: members, not an array, or the compiler keeps them in memory.
template <Kind kind, int kRows>
struct Sums {
  Sums<kind, kRows - 1> above;
  __m512i a = _mm512_setzero_si512(), b = _mm512_setzero_si512();

  __attribute__((always_inline)) void add(const uint8_t* four, int64_t stride, __m512i w0, __m512i w1) {
    above.add(four, stride, w0, w1);
    int32_t unit;
    std::memcpy(&unit, four + (kRows - 1) * stride, 4);
    const __m512i x = _mm512_set1_epi32(unit);
    accumulate<kind>(a, x, w0);
    accumulate<kind>(b, x, w1);
  }

  __attribute__((always_inline)) void store(const Linear& linear, int64_t column, const float* scales, float* to) {
    above.store(linear, column, scales, to);
    half(a, linear, column, scales, to + (kRows - 1) * kColumns);
    half(b, linear, column + kLanes, scales, to + (kRows - 1) * kColumns + kLanes);
  }

  static void half(__m512i sum, const Linear& linear, int64_t column, const float* scales, float* to) {
    __m512 out = _mm512_castsi512_ps(sum);
    if constexpr (kind == kInt8) {
      const __m512i shift = _mm512_loadu_si512(linear.sums + column);
      const __m512 whole = _mm512_cvtepi32_ps(_mm512_sub_epi32(sum, shift));
      out = _mm512_mul_ps(_mm512_mul_ps(whole, _mm512_loadu_ps(linear.scales + column)), _mm512_set1_ps(scales[kRows - 1]));
    }
    _mm512_storeu_ps(to, out);
  }
};

template <Kind kind>
struct Sums<kind, 0> {
  void add(const uint8_t*, int64_t, __m512i, __m512i) {}
  void store(const Linear&, int64_t, const float*, float*) {}
};

// kRows rows by one weight block: four bytes of each row and two registers of weights at a time.
template <Kind kind, int kRows>
void sum_tile(const Linear& linear, int64_t block, const Rows& x, int64_t row, float* to) {
  constexpr int64_t kGroup = kind == kFloat32 ? 1 : kind == kBfloat16 ? 2 : 4;
  const int64_t groups = (linear.in + kGroup - 1) / kGroup, stride = x.stride;
  const uint8_t* weight = linear.weight + block * groups * 4 * kColumns;
  const uint8_t* rows = x.bytes + row * stride;
  Sums<kind, kRows> sums;
  for (int64_t group = 0; group < groups; ++group, weight += 128, rows += 4)
    sums.add(rows, stride, _mm512_loadu_si512(weight), _mm512_loadu_si512(weight + 64));
  sums.store(linear, block * kColumns, x.scales + row, to);
}

// By way of a buffer, so that the many forms of `sum_tile` are not compiled anew for every use of the sums.
template <Kind kind, typename Epilogue>
void tile(int64_t count, const Linear& linear, int64_t block, const Rows& x, int64_t row, const Epilogue& epilogue) {
  using Sum = void (*)(const Linear&, int64_t, const Rows&, int64_t, float*);
  static constexpr Sum kSums[] = {sum_tile<kind, 1>, sum_tile<kind, 2>,  sum_tile<kind, 3>,  sum_tile<kind, 4>,
                                  sum_tile<kind, 5>, sum_tile<kind, 6>,  sum_tile<kind, 7>,  sum_tile<kind, 8>,
                                  sum_tile<kind, 9>, sum_tile<kind, 10>, sum_tile<kind, 11>, sum_tile<kind, 12>};
  alignas(64) float sums[kTileRows * kColumns];
  kSums[count - 1](linear, block, x, row, sums);
  for (int64_t r = 0; r < count; ++r)
    epilogue(row + r, block, _mm512_load_ps(sums + r * kColumns), _mm512_load_ps(sums + r * kColumns + kLanes));
}

// This thread's share of the blocks, for all rows.
template <Kind kind, typename Epilogue>
void multiply(const Linear& linear, const Rows& x, int64_t num_rows, const Epilogue& epilogue) {
  const int64_t blocks = (linear.out + kColumns - 1) / kColumns;
  const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
  for (int64_t panel = 0; panel < num_rows; panel += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, num_rows - panel);
    const int64_t height = (rows + kTileRows - 1) / kTileRows;  // equal tiles: 16 rows as 8 and 8
    for (int64_t block = blocks * thread / threads; block < blocks * (thread + 1) / threads; ++block)
      for (int64_t part = 0; part < height; ++part) {
        const int64_t begin = rows * part / height, end = rows * (part + 1) / height;
        tile<kind>(end - begin, linear, block, x, panel + begin, epilogue);
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

// --- attention of whole documents -------------------------------------------------------------------------------------

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
  const auto product = [&](const Linear& linear, const Rows& x, const auto& epilogue) {
    const int64_t parts = (count + kTileRows - 1) / kTileRows;
    for (int64_t block = 0; block < (linear.out + kColumns - 1) / kColumns; ++block)
      for (int64_t part = 0; part < parts; ++part) {
        const int64_t from = count * part / parts, to = count * (part + 1) / parts;
        tile<kind>(to - from, linear, block, x, from, epilogue);
      }
  };
  for (int64_t r = 0; r < count; ++r)
    convert_row<kind>(queries + (begin + r) * stride, nullptr, 1.0f, width, work.queries, r);
  const Linear key_matrix{reinterpret_cast<const uint8_t*>(keys), nullptr, nullptr, width, length};
  product(key_matrix, work.queries, Write{work.scores.data(), work.stride});
  const __m512 nothing = _mm512_set1_ps(-INFINITY);
  for (int64_t r = 0; r < count; ++r) {
    float* scores = work.scores.data() + r * work.stride;
    const float* offsets = bias - (begin + r);
    __m512 most = nothing;
    for (int64_t t = 0; t < length; t += kLanes) {
      const __mmask16 mask = first(length - t);
      const __m512 extra = _mm512_add_ps(load16(offsets + t, mask), load16(hidden + t, mask));
      const __m512 s = _mm512_mask_add_ps(nothing, mask, _mm512_loadu_ps(scores + t), extra);
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
    work.inverse[r] = 1.0f / _mm512_reduce_add_ps(total);
    convert_row<kind>(scores, nullptr, 1.0f, length, work.weights, r);
  }
  const Linear value_matrix{reinterpret_cast<const uint8_t*>(values), nullptr, nullptr, length, width};
  product(value_matrix, work.weights, WriteHead{context + begin * context_stride, context_stride, width, work.inverse.data()});
}

// --- the step --------------------------------------------------------------------------------------------------------

// Where the threads of a team wait for each other, some 170 times a step. OpenMP's own spins for a millisecond before it
// sleeps; on cores that are shared, the thread that all wait for may be the one that cannot run meanwhile.
class Barrier {
 public:
  void wait() {
    const int team = omp_get_num_threads();
    const int round = round_.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == team) {
      arrived_.store(0, std::memory_order_relaxed);
      round_.store(round + 1, std::memory_order_release);
      return;
    }
    for (int turn = 0; round_.load(std::memory_order_acquire) == round; ++turn) {
      if (turn < kSpins)
        _mm_pause();
      else
        sched_yield();
    }
  }

 private:
  static constexpr int kSpins = 2000;  // tens of microseconds: longer than the threads of a step are apart
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<int> round_{0};
};

struct Scratch {
  Barrier barrier;
  Operand operand;
  std::vector<float> wide;     // (R, queries, keys and values), or (R, feed-forward)
  std::vector<float> context;  // (R, H·K)
  std::vector<uint32_t> keys, values;  // of the encoder's heads
  int64_t wide_stride = 0, context_stride = 0;

  void reserve(const Shape& shape, int64_t rows) {
    const int64_t inner = shape.num_heads * shape.d_kv;
    operand.reserve(rows, std::max({shape.d_model, inner, shape.d_ff}));
    wide_stride = odd_lines(round_up(std::max(3 * inner, shape.d_ff), kColumns) * 4) / 4;
    context_stride = odd_lines(round_up(inner, kColumns) * 4) / 4;
    if (static_cast<int64_t>(wide.size()) < rows * wide_stride) wide.resize(rows * wide_stride);
    if (static_cast<int64_t>(context.size()) < rows * context_stride) context.resize(rows * context_stride);
  }
};

thread_local Scratch scratch;

// Where a step's time goes, by the first thread's clock: nanoseconds so far, in the order of `library.py`'s STAGES.
enum Stage { kConversions, kAttentionMatrices, kSelfAttention, kCrossAttention, kFeedForward, kOutputMatrix, kStages };
int64_t stage_ns[kStages];

struct StageClock {
  using Clock = std::chrono::steady_clock;
  Clock::time_point since = Clock::now();
  void end(Stage stage) {
    if (omp_get_thread_num()) return;
    const Clock::time_point now = Clock::now();
    stage_ns[stage] += std::chrono::duration_cast<std::chrono::nanoseconds>(now - since).count();
    since = now;
  }
};

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
  StageClock clock;

  const auto normalise = [&](const float* weight) {
    mine(num_rows, [&](int64_t r) {
      normalise_row<kind>(x + r * x_stride, weight, shape.epsilon, shape.d_model, operand, r);
    });
    work.barrier.wait();
    clock.end(kConversions);
  };
  const auto convert = [&](const float* from, int64_t stride, int64_t columns, Stage before) {
    work.barrier.wait();
    clock.end(before);
    mine(num_rows, [&](int64_t r) { convert_row<kind>(from + r * stride, nullptr, 1.0f, columns, operand, r); });
    work.barrier.wait();
    clock.end(kConversions);
  };

  for (int64_t l = 0; l < decoder.num_layers; ++l) {
    const DecoderLayer& layer = decoder.layers[l];

    normalise(layer.self_norm);
    multiply<kind>(layer.qkv, operand, num_rows, Write{wide, work.wide_stride});
    work.barrier.wait();
    clock.end(kAttentionMatrices);
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
    convert(context, work.context_stride, inner, kSelfAttention);
    multiply<kind>(layer.self_out, operand, num_rows, Add{x, x_stride});
    work.barrier.wait();
    clock.end(kAttentionMatrices);

    normalise(layer.cross_norm);
    multiply<kind>(layer.q, operand, num_rows, Write{wide, work.wide_stride});
    work.barrier.wait();
    clock.end(kAttentionMatrices);
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
    convert(context, work.context_stride, inner, kCrossAttention);
    multiply<kind>(layer.cross_out, operand, num_rows, Add{x, x_stride});
    work.barrier.wait();
    clock.end(kAttentionMatrices);

    normalise(layer.feed_forward_norm);
    multiply<kind>(layer.wi, operand, num_rows, Gate{wide, work.wide_stride});
    convert(wide, work.wide_stride, shape.d_ff, kFeedForward);
    multiply<kind>(layer.wo, operand, num_rows, Add{x, x_stride});
    work.barrier.wait();
    clock.end(kFeedForward);
  }
  normalise(decoder.norm);
  multiply<kind>(decoder.lm_head, operand, num_rows, Write{logits, round_up(decoder.lm_head.out, kColumns)});
    work.barrier.wait();
  clock.end(kOutputMatrix);
}

// The documents `starts[0]` to `starts[count]` (rows), through all layers.
template <Kind kind>
void encode(const Encoder& encoder, const int64_t* starts, int64_t count, float* x, const float* hidden,
            const float* bias, int64_t reach, Scratch& work) {
  constexpr Kind kInner = kind == kFloat32 ? kFloat32 : kBfloat16;  // of attention
  const Shape& shape = encoder.shape;
  const int64_t heads = shape.num_heads, width = shape.d_kv, inner = heads * width;
  const int64_t x_stride = round_up(shape.d_model, kColumns), num_rows = starts[count] - starts[0];
  Operand& operand = work.operand;
  float* wide = work.wide.data();
  float* context = work.context.data();
  HeadScratch& mine_alone = head_scratch;

  std::vector<int64_t> key_at(count + 1, 0), value_at(count + 1, 0);  // in units, for all heads of a document
  std::vector<std::pair<int64_t, int64_t>> parts;                    // document, first query
  int64_t longest = 0;
  for (int64_t d = 0; d < count; ++d) {
    const int64_t length = starts[d + 1] - starts[d];
    key_at[d + 1] = key_at[d] + heads * Head<kInner>::key_units(length, width);
    value_at[d + 1] = value_at[d] + heads * Head<kInner>::value_units(length, width);
    for (int64_t q = 0; q < length; q += kQueryRows) parts.emplace_back(d, q);
    longest = std::max(longest, length);
  }
#pragma omp single
  {
    if (static_cast<int64_t>(work.keys.size()) < key_at[count]) work.keys.resize(key_at[count]);
    if (static_cast<int64_t>(work.values.size()) < value_at[count]) work.values.resize(value_at[count]);
  }
  mine_alone.reserve(longest, width);

  const auto convert = [&](const float* from, int64_t stride, int64_t columns) {
    mine(num_rows, [&](int64_t r) { convert_row<kind>(from + r * stride, nullptr, 1.0f, columns, operand, r); });
    work.barrier.wait();
  };
  const auto normalise = [&](const float* weight) {
    mine(num_rows, [&](int64_t r) {
      normalise_row<kind>(x + r * x_stride, weight, shape.epsilon, shape.d_model, operand, r);
    });
    work.barrier.wait();
  };

  for (int64_t l = 0; l < encoder.num_layers; ++l) {
    const EncoderLayer& layer = encoder.layers[l];
    normalise(layer.attention_norm);
    multiply<kind>(layer.qkv, operand, num_rows, Write{wide, work.wide_stride});
    work.barrier.wait();
    mine(count * heads, [&](int64_t i) {
      const int64_t d = i / heads, h = i % heads, length = starts[d + 1] - starts[d];
      const float* rows = wide + (starts[d] - starts[0]) * work.wide_stride + h * width;
      pack_keys<kInner>(rows + inner, work.wide_stride, length, width,
                        work.keys.data() + key_at[d] + h * Head<kInner>::key_units(length, width), mine_alone.row);
      pack_values<kInner>(rows + 2 * inner, work.wide_stride, length, width,
                          work.values.data() + value_at[d] + h * Head<kInner>::value_units(length, width));
    });
    work.barrier.wait();
    mine(static_cast<int64_t>(parts.size()) * heads, [&](int64_t i) {
      const auto [d, begin] = parts[i / heads];
      const int64_t h = i % heads, length = starts[d + 1] - starts[d], at = starts[d] - starts[0];
      attend_whole<kInner>(wide + at * work.wide_stride + h * width, work.wide_stride, begin,
                           std::min(begin + kQueryRows, length), length, width,
                           work.keys.data() + key_at[d] + h * Head<kInner>::key_units(length, width),
                           work.values.data() + value_at[d] + h * Head<kInner>::value_units(length, width),
                           bias + h * (2 * reach - 1) + reach - 1, hidden + at,
                           context + at * work.context_stride + h * width, work.context_stride, mine_alone);
    });
    work.barrier.wait();
    convert(context, work.context_stride, inner);
    multiply<kind>(layer.out, operand, num_rows, Add{x, x_stride});
    work.barrier.wait();
    normalise(layer.feed_forward_norm);
    multiply<kind>(layer.wi, operand, num_rows, Gate{wide, work.wide_stride});
    work.barrier.wait();
    convert(wide, work.wide_stride, shape.d_ff);
    multiply<kind>(layer.wo, operand, num_rows, Add{x, x_stride});
    work.barrier.wait();
  }
  mine(num_rows, [&](int64_t r) {
    normalise_row<kFloat32>(x + r * x_stride, encoder.norm, shape.epsilon, shape.d_model, operand, r);
    std::memcpy(x + r * x_stride, operand.bytes.data() + r * operand.stride, shape.d_model * sizeof(float));
  });
    work.barrier.wait();
}

// Keys, then values, of one head a half block: (documents, H, room, K) each, by document and place in it.
template <typename Number>
struct WriteSource {
  Number *keys, *values;
  const int64_t *document, *place;  // of each row
  int64_t heads, room, width;
  void operator()(int64_t row, int64_t block, __m512 a, __m512 b) const {
    put(row, block * kColumns, a);
    put(row, block * kColumns + kLanes, b);
  }
  void put(int64_t row, int64_t column, __m512 x) const {
    const int64_t inner = heads * width;
    const auto at = [&](int64_t c) {
      Number* array = c < inner ? keys : values;
      const int64_t within = c < inner ? c : c - inner;
      return array + ((document[row] * heads + within / width) * room + place[row]) * width + within % width;
    };
    if (width % kLanes == 0) {
      if (column < 2 * inner) store16(at(column), __mmask16(0xffff), x);
      return;
    }
    Number numbers[kLanes];
    store16(numbers, __mmask16(0xffff), x);
    for (int64_t i = 0; i < kLanes && column + i < 2 * inner; ++i) *at(column + i) = numbers[i];
  }
};

template <Kind kind>
void project(const Shape& shape, const Linear* layers, int64_t num_layers, const float* states, int64_t num_rows,
             const int64_t* document, const int64_t* place, uint8_t* keys, uint8_t* values, int64_t layer_stride,
             int64_t room, Scratch& work) {
  using Number = std::conditional_t<kind == kFloat32, float, uint16_t>;
  const int64_t stride = round_up(shape.d_model, kColumns);
  mine(num_rows, [&](int64_t r) {
    convert_row<kind>(states + r * stride, nullptr, 1.0f, shape.d_model, work.operand, r);
  });
    work.barrier.wait();
  for (int64_t l = 0; l < num_layers; ++l)
    multiply<kind>(layers[l], work.operand, num_rows,
                   WriteSource<Number>{reinterpret_cast<Number*>(keys) + l * layer_stride,
                                       reinterpret_cast<Number*>(values) + l * layer_stride, document, place,
                                       shape.num_heads, room, shape.d_kv});
}

}  // namespace

extern "C" {

// Documents of `starts[d]` to `starts[d + 1]` rows each. `x` (rows, d_model up to the next 32) embedded tokens, then
// their states; `hidden` (rows,) 0, or -inf for a token that none may see; `bias` (H, 2 · reach - 1) by key minus query.
void leximind_encode(const Encoder* encoder, const int64_t* starts, int64_t num_documents, float* x,
                     const float* hidden, const float* bias, int64_t reach, int64_t num_threads) {
  const int64_t stride = round_up(encoder->shape.d_model, kColumns);
  Scratch& work = scratch;
  for (int64_t begin = 0, end; begin < num_documents; begin = end) {
    end = begin + 1;
    while (end < num_documents && starts[end + 1] - starts[begin] <= kGroupRows) ++end;
    work.reserve(encoder->shape, starts[end] - starts[begin]);
    float* rows = x + starts[begin] * stride;
    const float* mask = hidden + starts[begin];
#pragma omp parallel num_threads(num_threads)
    switch (encoder->shape.kind) {
      case kFloat32: encode<kFloat32>(*encoder, starts + begin, end - begin, rows, mask, bias, reach, work); break;
      case kBfloat16: encode<kBfloat16>(*encoder, starts + begin, end - begin, rows, mask, bias, reach, work); break;
      default: encode<kInt8>(*encoder, starts + begin, end - begin, rows, mask, bias, reach, work);
    }
  }
}

// Cross-attention's keys and values of encoder states `states` (rows, d_model up to the next 32), written to `keys` and
// `values` (L, documents, H, room, K) at each row's `document` and `place`. `layers` are key and value matrices.
void leximind_project(const Shape* shape, const Linear* layers, int64_t num_layers, const float* states,
                      int64_t num_rows, const int64_t* document, const int64_t* place, uint8_t* keys, uint8_t* values,
                      int64_t layer_stride, int64_t room, int64_t num_threads) {
  const int64_t stride = round_up(shape->d_model, kColumns);
  Scratch& work = scratch;
  for (int64_t begin = 0; begin < num_rows; begin += kGroupRows) {
    const int64_t rows = std::min<int64_t>(kGroupRows, num_rows - begin);
    work.reserve(*shape, rows);
    const float* from = states + begin * stride;
    const auto run = [&](const auto& kernel) {
      kernel(*shape, layers, num_layers, from, rows, document + begin, place + begin, keys, values, layer_stride, room,
             work);
    };
#pragma omp parallel num_threads(num_threads)
    switch (shape->kind) {
      case kFloat32: run(project<kFloat32>); break;
      case kBfloat16: run(project<kBfloat16>); break;
      default: run(project<kInt8>);
    }
  }
}

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

// Nanoseconds of all steps so far by stage; `ns` has room for them.
extern "C" void leximind_stages(int64_t* ns) { std::copy_n(stage_ns, kStages, ns); }

// For the test that `library.py` has the same structs.
extern "C" {
extern const int64_t leximind_sizeof_Linear = sizeof(Linear);
extern const int64_t leximind_sizeof_DecoderLayer = sizeof(DecoderLayer);
extern const int64_t leximind_sizeof_Decoder = sizeof(Decoder);
extern const int64_t leximind_sizeof_EncoderLayer = sizeof(EncoderLayer);
extern const int64_t leximind_sizeof_Encoder = sizeof(Encoder);
extern const int64_t leximind_sizeof_Cache = sizeof(Cache);
}
