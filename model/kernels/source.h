// The source's keys and values of one head of a document: how they lie, how they are written and what queries make of
// them. They lie as the matrices that the products take, in float32, bfloat16 and int8.

#pragma once

#include "attention.h"

namespace {

constexpr int kSourceQueries = kQueryRows / 2;  // at a time; in int8 the weights of each are two rows

// The softmax of int8 in 16 bits, the upper halves as one row and the lower ones as the next: in 8 bits, what has less
// than a five-hundredth of the largest weight would have none. Where bytes of activations are signed, in 15 bits: then the
// upper half is rounded, and the lower one is what that leaves, -128 to 127.
constexpr float kWordLevels = kZero ? 65535.0f : 127.0f * 256.0f + 127.0f;
constexpr int kWordRounding = kZero ? 0 : 128;

// `terms` times `scale(t)`, 16 from t on, as the rows 2r and 2r + 1; gives what their products are to be multiplied by.
template <typename Scale>
float convert_words(float* terms, int64_t length, const Scale& scale, Operand& to, int64_t r) {
  Floats most = splat(1e-30f);
  for (int64_t t = 0; t < length; t += kLanes) {
    const Floats weight = load16(terms + t) * scale(t);
    store16(terms + t, weight);
    most = max(most, weight);
  }
  const float largest = largest_lane(most);
  const Floats inverse = splat(kWordLevels / largest);
  uint8_t *upper = to.bytes.data() + 2 * r * to.stride, *lower = upper + to.stride;
  for (int64_t t = 0; t < length; t += kLanes) {
    const Ints level = to_ints(load16(terms + t) * inverse), high = (level + splat_int(kWordRounding)) >> 8;
    store_bytes(upper + t, high);
    store_bytes(lower + t, level - (high << 8));
  }
  return largest / kWordLevels;
}

// Pairs of rows as `convert_words` makes them by one block.
template <typename Epilogue>
void multiply_words(const Linear& linear, const Rows& x, int64_t count, const Epilogue& epilogue) {
  alignas(64) uint8_t sums[kTileRows * 4 * kColumns];
  for (int64_t begin = 0; begin < count; begin += kTileRows / 2) {
    const int64_t pairs = std::min<int64_t>(kTileRows / 2, count - begin);
    kSums<kInt8>[2 * pairs - 1](linear, 0, x, 2 * begin, sums);
    for (int64_t r = 0; r < pairs; ++r) {
      const uint8_t *upper = sums + 2 * r * 4 * kColumns, *lower = upper + 4 * kColumns;
      const auto whole = [&](int64_t column) {
        return fma(to_floats(load_ints(upper + 4 * column)), splat(256.0f), to_floats(load_ints(lower + 4 * column)));
      };
      epilogue(begin + r, 0, whole(0), whole(kLanes));
    }
  }
}

// There is room for `room` positions, in blocks of 32. Keys are blocks of a matrix whose outputs are the positions,
// (room / 32, ceil(K / g), 32, g); in int8 each with the scales and sums of its keys behind, as in `Linear`, and with
// the scales of its values. Values are matrices whose inputs are the positions, one for each 32 numbers of a value,
// (ceil(K / 32), room / g, 32, g). So all that a position has lies within its block: room can be added behind.
template <Kind kind>
class SourceHead {
 public:
  // Number `index` of those that lie one after the other in `keys` and `values`.
  SourceHead(uint8_t* keys, uint8_t* values, int64_t index, int64_t room, int64_t width)
      : room_(room), width_(width), keys_(keys + index * room / kColumns * key_bytes()),
        values_(values + index * ((width + kColumns - 1) / kColumns) * value_bytes()) {}

  void store(int64_t place, const float* key, const float* value) const {
    Number row[kMostNumbers] = {};
    const int64_t column = place % kColumns;
    if constexpr (kind == kInt8) {
      scales(place)[column] = quantise_row(key, width_, row);
      int32_t sum = 0;
      for (int64_t j = 0; j < width_; ++j) sum += row[j];
      reinterpret_cast<int32_t*>(scales(place) + kColumns)[column] = kZero * sum;
    } else {
      store_row(key, width_, row);
    }
    for (int64_t g = 0; g < groups(); ++g)
      std::memcpy(block_of(place) + 4 * (g * kColumns + column), row + g * kGroup, 4);

    if constexpr (kind == kInt8)
      value_scales(place)[column] = quantise_row(value, width_, row);
    else
      store_row(value, width_, row);
    Number* first = reinterpret_cast<Number*>(values_) + place / kGroup * kGroup * kColumns + place % kGroup;
    for (int64_t j = 0; j < width_; ++j) first[j / kColumns * room_ * kColumns + j % kColumns * kGroup] = row[j];
  }

