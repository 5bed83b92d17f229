// The names of `vectors.h` in AVX2, FMA and F16C's generation (x86-64-v3), with AVX-VNNI where the build has it: sixteen
// lanes are two registers.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "tails.h"

namespace {

struct Floats {
  __m256 low, high;
};
struct Ints {
  __m256i low, high;
};

inline void relax() { _mm_pause(); }
inline void prefetch(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0); }

inline Floats splat(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
inline Ints splat_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Ints lane_numbers() {
  return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
}

// Lanes of 32 bits: all ones in those of `mask`.
inline __m256i lanes_below(int count, __m256i numbers) { return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), numbers); }

// --- floats ----------------------------------------------------------------------------------------------------------

inline Floats operator+(Floats a, Floats b) { return {a.low + b.low, a.high + b.high}; }
inline Floats operator-(Floats a, Floats b) { return {a.low - b.low, a.high - b.high}; }
inline Floats operator*(Floats a, Floats b) { return {a.low * b.low, a.high * b.high}; }
inline Floats operator/(Floats a, Floats b) { return {a.low / b.low, a.high / b.high}; }

// a · b + c, and c - a · b.
inline Floats fma(Floats a, Floats b, Floats c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats fnma(Floats a, Floats b, Floats c) {
  return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
// Of two operands of which one is no number, these give the second.
inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Floats abs(Floats x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
inline Floats nearest(Floats x) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
  return {_mm256_round_ps(x.low, kNearest), _mm256_round_ps(x.high, kNearest)};
}
inline Floats select(Mask mask, Floats inside, Floats outside) {
  const Ints lane = lane_numbers();
  return {_mm256_blendv_ps(outside.low, inside.low, _mm256_castsi256_ps(lanes_below(mask.lanes, lane.low))),
          _mm256_blendv_ps(outside.high, inside.high, _mm256_castsi256_ps(lanes_below(mask.lanes, lane.high)))};
}
inline float add_lanes(Floats x) {
  const __m256 eight = x.low + x.high;
  const __m128 four = _mm256_castps256_ps128(eight) + _mm256_extractf128_ps(eight, 1);
  const __m128 two = four + _mm_movehl_ps(four, four);
  return two[0] + two[1];
}
inline float largest_lane(Floats x) {
  const __m256 eight = _mm256_max_ps(x.low, x.high);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline float first_lane(Floats x) { return _mm256_cvtss_f32(x.low); }

inline __m256 scale_unless_below(__m256 x, __m256 lowest, __m256 p, __m256 n) {
  const __m256i exponent = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127)), 23);
  return _mm256_and_ps(p * _mm256_castsi256_ps(exponent), _mm256_cmp_ps(x, lowest, _CMP_NLT_UQ));
}
// p · 2^n for whole n of -126 to 127, 0 where x < lowest.
inline Floats scale_unless_below(Floats x, Floats lowest, Floats p, Floats n) {
  return {scale_unless_below(x.low, lowest.low, p.low, n.low), scale_unless_below(x.high, lowest.high, p.high, n.high)};
}

inline Floats load16(const float* from) { return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
inline Floats load16(const float* from, Mask mask) {
  if (is_whole(mask)) return load16(from);
  const Ints lane = lane_numbers();
  return {_mm256_maskload_ps(from, lanes_below(mask.lanes, lane.low)),
          _mm256_maskload_ps(from + 8, lanes_below(mask.lanes, lane.high))};
}

inline Ints load_wide(const uint16_t* from) {
  return {_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))),
          _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + 8)))};
}
inline Ints load_wide(const uint16_t* from, Mask mask) {  // each in four bytes
  if (is_whole(mask)) return load_wide(from);
  uint16_t room[kLanes];
  return load_wide(tail(from, mask, room));
}
inline Floats load16(const uint16_t* from, Mask mask) {  // bfloat16
  const Ints wide = load_wide(from, mask);
  return {_mm256_castsi256_ps(_mm256_slli_epi32(wide.low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(wide.high, 16))};
}

inline Floats load16(const int8_t* from) {
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from)))),
          _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from + 8))))};
}
inline Floats load16(const int8_t* from, Mask mask) {
  if (is_whole(mask)) return load16(from);
  int8_t room[kLanes];
  return load16(tail(from, mask, room));
}

// Those of `table` at `places`.
inline Floats gather(const float* table, Ints places, Mask mask) {
  const Ints lane = lane_numbers();
  const __m256 zero = _mm256_setzero_ps();
  return {_mm256_mask_i32gather_ps(zero, table, places.low, _mm256_castsi256_ps(lanes_below(mask.lanes, lane.low)), 4),
          _mm256_mask_i32gather_ps(zero, table, places.high, _mm256_castsi256_ps(lanes_below(mask.lanes, lane.high)), 4)};
}

inline void store16(float* to, Floats x) {
  _mm256_storeu_ps(to, x.low);
  _mm256_storeu_ps(to + 8, x.high);
}
inline void store16(float* to, Mask mask, Floats x) {
  if (is_whole(mask)) return store16(to, x);
  const Ints lane = lane_numbers();
  _mm256_maskstore_ps(to, lanes_below(mask.lanes, lane.low), x.low);
  _mm256_maskstore_ps(to + 8, lanes_below(mask.lanes, lane.high), x.high);
}

