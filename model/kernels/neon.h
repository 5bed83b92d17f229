// The names of `vectors.h` in NEON (ARMv8-A), with dot products of bytes and of bfloat16 where the build has them:
// sixteen lanes are four registers.

#pragma once

#include <arm_neon.h>

#include <cstdint>
#include <cstring>

#include "tails.h"

namespace {

struct Floats {
  float32x4_t a, b, c, d;
};
struct Ints {
  int32x4_t a, b, c, d;
};

inline void relax() { asm volatile("yield"); }
inline void prefetch(const void* at) { __builtin_prefetch(at); }

inline Floats splat(float x) {
  const float32x4_t four = vdupq_n_f32(x);
  return {four, four, four, four};
}
inline Ints splat_int(int32_t x) {
  const int32x4_t four = vdupq_n_s32(x);
  return {four, four, four, four};
}
inline Ints lane_numbers() {
  return {int32x4_t{0, 1, 2, 3}, int32x4_t{4, 5, 6, 7}, int32x4_t{8, 9, 10, 11}, int32x4_t{12, 13, 14, 15}};
}

// `work` on each register of some numbers.
template <typename To, typename Work, typename... Numbers>
__attribute__((always_inline)) inline To each(const Work& work, const Numbers&... x) {
  return {work(x.a...), work(x.b...), work(x.c...), work(x.d...)};
}

// --- floats ----------------------------------------------------------------------------------------------------------

inline Floats operator+(Floats x, Floats y) { return {x.a + y.a, x.b + y.b, x.c + y.c, x.d + y.d}; }
inline Floats operator-(Floats x, Floats y) { return {x.a - y.a, x.b - y.b, x.c - y.c, x.d - y.d}; }
inline Floats operator*(Floats x, Floats y) { return {x.a * y.a, x.b * y.b, x.c * y.c, x.d * y.d}; }
inline Floats operator/(Floats x, Floats y) { return {x.a / y.a, x.b / y.b, x.c / y.c, x.d / y.d}; }

// x · y + z, and z - x · y.
inline Floats fma(Floats x, Floats y, Floats z) {
  return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b), vfmaq_f32(z.c, x.c, y.c), vfmaq_f32(z.d, x.d, y.d)};
}
inline Floats fnma(Floats x, Floats y, Floats z) {
  return {vfmsq_f32(z.a, x.a, y.a), vfmsq_f32(z.b, x.b, y.b), vfmsq_f32(z.c, x.c, y.c), vfmsq_f32(z.d, x.d, y.d)};
}
// Of two operands of which one is no number, these give the second.
inline float32x4_t min(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
inline float32x4_t max(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
inline Floats min(Floats x, Floats y) { return {min(x.a, y.a), min(x.b, y.b), min(x.c, y.c), min(x.d, y.d)}; }
inline Floats max(Floats x, Floats y) { return {max(x.a, y.a), max(x.b, y.b), max(x.c, y.c), max(x.d, y.d)}; }
inline Floats abs(Floats x) { return {vabsq_f32(x.a), vabsq_f32(x.b), vabsq_f32(x.c), vabsq_f32(x.d)}; }
inline Floats nearest(Floats x) { return {vrndnq_f32(x.a), vrndnq_f32(x.b), vrndnq_f32(x.c), vrndnq_f32(x.d)}; }
inline Floats select(Mask mask, Floats inside, Floats outside) {
  const int32x4_t count = vdupq_n_s32(mask.lanes);
  return each<Floats>(
      [&](int32x4_t lane, float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_s32(lane, count), x, y); },
      lane_numbers(), inside, outside);
}
inline float add_lanes(Floats x) {  // in the order of the other builds
  const float32x4_t four = (x.a + x.c) + (x.b + x.d);
  return vpadds_f32(vget_low_f32(four) + vget_high_f32(four));
}
inline float largest_lane(Floats x) { return vmaxvq_f32(max(max(x.a, x.b), max(x.c, x.d))); }
inline float first_lane(Floats x) { return vgetq_lane_f32(x.a, 0); }

// p · 2^n for whole n of -126 to 127, 0 where x < lowest.
inline Floats scale_unless_below(Floats x, Floats lowest, Floats p, Floats n) {
  const auto scale = [](float32x4_t x, float32x4_t lowest, float32x4_t p, float32x4_t n) {
    const int32x4_t exponent = vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23);
    const uint32x4_t product = vreinterpretq_u32_f32(p * vreinterpretq_f32_s32(exponent));
    return vreinterpretq_f32_u32(vbicq_u32(product, vcltq_f32(x, lowest)));
  };
  return each<Floats>(scale, x, lowest, p, n);
}

inline Floats load16(const float* from) {
  return {vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)};
}
inline Floats load16(const float* from, Mask mask) {
  if (is_whole(mask)) return load16(from);
  float room[kLanes];
  return load16(tail(from, mask, room));
}

