// The kinds of numbers; exp and GELU of sixteen floats; rows of floats in other numbers.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "vectors.h"

namespace {

constexpr int kColumns = 32;  // outputs of a weight block: twice the lanes

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
inline Floats exp16(Floats x) {
  const Floats bounded = min(splat(88.3f), x);
  const Floats n = nearest(bounded * splat(1.44269504f));
  Floats r = fnma(n, splat(0.693359375f), bounded);
  r = fnma(n, splat(-2.12194440e-4f), r);
  Floats p = splat(1.9875691500e-4f);
  p = fma(p, r, splat(1.3981999507e-3f));
  p = fma(p, r, splat(8.3334519073e-3f));
  p = fma(p, r, splat(4.1665795894e-2f));
  p = fma(p, r, splat(1.6666665459e-1f));
  p = fma(p, r, splat(5.0000001201e-1f));
  p = fma(p, r * r, r + splat(1.0f));
  return scale_unless_below(x, splat(-87.3f), p, n);
}

// The tanh form of GELU: x · sigmoid(2 √(2/π) (x + 0.044715 x³)).
inline Floats gelu16(Floats x) {
  const Floats cube = x * x * x;
  const Floats inner = fma(cube, splat(0.044715f), x);
  const Floats e = exp16(inner * splat(-1.5957691216f));
  return x / (e + splat(1.0f));
}

// A row of `width` floats in other numbers.
template <typename Number>
void store_row(const float* from, int64_t width, Number* to) {
  for (int64_t j = 0; j < width; j += kLanes) store16(to + j, lane_mask(width - j), load16(from + j, lane_mask(width - j)));
}

// The same as levels of a byte; gives what they are to be multiplied by.
inline float quantise_row(const float* from, int64_t width, int8_t* to) {
  Floats most = splat(1e-12f);
  for (int64_t j = 0; j < width; j += kLanes) most = max(most, abs(load16(from + j, lane_mask(width - j))));
  const float scale = largest_lane(most) / 127.0f;
  const Floats inverse = splat(1.0f / scale);
  for (int64_t j = 0; j < width; j += kLanes) {
    const Floats levels = load16(from + j, lane_mask(width - j)) * inverse;
    store_bytes(to + j, lane_mask(width - j), to_ints(levels));
  }
  return scale;
}

}  // namespace
