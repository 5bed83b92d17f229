// Rows of activations by packed matrices, in each of the kinds: a row's sums do not depend on the other rows.

#pragma once

#include <omp.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "numbers.h"

// A matrix in blocks of 32 outputs, (ceil(out / 32), ceil(in / g), 32, g): g inputs of an output lie together in four
// bytes. `scales` and `sums` (128 times the sum of an output's weights) matter in int8 only.
struct Linear {
  const uint8_t* weight;
  const float* scales;
  const int32_t* sums;
  int64_t in, out;
};

namespace {

constexpr int kTileRows = 12;  // 24 of the 32 registers accumulate
constexpr int kZero = 128;  // VNNI multiplies unsigned by signed bytes: activations are shifted up by this
constexpr int kPanelRows = 192;  // rows whose activations stay in the second-level cache beside a weight block

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
  Rows(const void* numbers, int64_t bytes_a_row)
      : bytes(static_cast<const uint8_t*>(numbers)), stride(bytes_a_row), scales(nullptr) {}
};

// One row of `width` floats, zeros up to the next 32, times `weight` and `scale` where there are such.
template <Kind kind>
void convert_row(const float* x, const float* weight, float scale, int64_t width, Operand& to, int64_t row) {
  uint8_t* out = to.bytes.data() + row * to.stride;
  const __m512 factor = _mm512_set1_ps(scale);
  const auto value = [&](int64_t i) {
    const __mmask16 mask = lane_mask(width - i);
    const __m512 v = _mm512_mul_ps(load16(x + i, mask), factor);
    return weight ? _mm512_mul_ps(v, load16(weight + i, mask)) : v;
  };
  if constexpr (kind == kFloat32) {
    for (int64_t i = 0; i < width; i += kLanes) _mm512_storeu_ps(reinterpret_cast<float*>(out) + i, value(i));
  } else if constexpr (kind == kBfloat16) {
    for (int64_t i = 0; i < width; i += kLanes)
      store16(reinterpret_cast<uint16_t*>(out) + i, __mmask16(0xffff), value(i));
  } else {
    static_assert(kind == kInt8);
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
    const __m512 v = load16(x + i, lane_mask(width - i));
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  const float scale = 1.0f / std::sqrt(_mm512_reduce_add_ps(sum) / static_cast<float>(width) + epsilon);
  convert_row<kind>(x, weight, scale, width, to, row);
}

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
  constexpr int64_t kGroup = Format<kind>::kGroup;
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

// All blocks, for few rows, by this thread alone.
template <Kind kind, typename Epilogue>
void multiply_alone(const Linear& linear, const Rows& x, int64_t num_rows, const Epilogue& epilogue) {
  const int64_t parts = (num_rows + kTileRows - 1) / kTileRows;
  for (int64_t block = 0; block < (linear.out + kColumns - 1) / kColumns; ++block)
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t begin = num_rows * part / parts, end = num_rows * (part + 1) / parts;
      tile<kind>(end - begin, linear, block, x, begin, epilogue);
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

}  // namespace
