// Rows of activations by packed matrices, in each of the kinds: a row's sums do not depend on the other rows.

#pragma once

#include <omp.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>
#include <vector>

#include "numbers.h"

// A matrix in blocks of 32 outputs, (ceil(out / 32), ceil(in / g), 32, g): g inputs of an output lie together in four
// bytes. `scales` and `sums` (128 times the sum of an output's weights, what an added `kZero` makes) matter in int8 only.
struct Linear {
  const uint8_t* weight;
  const float* scales;
  const int32_t* sums;
  int64_t in, out;
};

namespace {

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
  const Floats factor = splat(scale);
  const auto value = [&](int64_t i) {
    const Mask mask = lane_mask(width - i);
    const Floats v = load16(x + i, mask) * factor;
    return weight ? v * load16(weight + i, mask) : v;
  };
  if constexpr (kind == kFloat32) {
    for (int64_t i = 0; i < width; i += kLanes) store16(reinterpret_cast<float*>(out) + i, value(i));
  } else if constexpr (kind == kBfloat16) {
    for (int64_t i = 0; i < width; i += kLanes)
      store16(reinterpret_cast<uint16_t*>(out) + i, kAllLanes, value(i));
  } else {
    static_assert(kind == kInt8);
    Floats most = splat(1e-12f);
    for (int64_t i = 0; i < width; i += kLanes) most = max(most, abs(value(i)));
    const float step = largest_lane(most) / 127.0f;
    to.scales[row] = step;
    const Floats inverse = splat(1.0f / step);
    for (int64_t i = 0; i < width; i += kLanes) {
      const Ints level = to_ints(value(i) * inverse);
      store_bytes(out + i, level + splat_int(kZero));
    }
  }
}

template <Kind kind>
void normalise_row(const float* x, const float* weight, float epsilon, int64_t width, Operand& to, int64_t row) {
  Floats sum = splat(0.0f);
  for (int64_t i = 0; i < width; i += kLanes) {
    const Floats v = load16(x + i, lane_mask(width - i));
    sum = fma(v, v, sum);
  }
  const float scale = 1.0f / std::sqrt(add_lanes(sum) / static_cast<float>(width) + epsilon);
  convert_row<kind>(x, weight, scale, width, to, row);
}

// Four bytes of weights by four of a row, in one turn by the instruction for it; without one in two, of half of the
// numbers each, made wider: bfloat16 to floats, bytes to 16 bits. Then the rows are made so beforehand (`Widened`).
template <Kind kind>
constexpr int kTurns = (kind == kBfloat16 && !kHasBfloat16) || (kind == kInt8 && !kHasVnni) ? 2 : 1;

// What a turn multiplies of a register of weights.
template <Kind kind, int kTurn>
inline Register part_of(Register weight) {
  if constexpr (kTurns<kind> == 1) return weight;
  else if constexpr (kind == kBfloat16) return kTurn ? upper_bfloat16(weight) : lower_bfloat16(weight);
  else return kTurn ? odd_bytes(weight) : even_bytes(weight);
}

template <Kind kind>
inline void accumulate(Register& sum, Register x, Register weight) {
  if constexpr (kind == kFloat32 || (kind == kBfloat16 && !kHasBfloat16)) add_floats(sum, x, weight);
  else if constexpr (kind == kBfloat16) add_bfloat16(sum, x, weight);
  else if constexpr (kHasVnni) add_bytes(sum, x, weight);
  else add_pairs(sum, x, weight);
}

// Rows as the turns take them: in each four bytes of a group, or twice four. Each thread makes its own, which takes a
// hundredth of the time of the product.
template <Kind kind>
class Widened {
 public:
  Widened(const Rows& x, int64_t first, int64_t count, int64_t width) : rows_(x.bytes + first * x.stride, x.stride) {
    rows_.scales = x.scales ? x.scales + first : nullptr;
    if constexpr (kTurns<kind> > 1) {
      static thread_local std::vector<uint8_t> bytes;
      const int64_t padded = round_up(width, Format<kind>::kGroup * kLanes);
      const int64_t stride = odd_lines(padded / Format<kind>::kGroup * 8);
      if (static_cast<int64_t>(bytes.size()) < count * stride) bytes.resize(count * stride);
      for (int64_t r = 0; r < count; ++r) widen(rows_.bytes + r * x.stride, width, bytes.data() + r * stride);
      rows_.bytes = bytes.data();
      rows_.stride = stride;
    }
  }
  const Rows& rows() const { return rows_; }