inline Ints load_wide(const uint16_t* from) {
  const auto wide = [](uint16x4_t x) { return vreinterpretq_s32_u32(vmovl_u16(x)); };
  return {wide(vld1_u16(from)), wide(vld1_u16(from + 4)), wide(vld1_u16(from + 8)), wide(vld1_u16(from + 12))};
}
inline Ints load_wide(const uint16_t* from, Mask mask) {  // each in four bytes
  if (is_whole(mask)) return load_wide(from);
  uint16_t room[kLanes];
  return load_wide(tail(from, mask, room));
}
inline Floats load16(const uint16_t* from, Mask mask) {  // bfloat16
  return each<Floats>([](int32x4_t x) { return vreinterpretq_f32_s32(vshlq_n_s32(x, 16)); }, load_wide(from, mask));
}

inline Floats load16(const int8_t* from) {
  const int8x16_t bytes = vld1q_s8(from);
  const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
  return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
          vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
}
inline Floats load16(const int8_t* from, Mask mask) {
  if (is_whole(mask)) return load16(from);
  int8_t room[kLanes];
  return load16(tail(from, mask, room));
}

inline void store16(float* to, Floats x) {
  vst1q_f32(to, x.a);
  vst1q_f32(to + 4, x.b);
  vst1q_f32(to + 8, x.c);
  vst1q_f32(to + 12, x.d);
}
inline void store16(float* to, Mask mask, Floats x) {
  if (is_whole(mask)) return store16(to, x);
  float room[kLanes];
  store16(room, x);
  copy_tail(to, mask, room);
}

// --- integers --------------------------------------------------------------------------------------------------------

inline Ints operator+(Ints x, Ints y) { return {x.a + y.a, x.b + y.b, x.c + y.c, x.d + y.d}; }
inline Ints operator-(Ints x, Ints y) { return {x.a - y.a, x.b - y.b, x.c - y.c, x.d - y.d}; }
inline Ints operator*(Ints x, Ints y) { return {x.a * y.a, x.b * y.b, x.c * y.c, x.d * y.d}; }
inline Ints operator|(Ints x, Ints y) { return {x.a | y.a, x.b | y.b, x.c | y.c, x.d | y.d}; }
inline Ints operator>>(Ints x, int bits) { return {x.a >> bits, x.b >> bits, x.c >> bits, x.d >> bits}; }
inline Ints operator<<(Ints x, int bits) { return {x.a << bits, x.b << bits, x.c << bits, x.d << bits}; }

inline Ints min(Ints x, Ints y) {
  return {vminq_s32(x.a, y.a), vminq_s32(x.b, y.b), vminq_s32(x.c, y.c), vminq_s32(x.d, y.d)};
}
inline Ints to_ints(Floats x) {  // the nearest
  return {vcvtnq_s32_f32(x.a), vcvtnq_s32_f32(x.b), vcvtnq_s32_f32(x.c), vcvtnq_s32_f32(x.d)};
}
inline Floats to_floats(Ints x) {
  return {vcvtq_f32_s32(x.a), vcvtq_f32_s32(x.b), vcvtq_f32_s32(x.c), vcvtq_f32_s32(x.d)};
}

inline Ints load_ints(const void* from) {
  const int32_t* numbers = static_cast<const int32_t*>(from);
  return {vld1q_s32(numbers), vld1q_s32(numbers + 4), vld1q_s32(numbers + 8), vld1q_s32(numbers + 12)};
}
inline void store_ints(void* to, Ints x) {
  int32_t* numbers = static_cast<int32_t*>(to);
  vst1q_s32(numbers, x.a);
  vst1q_s32(numbers + 4, x.b);
  vst1q_s32(numbers + 8, x.c);
  vst1q_s32(numbers + 12, x.d);
}

// Those of `table` at `places`.
inline Floats gather(const float* table, Ints places, Mask mask) {
  int32_t at[kLanes];
  float numbers[kLanes] = {};
  store_ints(at, places);
  for (int i = 0; i < mask.lanes; ++i) numbers[i] = table[at[i]];
  return load16(numbers);
}

// `x` to `to` at `places`.
inline void scatter(uint32_t* to, Mask mask, Ints places, Ints x) {
  int32_t at[kLanes], numbers[kLanes];
  store_ints(at, places);
  store_ints(numbers, x);
  for (int i = 0; i < mask.lanes; ++i) to[at[i]] = static_cast<uint32_t>(numbers[i]);
}

// At the nearest number that a signed byte can have.
inline int8x16_t narrowed(Ints x) {
  const int16x8_t low = vqmovn_high_s32(vqmovn_s32(x.a), x.b), high = vqmovn_high_s32(vqmovn_s32(x.c), x.d);
  return vqmovn_high_s16(vqmovn_s16(low), high);
}
inline void store_bytes(int8_t* to, Mask mask, Ints x) {
  if (is_whole(mask)) return vst1q_s8(to, narrowed(x));
  int8_t room[kLanes];
  vst1q_s8(room, narrowed(x));
  copy_tail(to, mask, room);
}
inline void store_bytes(uint8_t* to, Ints x) { vst1q_s8(reinterpret_cast<int8_t*>(to), narrowed(x)); }  // see `kZero`

