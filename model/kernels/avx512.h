// The names of `vectors.h` in AVX-512 (F, BW, DQ, VL), with VNNI and BF16 where the build has them.

#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace {

constexpr int kLanes = 16;

using Floats = __m512;
typedef int32_t Ints __attribute__((vector_size(64)));  // its operators go by lanes, which those of __m512i do not
using Mask = __mmask16;  // the first so many lanes

constexpr Mask kAllLanes = 0xffff, kNoLanes = 0;

inline void relax() { _mm_pause(); }
inline void prefetch(const void* at) { _mm_prefetch(static_cast<const char*>(at), _MM_HINT_T0); }

inline Mask lane_mask(int64_t count) { return count >= kLanes ? kAllLanes : static_cast<Mask>((1u << count) - 1); }

inline Floats splat(float x) { return _mm512_set1_ps(x); }
inline Ints splat_int(int32_t x) { return (Ints)_mm512_set1_epi32(x); }
inline Ints lane_numbers() {
  return (Ints)_mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
}

// --- floats ----------------------------------------------------------------------------------------------------------

// a · b + c, and c - a · b.
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats fnma(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
// Of two operands of which one is no number, these give the second.
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats abs(Floats x) { return _mm512_abs_ps(x); }
inline Floats nearest(Floats x) { return _mm512_roundscale_ps(x, 0); }
inline Floats select(Mask mask, Floats inside, Floats outside) { return _mm512_mask_mov_ps(outside, mask, inside); }
inline float add_lanes(Floats x) { return _mm512_reduce_add_ps(x); }
inline float largest_lane(Floats x) { return _mm512_reduce_max_ps(x); }
inline float first_lane(Floats x) { return _mm512_cvtss_f32(x); }

// p · 2^n for whole n, 0 where x < lowest.
inline Floats scale_unless_below(Floats x, Floats lowest, Floats p, Floats n) {
  return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, lowest, _CMP_NLT_UQ), p, n);
}

inline Floats load16(const float* from) { return _mm512_loadu_ps(from); }
inline Floats load16(const float* from, Mask mask) { return _mm512_maskz_loadu_ps(mask, from); }
inline Floats load16(const uint16_t* from, Mask mask) {  // bfloat16
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from)), 16));
}
inline Floats load16(const int8_t* from, Mask mask) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from)));
}

// Those of `table` at `places`.
inline Floats gather(const float* table, Ints places, Mask mask) {
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, (__m512i)places, table, 4);
}

inline void store16(float* to, Floats x) { _mm512_storeu_ps(to, x); }
inline void store16(float* to, Mask mask, Floats x) { _mm512_mask_storeu_ps(to, mask, x); }

// --- integers --------------------------------------------------------------------------------------------------------

inline Ints min(Ints a, Ints b) { return (Ints)_mm512_min_epi32((__m512i)a, (__m512i)b); }
inline Ints to_ints(Floats x) { return (Ints)_mm512_cvtps_epi32(x); }  // the nearest
inline Floats to_floats(Ints x) { return _mm512_cvtepi32_ps((__m512i)x); }

inline Ints load_ints(const void* from) { return (Ints)_mm512_loadu_si512(from); }
inline void store_ints(void* to, Ints x) { _mm512_storeu_si512(to, (__m512i)x); }
inline Ints load_wide(const uint16_t* from, Mask mask) {  // each in four bytes
  return (Ints)_mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from));
}

// At the nearest number that a byte can have.
inline void store_bytes(int8_t* to, Mask mask, Ints x) {
  _mm_mask_storeu_epi8(to, mask, _mm512_cvtsepi32_epi8((__m512i)x));
}
inline void store_bytes(uint8_t* to, Ints x) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtusepi32_epi8((__m512i)x));
}

// `x` to `to` at `places`.
inline void scatter(uint32_t* to, Mask mask, Ints places, Ints x) {
  _mm512_mask_i32scatter_epi32(to, mask, (__m512i)places, (__m512i)x, 4);
}

// --- bfloat16 --------------------------------------------------------------------------------------------------------

#ifdef __AVX512BF16__
inline Ints bfloat16_bits(Floats x) { return (Ints)_mm512_cvtepu16_epi32((__m256i)_mm512_cvtneps_pbh(x)); }
inline void store16(uint16_t* to, Mask mask, Floats x) {
  _mm256_mask_storeu_epi16(to, mask, (__m256i)_mm512_cvtneps_pbh(x));
}
#else
// To the nearest, ties to even; each in four bytes.
inline Ints bfloat16_bits(Floats x) {
  const __m512i bits = _mm512_castps_si512(x);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const __m512i of_none = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));  // no number stays none
  const Mask is_none = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return (Ints)_mm512_srli_epi32(_mm512_mask_mov_epi32(rounded, is_none, of_none), 16);
}
inline void store16(uint16_t* to, Mask mask, Floats x) {
  _mm512_mask_cvtepi32_storeu_epi16(to, mask, (__m512i)bfloat16_bits(x));
}
#endif

// --- products --------------------------------------------------------------------------------------------------------

// A register of weights, and of sums. The products are written out, since GCC 12 copies and spills every sum in each
// turn when these are intrinsics: a third of the speed.
using Register = __m512i;
constexpr int kTileRows = 12;  // 24 of the 32 registers accumulate
constexpr int kWholeRows = kTileRows;  // so many rows take a whole block of 32 outputs at a time, more half of it
constexpr int kZero = 128;  // added to bytes of activations, which are multiplied unsigned by signed ones

inline Register load_register(const void* from) { return _mm512_loadu_si512(from); }
inline void store_register(void* to, Register x) { _mm512_storeu_si512(to, x); }
inline Register repeat(int32_t unit) { return _mm512_set1_epi32(unit); }

inline void add_floats(Register& sum, Register x, Register weight) {
  asm("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weight));
}

#ifdef __AVX512BF16__
constexpr bool kHasBfloat16 = true;
#else
constexpr bool kHasBfloat16 = false;
#endif
inline void add_bfloat16(Register& sum, Register x, Register weight) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weight));
}
inline Register lower_bfloat16(Register pairs) { return _mm512_slli_epi32(pairs, 16); }
inline Register upper_bfloat16(Register pairs) { return _mm512_and_si512(pairs, _mm512_set1_epi32(~0xffff)); }

#ifdef __AVX512VNNI__
constexpr bool kHasVnni = true;
#else
constexpr bool kHasVnni = false;
#endif
inline void add_bytes(Register& sum, Register x, Register weight) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(x), "v"(weight));
}
inline Register even_bytes(Register bytes) { return _mm512_srai_epi16(_mm512_slli_epi16(bytes, 8), 8); }
inline Register odd_bytes(Register bytes) { return _mm512_srai_epi16(bytes, 8); }
inline void add_pairs(Register& sum, Register x, Register weight) {  // of 16 bits each
  Register products;
  asm("vpmaddwd %3, %2, %1\n\tvpaddd %1, %0, %0" : "+v"(sum), "=&v"(products) : "v"(x), "v"(weight));
}

}  // namespace