// --- integers --------------------------------------------------------------------------------------------------------

inline Ints operator+(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
inline Ints operator-(Ints a, Ints b) { return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)}; }
inline Ints operator*(Ints a, Ints b) { return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)}; }
inline Ints operator|(Ints a, Ints b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
inline Ints operator>>(Ints x, int bits) { return {_mm256_srai_epi32(x.low, bits), _mm256_srai_epi32(x.high, bits)}; }
inline Ints operator<<(Ints x, int bits) { return {_mm256_slli_epi32(x.low, bits), _mm256_slli_epi32(x.high, bits)}; }

inline Ints min(Ints a, Ints b) { return {_mm256_min_epi32(a.low, b.low), _mm256_min_epi32(a.high, b.high)}; }
inline Ints to_ints(Floats x) { return {_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high)}; }  // the nearest
inline Floats to_floats(Ints x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }

inline Ints load_ints(const void* from) {
  const __m256i* two = static_cast<const __m256i*>(from);
  return {_mm256_loadu_si256(two), _mm256_loadu_si256(two + 1)};
}
inline void store_ints(void* to, Ints x) {
  _mm256_storeu_si256(static_cast<__m256i*>(to), x.low);
  _mm256_storeu_si256(static_cast<__m256i*>(to) + 1, x.high);
}

// Numbers of 16 bits, saturated, in the order of their lanes.
inline __m256i narrowed(Ints x) { return _mm256_permute4x64_epi64(_mm256_packs_epi32(x.low, x.high), 0xd8); }

// At the nearest number that a byte can have.
inline void store_bytes(int8_t* to, Mask mask, Ints x) {
  const __m256i words = narrowed(x);
  const __m128i bytes = _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  if (is_whole(mask)) return _mm_storeu_si128(reinterpret_cast<__m128i*>(to), bytes);
  int8_t room[kLanes];
  _mm_storeu_si128(reinterpret_cast<__m128i*>(room), bytes);
  copy_tail(to, mask, room);
}
inline void store_bytes(uint8_t* to, Ints x) {
  const __m256i words = narrowed(x);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to),
                   _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

// `x` to `to` at `places`.
inline void scatter(uint32_t* to, Mask mask, Ints places, Ints x) {
  int32_t at[kLanes], numbers[kLanes];
  store_ints(at, places);
  store_ints(numbers, x);
#pragma GCC unroll 1
  for (int i = 0; i < mask.lanes; ++i) to[at[i]] = static_cast<uint32_t>(numbers[i]);
}

// --- bfloat16 --------------------------------------------------------------------------------------------------------

inline __m256i bfloat16_bits(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const __m256i of_none = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));  // no number stays none
  const __m256i is_none = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_srli_epi32(_mm256_blendv_epi8(rounded, of_none, is_none), 16);
}
// To the nearest, ties to even; each in four bytes.
inline Ints bfloat16_bits(Floats x) { return {bfloat16_bits(x.low), bfloat16_bits(x.high)}; }

inline void store16(uint16_t* to, Mask mask, Floats x) {
  const Ints bits = bfloat16_bits(x);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits.low, bits.high), 0xd8);
  if (is_whole(mask)) return _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), words);
  uint16_t room[kLanes];
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(room), words);
  copy_tail(to, mask, room);
}

// --- products --------------------------------------------------------------------------------------------------------

// A register of weights, and of sums. The products are written out, as those of AVX-512 are.
using Register = __m256i;
constexpr int kTileRows = 6;  // by half a block of 32 outputs: 12 of the 16 registers accumulate
constexpr int kWholeRows = 3;  // so many rows take a whole block at a time, more half of it
constexpr int kZero = 128;  // added to bytes of activations, which are multiplied unsigned by signed ones

inline Register load_register(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }
inline void store_register(void* to, Register x) { _mm256_storeu_si256(static_cast<__m256i*>(to), x); }
inline Register repeat(int32_t unit) { return _mm256_set1_epi32(unit); }

inline void add_floats(Register& sum, Register x, Register weight) {
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(x), "xm"(weight));
}

constexpr bool kHasBfloat16 = false;
inline void add_bfloat16(Register&, Register, Register) {}
inline Register lower_bfloat16(Register pairs) { return _mm256_slli_epi32(pairs, 16); }
inline Register upper_bfloat16(Register pairs) { return _mm256_and_si256(pairs, _mm256_set1_epi32(~0xffff)); }

#ifdef __AVXVNNI__
constexpr bool kHasVnni = true;
#else
constexpr bool kHasVnni = false;
#endif
inline void add_bytes(Register& sum, Register x, Register weight) {  // the prefix, or it becomes AVX-512's
  asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "xm"(weight));
}
inline Register even_bytes(Register bytes) { return _mm256_srai_epi16(_mm256_slli_epi16(bytes, 8), 8); }
inline Register odd_bytes(Register bytes) { return _mm256_srai_epi16(bytes, 8); }
inline void add_pairs(Register& sum, Register x, Register weight) {  // of 16 bits each
  Register products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+x"(sum), "=&x"(products) : "x"(x), "x"(weight));
}

}  // namespace