 private:
  static void widen(const uint8_t* from, int64_t width, uint8_t* to) {
    for (int64_t i = 0; i < width; i += Format<kind>::kGroup, from += 4, to += 8) {
      uint32_t unit, parts[2];
      std::memcpy(&unit, from, sizeof(unit));
      if constexpr (kind == kBfloat16) parts[0] = unit << 16, parts[1] = unit & 0xffff0000u;
      else parts[0] = unit & 0x00ff00ffu, parts[1] = unit >> 8 & 0x00ff00ffu;
      std::memcpy(to, parts, sizeof(parts));
    }
  }

  Rows rows_;
};

// The sums of kRows rows by two registers of outputs: members, not an array, or the compiler keeps them in memory.
template <Kind kind, int kRows>
struct Sums {
  Sums<kind, kRows - 1> above;
  Register a{}, b{};

  __attribute__((always_inline)) void add(const uint8_t* four, int64_t stride, Register w0, Register w1) {
    above.add(four, stride, w0, w1);
    int32_t unit;
    std::memcpy(&unit, four + (kRows - 1) * stride, 4);
    const Register x = repeat(unit);
    accumulate<kind>(a, x, w0);
    accumulate<kind>(b, x, w1);
  }

  __attribute__((always_inline)) void store(uint8_t* to) const {
    above.store(to);
    store_register(to + (kRows - 1) * 4 * kColumns, a);
    store_register(to + (kRows - 1) * 4 * kColumns + sizeof(Register), b);
  }
};

template <Kind kind>
struct Sums<kind, 0> {
  void add(const uint8_t*, int64_t, Register, Register) {}
  void store(uint8_t*) const {}
};

// All turns of kRows rows by two registers of weights.
template <Kind kind, int kRows, int kTurn = 0>
__attribute__((always_inline)) inline void add_turns(Sums<kind, kRows>& sums, const uint8_t* rows, int64_t stride,
                                                     Register w0, Register w1) {
  sums.add(rows + 4 * kTurn, stride, part_of<kind, kTurn>(w0), part_of<kind, kTurn>(w1));
  if constexpr (kTurn + 1 < kTurns<kind>) add_turns<kind, kRows, kTurn + 1>(sums, rows, stride, w0, w1);
}

constexpr int64_t kPair = 2 * sizeof(Register);  // bytes of weights that `Sums` take at a time

// kRows rows by one weight block, four bytes of weights at a time: `to` (kRows, 32) floats, or int32.
template <Kind kind, int kRows>
void sum_tile(const Linear& linear, int64_t block, const Rows& x, int64_t row, uint8_t* to) {
  constexpr int64_t kGroup = Format<kind>::kGroup, kBytes = 4 * kColumns, kUnit = 4 * kTurns<kind>;
  const int64_t groups = (linear.in + kGroup - 1) / kGroup, stride = x.stride;
  const uint8_t* weights = linear.weight + block * groups * kBytes;
  const uint8_t* first = x.bytes + row * stride;
  if constexpr (kPair < kBytes && kRows <= kWholeRows) {
    Sums<kind, kRows> left, right;
    const uint8_t *weight = weights, *rows = first;
    for (int64_t group = 0; group < groups; ++group, weight += kBytes, rows += kUnit) {
      add_turns(left, rows, stride, load_register(weight), load_register(weight + sizeof(Register)));
      add_turns(right, rows, stride, load_register(weight + kPair), load_register(weight + kPair + sizeof(Register)));
    }
    left.store(to);
    right.store(to + kPair);
  } else {
    for (int64_t part = 0; part < kBytes; part += kPair) {
      Sums<kind, kRows> sums;
      const uint8_t *weight = weights + part, *rows = first;
      for (int64_t group = 0; group < groups; ++group, weight += kBytes, rows += kUnit)
        add_turns(sums, rows, stride, load_register(weight), load_register(weight + sizeof(Register)));
      sums.store(to + part);
    }
  }
}

template <Kind kind, int... kRows>
constexpr auto sums_of(std::integer_sequence<int, kRows...>) {
  using Sum = void (*)(const Linear&, int64_t, const Rows&, int64_t, uint8_t*);
  return std::array<Sum, sizeof...(kRows)>{sum_tile<kind, kRows + 1>...};
}

template <Kind kind>
constexpr auto kSums = sums_of<kind>(std::make_integer_sequence<int, kTileRows>{});  // by the number of rows less one