  // Of `count` queries on the first `length` positions; `bias(t, mask)` as in `exponentiate`. `next` heads from here is
  // the one that this thread is to take then.
  template <typename Bias>
  void attend(const float* queries, int64_t stride, int64_t count, int64_t length, const Bias& bias, float* context,
              int64_t context_stride, int64_t next, HeadScratch& work) const {
    for (int64_t begin = 0; begin < count; begin += kSourceQueries)
      attend_some(queries + begin * stride, stride, std::min<int64_t>(kSourceQueries, count - begin), length, bias,
                  context + begin * context_stride, context_stride, next, work);
  }

 private:
  using Number = typename Format<kind>::Source;
  static constexpr int64_t kGroup = Format<kind>::kGroup;
  static constexpr int64_t kMostNumbers = 128;  // of a head, which `library.py` checks
  static_assert(kGroup * sizeof(Number) == 4);

  int64_t groups() const { return (width_ + kGroup - 1) / kGroup; }
  int64_t key_bytes() const { return 4 * kColumns * (groups() + (kind == kInt8 ? 3 : 0)); }  // of a block
  int64_t value_bytes() const { return room_ * kColumns * static_cast<int64_t>(sizeof(Number)); }  // of a matrix

  uint8_t* block_of(int64_t place) const { return keys_ + place / kColumns * key_bytes(); }
  float* scales(int64_t place) const { return reinterpret_cast<float*>(block_of(place) + 4 * kColumns * groups()); }
  float* value_scales(int64_t place) const { return scales(place) + 2 * kColumns; }

  template <typename Bias>
  void attend_some(const float* queries, int64_t stride, int64_t count, int64_t length, const Bias& bias,
                   float* context, int64_t context_stride, int64_t next, HeadScratch& work) const {
    for (int64_t r = 0; r < count; ++r)
      convert_row<kind>(queries + r * stride, nullptr, 1.0f, width_, work.queries, r);
    multiply_keys(count, length, work);
    for (int64_t r = 0; r < count; ++r) {
      float* scores = work.scores.data() + r * work.stride;
      work.inverse[r] = exponentiate(scores, length, bias);
      if constexpr (kind == kInt8)
        work.inverse[r] *= convert_words(
            scores, length, [&](int64_t t) { return load16(value_scales(t) + t % kColumns); }, work.weights, r);
      else
        convert_row<kind>(scores, nullptr, 1.0f, length, work.weights, r);
    }
    const WriteHead<float> write{context, context_stride, width_, work.inverse.data()};
    multiply_values(count, length, write, next, work);
  }

  // The values are read ahead while the scores are computed, then the keys of the next head.
  void prefetch_values(int64_t t) const {
    constexpr int64_t kBytes = kColumns * kColumns * sizeof(Number);
    for (int64_t part = 0; part * kColumns < width_; ++part)
      prefetch_bytes(values_ + part * value_bytes() + t / kColumns * kBytes, kBytes);
  }
  void prefetch_keys(int64_t part, int64_t length, int64_t next) const {
    const int64_t parts = (width_ + kColumns - 1) / kColumns;
    const int64_t bytes = (length + kColumns - 1) / kColumns * key_bytes();
    prefetch_bytes(keys_ + next * room_ / kColumns * key_bytes() + bytes * part / parts, bytes / parts);
  }

  void multiply_keys(int64_t count, int64_t length, HeadScratch& work) const {
    const Widened<kind> widened(work.queries, 0, count, width_);
    for (int64_t t = 0; t < length; t += kColumns) {
      const int32_t* sums = kind == kInt8 ? reinterpret_cast<const int32_t*>(scales(t) + kColumns) : nullptr;
      const Linear keys{block_of(t), kind == kInt8 ? scales(t) : nullptr, sums, width_, kColumns};
      prefetch_values(t);
      multiply_block<kind>(keys, 0, widened.rows(), count, Write{work.scores.data() + t, work.stride});
    }
  }

  template <typename Epilogue>
  void multiply_values(int64_t count, int64_t length, const Epilogue& write, int64_t next, HeadScratch& work) const {
    const Widened<kind> widened(work.weights, 0, kind == kInt8 ? 2 * count : count, length);
    for (int64_t part = 0; part * kColumns < width_; ++part) {
      const Linear values{values_ + part * value_bytes(), nullptr, nullptr, length, kColumns};
      prefetch_keys(part, length, next);
      const auto write_part = [&](int64_t row, int64_t, Floats a, Floats b) { write(row, part, a, b); };
      if constexpr (kind == kInt8)
        multiply_words(values, widened.rows(), count, write_part);
      else
        multiply_block<kind>(values, 0, widened.rows(), count, write_part);
    }
  }

  const int64_t room_, width_;
  uint8_t *const keys_, *const values_;
};

}  // namespace
