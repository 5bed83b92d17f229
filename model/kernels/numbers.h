// Sixteen floats at a time: loading, storing, exp and GELU; rows of them in other numbers.

#pragma once

#include <immintrin.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace {

constexpr int kLanes = 16;  // floats in a register
constexpr int kColumns = 32;  // outputs of a weight block: two registers

enum Kind : int64_t { kFloat32 = 0, kBfloat16 = 1, kInt8 = 2 };  // of matrices; `formats.py` has the same

// What goes with matrices of a kind, as in `formats.py`: `kGroup` of their inputs lie side by side, the decoder's own
// keys and values are `Cached`, the source's `Source`; `kInner` are the matrices that the encoder's attention makes.
template <Kind kind>
struct Format;

template <>
struct Format<kFloat32> {
  using Cached = float;
  using Source = float;
  static constexpr int64_t kGroup = 1;
  static constexpr Kind kInner = kFloat32;
};

template <>
struct Format<kBfloat16> {
  using Cached = uint16_t;
  using Source = uint16_t;
  static constexpr int64_t kGroup = 2;
  static constexpr Kind kInner = kBfloat16;
};

template <>
struct Format<kInt8> {
  using Cached = uint16_t;
  using Source = int8_t;
  static constexpr int64_t kGroup = 4;
  static constexpr Kind kInner = kBfloat16;
};

// `work` with a constant that is `kind`; the compiler warns of a kind that is forgotten here.
template <typename Work>
void with_kind(int64_t kind, const Work& work) {
  switch (static_cast<Kind>(kind)) {
    case kFloat32: return work(std::integral_constant<Kind, kFloat32>{});
    case kBfloat16: return work(std::integral_constant<Kind, kBfloat16>{});
    case kInt8: return work(std::integral_constant<Kind, kInt8>{});
  }
}

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Bytes of an odd number of cache lines: rows a power of two apart share one set of the first-level cache, which then
// holds eight of a tile's twelve rows.
inline int64_t odd_lines(int64_t bytes) { return ((bytes + 63) / 64 | 1) * 64; }

// --- numbers ---------------------------------------------------------------------------------------------------------

// exp to about one unit in the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes); 0 below -87.3. What
// is no number stays none: of two operands of which one is none, min gives the second.
inline __m512 exp16(__m512 x) {
  const __mmask16 counts = _mm512_cmp_ps_mask(x, _mm512_set1_ps(-87.3f), _CMP_NLT_UQ);
  x = _mm512_min_ps(_mm512_set1_ps(88.3f), x);
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

// The first `count` of 16 lanes.
inline __mmask16 lane_mask(int64_t count) { return count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1); }

inline __m512 load16(const float* from, __mmask16 mask) { return _mm512_maskz_loadu_ps(mask, from); }

inline __m512 load16(const uint16_t* from, __mmask16 mask) {  // bfloat16
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}

inline __m512 load16(const int8_t* from, __mmask16 mask) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from)));
}

inline void store16(float* to, __mmask16 mask, __m512 x) { _mm512_mask_storeu_ps(to, mask, x); }

inline void store16(uint16_t* to, __mmask16 mask, __m512 x) {
  _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
}

// A row of `width` floats in other numbers; in int8 with what they are to be multiplied by behind them.
template <typename Number>
void store_row(const float* from, int64_t width, Number* to) {
  if constexpr (!std::is_same_v<Number, int8_t>) {
    for (int64_t j = 0; j < width; j += kLanes) store16(to + j, lane_mask(width - j), load16(from + j, lane_mask(width - j)));
  } else {
    __m512 most = _mm512_set1_ps(1e-12f);
    for (int64_t j = 0; j < width; j += kLanes)
      most = _mm512_max_ps(most, _mm512_abs_ps(load16(from + j, lane_mask(width - j))));
    const float scale = _mm512_reduce_max_ps(most) / 127.0f;
    const __m512 inverse = _mm512_set1_ps(1.0f / scale);
    for (int64_t j = 0; j < width; j += kLanes) {
      const __m512 levels = _mm512_mul_ps(load16(from + j, lane_mask(width - j)), inverse);
      _mm_mask_storeu_epi8(to + j, lane_mask(width - j), _mm512_cvtsepi32_epi8(_mm512_cvtps_epi32(levels)));
    }
    std::memcpy(to + width, &scale, sizeof(scale));
  }
}

// What such a row takes.
template <typename Number>
constexpr int64_t row_numbers(int64_t width) {
  return std::is_same_v<Number, int8_t> ? width + static_cast<int64_t>(sizeof(float)) : width;
}

inline float scale_of(const float*, int64_t) { return 1.0f; }
inline float scale_of(const uint16_t*, int64_t) { return 1.0f; }
inline float scale_of(const int8_t* row, int64_t width) {
  float scale;
  std::memcpy(&scale, row + width, sizeof(scale));
  return scale;
}

}  // namespace