// The int32 sums of some rows by one block as floats, in place. Not inlined: the compiler would add the products of the
// scales to what they are added to without rounding them before, in some builds and places and in others not.
[[gnu::noinline]] inline void scale_sums(uint8_t* sums, const Linear& linear, int64_t block, const float* scales,
                                         int64_t count) {
  for (int64_t r = 0; r < count; ++r)
    for (int64_t column = 0; column < kColumns; column += kLanes) {
      uint8_t* at = sums + 4 * (r * kColumns + column);
      const int64_t output = block * kColumns + column;
      const Ints shift = kZero ? load_ints(linear.sums + output) : splat_int(0);
      const Floats whole = to_floats(load_ints(at) - shift);
      store16(reinterpret_cast<float*>(at), whole * load16(linear.scales + output) * splat(scales[r]));
    }
}

// By way of a buffer, so that the many forms of `sum_tile` are not compiled anew for every use of the sums.
template <Kind kind, typename Epilogue>
void tile(int64_t count, const Linear& linear, int64_t block, const Rows& x, int64_t row, int64_t first_row,
          const Epilogue& epilogue) {
  alignas(64) uint8_t sums[kTileRows * 4 * kColumns];
  kSums<kind>[count - 1](linear, block, x, row, sums);
  if constexpr (kind == kInt8) scale_sums(sums, linear, block, x.scales + row, count);
  const float* floats = reinterpret_cast<const float*>(sums);
  for (int64_t r = 0; r < count; ++r)
    epilogue(first_row + row + r, block, load16(floats + r * kColumns), load16(floats + r * kColumns + kLanes));
}

// Memory that is read ahead is read while the processor computes, and not before.
inline void prefetch_bytes(const uint8_t* from, int64_t bytes) {
  for (int64_t i = 0; i < bytes; i += 64) prefetch(from + i);
}

// This thread's share of the blocks, for all rows.
template <Kind kind, typename Epilogue>
void multiply(const Linear& linear, const Rows& x, int64_t num_rows, const Epilogue& epilogue) {
  const int64_t blocks = (linear.out + kColumns - 1) / kColumns;
  const int64_t bytes = (linear.in + Format<kind>::kGroup - 1) / Format<kind>::kGroup * 4 * kColumns;  // of a block
  const int64_t threads = omp_get_num_threads(), thread = omp_get_thread_num();
  for (int64_t panel = 0; panel < num_rows; panel += kPanelRows) {
    const int64_t rows = std::min<int64_t>(kPanelRows, num_rows - panel);
    const int64_t height = (rows + kTileRows - 1) / kTileRows;  // equal tiles: 16 rows as 8 and 8
    const Widened<kind> widened(x, panel, rows, linear.in);
    for (int64_t block = blocks * thread / threads; block < blocks * (thread + 1) / threads; ++block) {
      const uint8_t* next = linear.weight + (block + 1) * bytes;
      for (int64_t part = 0; part < height; ++part) {
        const int64_t begin = rows * part / height, end = rows * (part + 1) / height;
        if (num_rows > 1) prefetch_bytes(next + bytes * part / height, bytes / height);
        tile<kind>(end - begin, linear, block, widened.rows(), begin, panel, epilogue);
      }
    }
  }
}

// One block, for few rows.
template <Kind kind, typename Epilogue>
void multiply_block(const Linear& linear, int64_t block, const Rows& x, int64_t num_rows, const Epilogue& epilogue) {
  const int64_t parts = (num_rows + kTileRows - 1) / kTileRows;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t begin = num_rows * part / parts, end = num_rows * (part + 1) / parts;
    tile<kind>(end - begin, linear, block, x, begin, 0, epilogue);
  }
}

// All blocks, for few rows, by this thread alone.
template <Kind kind, typename Epilogue>
void multiply_alone(const Linear& linear, const Rows& x, int64_t num_rows, const Epilogue& epilogue) {
  const Widened<kind> widened(x, 0, num_rows, linear.in);
  for (int64_t block = 0; block < (linear.out + kColumns - 1) / kColumns; ++block)
    multiply_block<kind>(linear, block, widened.rows(), num_rows, epilogue);
}

// What becomes of the sums.
struct Write {
  float* to;
  int64_t stride;
  void operator()(int64_t row, int64_t block, Floats a, Floats b) const {
    float* at = to + row * stride + block * kColumns;
    store16(at, a);
    store16(at + kLanes, b);
  }
};

struct Add {
  float* to;
  int64_t stride;
  void operator()(int64_t row, int64_t block, Floats a, Floats b) const {
    float* at = to + row * stride + block * kColumns;
    store16(at, load16(at) + a);
    store16(at + kLanes, load16(at + kLanes) + b);
  }
};

struct Gate {  // gelu(gate) · value
  float* to;
  int64_t stride;
  void operator()(int64_t row, int64_t block, Floats gate, Floats value) const {
    store16(to + row * stride + block * kLanes, gelu16(gate) * value);
  }
};

}  // namespace