// --- bfloat16 --------------------------------------------------------------------------------------------------------

// To the nearest, ties to even.
inline uint16x4_t bfloat16(float32x4_t x) {
#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
  return vreinterpret_u16_bf16(vcvt_bf16_f32(x));
#else
  const uint32x4_t bits = vreinterpretq_u32_f32(x);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = bits + odd + vdupq_n_u32(0x7fff);
  const uint32x4_t of_none = vorrq_u32(bits, vdupq_n_u32(0x400000));  // no number stays none
  return vshrn_n_u32(vbslq_u32(vceqq_f32(x, x), rounded, of_none), 16);
#endif
}
inline Ints bfloat16_bits(Floats x) {  // each in four bytes
  return each<Ints>([](float32x4_t x) { return vreinterpretq_s32_u32(vmovl_u16(bfloat16(x))); }, x);
}

inline void store16(uint16_t* to, Floats x) {
  vst1q_u16(to, vcombine_u16(bfloat16(x.a), bfloat16(x.b)));
  vst1q_u16(to + 8, vcombine_u16(bfloat16(x.c), bfloat16(x.d)));
}
inline void store16(uint16_t* to, Mask mask, Floats x) {
  if (is_whole(mask)) return store16(to, x);
  uint16_t room[kLanes];
  store16(room, x);
  copy_tail(to, mask, room);
}

// --- products --------------------------------------------------------------------------------------------------------

// Weights, and sums, of eight outputs. The products are written out, as those of AVX-512 are.
struct Register {
  int32x4_t low, high;
};
constexpr int kTileRows = 6;  // by half a block of 32 outputs: 24 of the 32 registers accumulate
constexpr int kWholeRows = 3;  // so many rows take a whole block at a time, more half of it
constexpr int kZero = 0;  // added to bytes of activations: they are signed as those of weights are

inline Register load_register(const void* from) {
  const int32_t* numbers = static_cast<const int32_t*>(from);
  return {vld1q_s32(numbers), vld1q_s32(numbers + 4)};
}
inline void store_register(void* to, Register x) {
  int32_t* numbers = static_cast<int32_t*>(to);
  vst1q_s32(numbers, x.low);
  vst1q_s32(numbers + 4, x.high);
}
inline Register repeat(int32_t unit) { return {vdupq_n_s32(unit), vdupq_n_s32(unit)}; }

inline void add_floats(int32x4_t& sum, int32x4_t x, int32x4_t weight) {
  asm("fmla %0.4s, %1.4s, %2.4s" : "+w"(sum) : "w"(x), "w"(weight));
}
inline void add_floats(Register& sum, Register x, Register weight) {
  add_floats(sum.low, x.low, weight.low);
  add_floats(sum.high, x.high, weight.high);
}

#ifdef __ARM_FEATURE_BF16_VECTOR_ARITHMETIC
constexpr bool kHasBfloat16 = true;
inline void add_bfloat16(int32x4_t& sum, int32x4_t x, int32x4_t weight) {
  asm("bfdot %0.4s, %1.8h, %2.8h" : "+w"(sum) : "w"(x), "w"(weight));
}
inline void add_bfloat16(Register& sum, Register x, Register weight) {
  add_bfloat16(sum.low, x.low, weight.low);
  add_bfloat16(sum.high, x.high, weight.high);
}
#else
constexpr bool kHasBfloat16 = false;
inline void add_bfloat16(Register&, Register, Register) {}
#endif
inline Register lower_bfloat16(Register pairs) { return {vshlq_n_s32(pairs.low, 16), vshlq_n_s32(pairs.high, 16)}; }
inline Register upper_bfloat16(Register pairs) {
  const int32x4_t upper = vdupq_n_s32(~0xffff);
  return {vandq_s32(pairs.low, upper), vandq_s32(pairs.high, upper)};
}

constexpr bool kHasVnni = true;  // four bytes by four at once
inline void add_bytes(int32x4_t& sum, int32x4_t x, int32x4_t weight) {
#ifdef __ARM_FEATURE_DOTPROD
  asm("sdot %0.4s, %1.16b, %2.16b" : "+w"(sum) : "w"(x), "w"(weight));
#else
  int16x8_t low, high;  // a sum of two products, of 127 · 127 at most, has room in 16 bits
  asm("smull %1.8h, %3.8b, %4.8b\n\tsmull2 %2.8h, %3.16b, %4.16b\n\taddp %1.8h, %1.8h, %2.8h\n\tsadalp %0.4s, %1.8h"
      : "+w"(sum), "=&w"(low), "=&w"(high)
      : "w"(x), "w"(weight));
#endif
}
inline void add_bytes(Register& sum, Register x, Register weight) {
  add_bytes(sum.low, x.low, weight.low);
  add_bytes(sum.high, x.high, weight.high);
}
// For processors that multiply two bytes by two only.
inline Register even_bytes(Register bytes) { return bytes; }
inline Register odd_bytes(Register bytes) { return bytes; }
inline void add_pairs(Register&, Register, Register) {}

}  // namespace
