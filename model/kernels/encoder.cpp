// The source's side of the network in float32, bfloat16 or int8: the encoder, and the keys and values of
// cross-attention, each one call and one thread team. Knows plain arrays, neither Python nor torch.
//
// What a document gives does not depend on the others: every product is summed over its inputs in order, whatever the
// number of rows, and attention reads the document's own keys only. So states are bit for bit those of it alone.

#include <utility>

#include "source.h"
#include "team.h"

namespace {

constexpr int kGroupRows = 384;  // rows that pass through all layers together, in the third-level cache

// Some documents on their way through all layers.
template <Kind kind>
class Encoding {
 public:
  // The documents `starts[0]` to `starts[count]` (rows of `x`).
  Encoding(const Encoder& encoder, const int64_t* starts, int64_t count, float* x, const float* additive_mask,
           const float* bias, int64_t reach, Scratch& work, std::vector<uint32_t>& keys, std::vector<uint32_t>& values)
      : encoder_(encoder), shape_(encoder.shape), starts_(starts), count_(count), x_(x), additive_mask_(additive_mask),
        bias_(bias), reach_(reach), work_(work), keys_(keys), values_(values), key_at_(count + 1, 0),
        value_at_(count + 1, 0) {
    int64_t longest = 0;
    for (int64_t d = 0; d < count; ++d) {
      const int64_t length = starts[d + 1] - starts[d];
      key_at_[d + 1] = key_at_[d] + shape_.num_heads * Head<kInner>::key_units(length, shape_.d_kv);
      value_at_[d + 1] = value_at_[d] + shape_.num_heads * Head<kInner>::value_units(length, shape_.d_kv);
      for (int64_t q = 0; q < length; q += kQueryRows) blocks_.emplace_back(d, q);
      longest = std::max(longest, length);
    }
#pragma omp single
    {
      if (static_cast<int64_t>(keys.size()) < key_at_[count]) keys.resize(key_at_[count]);
      if (static_cast<int64_t>(values.size()) < value_at_[count]) values.resize(value_at_[count]);
    }
    head_scratch.reserve(longest, shape_.d_kv);
  }

  void run() {
    for (int64_t l = 0; l < encoder_.num_layers; ++l) {
      const EncoderLayer& layer = encoder_.layers[l];
      normalise(layer.attention_norm);
      product(layer.qkv, Write{wide_, work_.wide_stride});
      pack_heads();
      attend();
      convert(context_, work_.context_stride, inner_);
      product(layer.out, Add{x_, x_stride_});
      normalise(layer.feed_forward_norm);
      product(layer.wi, Gate{wide_, work_.wide_stride});
      convert(wide_, work_.wide_stride, shape_.d_ff);
      product(layer.wo, Add{x_, x_stride_});
    }
    normalise_states();
  }

 private:
  static constexpr Kind kInner = Format<kind>::kInner;

  void normalise(const float* weight) {
    share(num_rows_, [&](int64_t r) {
      normalise_row<kind>(x_ + r * x_stride_, weight, shape_.epsilon, shape_.d_model, work_.operand, r);
    });
    work_.barrier.wait();
  }

  void convert(const float* from, int64_t stride, int64_t columns) {
    share(num_rows_, [&](int64_t r) { convert_row<kind>(from + r * stride, nullptr, 1.0f, columns, work_.operand, r); });
    work_.barrier.wait();
  }

  template <typename Epilogue>
  void product(const Linear& matrix, const Epilogue& epilogue) {
    multiply<kind>(matrix, work_.operand, num_rows_, epilogue);
    work_.barrier.wait();
  }

  void pack_heads() {
    share(count_ * heads_, [&](int64_t i) {
      const int64_t d = i / heads_, h = i % heads_, length = starts_[d + 1] - starts_[d];
      const float* rows = wide_ + (starts_[d] - starts_[0]) * work_.wide_stride + h * width_;
      pack_keys<kInner>(rows + inner_, work_.wide_stride, length, width_, packed_keys(d, h), head_scratch.row);
      pack_values<kInner>(rows + 2 * inner_, work_.wide_stride, length, width_, packed_values(d, h));
    });
    work_.barrier.wait();
  }

  void attend() {
    share(static_cast<int64_t>(blocks_.size()) * heads_, [&](int64_t i) {
      const auto [d, begin] = blocks_[i / heads_];
      attend_queries(d, i % heads_, begin);
    });
    work_.barrier.wait();
  }

  // Queries from `begin` on of one head on all keys of their document.
  void attend_queries(int64_t d, int64_t h, int64_t begin) {
    HeadScratch& own = head_scratch;
    const int64_t length = starts_[d + 1] - starts_[d], row = starts_[d] - starts_[0] + begin;
    const int64_t count = std::min<int64_t>(kQueryRows, length - begin);
    for (int64_t r = 0; r < count; ++r)
      convert_row<kInner>(wide_ + (row + r) * work_.wide_stride + h * width_, nullptr, 1.0f, width_, own.queries, r);
    const float* offsets = bias_ + h * (2 * reach_ - 1) + reach_ - 1 - begin;  // key minus query
    const float* mask_of_keys = additive_mask_ + row - begin;
    attend_block<kInner>(
        own.queries, count, packed_matrix(packed_keys(d, h), width_, length),
        packed_matrix(packed_values(d, h), length, width_), own,
        [&](int64_t r, int64_t t, Mask mask) {
          return load16(offsets - r + t, mask) + load16(mask_of_keys + t, mask);
        },
        [&](int64_t r, const float* terms, float inverse) {
          own.inverse[r] = inverse;
          convert_row<kInner>(terms, nullptr, 1.0f, length, own.weights, r);
        },
        WriteHead<float>{context_ + row * work_.context_stride + h * width_, work_.context_stride, width_,
                         own.inverse.data()});
  }

  void normalise_states() {
    share(num_rows_, [&](int64_t r) {
      Operand& operand = work_.operand;
      normalise_row<kFloat32>(x_ + r * x_stride_, encoder_.norm, shape_.epsilon, shape_.d_model, operand, r);
      std::memcpy(x_ + r * x_stride_, operand.bytes.data() + r * operand.stride, shape_.d_model * sizeof(float));
    });
    work_.barrier.wait();
  }

  uint32_t* packed_keys(int64_t d, int64_t h) {
    return keys_.data() + key_at_[d] + h * Head<kInner>::key_units(starts_[d + 1] - starts_[d], width_);
  }
  uint32_t* packed_values(int64_t d, int64_t h) {
    return values_.data() + value_at_[d] + h * Head<kInner>::value_units(starts_[d + 1] - starts_[d], width_);
  }

  const Encoder& encoder_;
  const Shape& shape_;
  const int64_t* starts_;
  const int64_t count_;
  float* x_;
  const float *additive_mask_, *bias_;
  const int64_t reach_;
  Scratch& work_;
  std::vector<uint32_t>&keys_, &values_;
  std::vector<int64_t> key_at_, value_at_;           // in units, for all heads of a document
  std::vector<std::pair<int64_t, int64_t>> blocks_;  // document, first query
  const int64_t heads_ = shape_.num_heads, width_ = shape_.d_kv, inner_ = heads_ * width_;
  const int64_t x_stride_ = round_up(shape_.d_model, kColumns), num_rows_ = starts_[count_] - starts_[0];
  float *const wide_ = work_.wide.data(), *const context_ = work_.context.data();
};

// Where the keys and values of some documents are: (L, documents, H), each a `SourceHead` of `room` positions; strides
// of a layer in bytes.
struct Projection {
  uint8_t *keys, *values;
  int64_t key_stride, value_stride, room;
};

template <Kind kind>
void project(const Shape& shape, const Linear* layers, int64_t num_layers, const float* states, int64_t num_rows,
             const int64_t* document, const int64_t* place, const Projection& to, Scratch& work) {
  const int64_t heads = shape.num_heads, width = shape.d_kv, inner = heads * width;
  const int64_t stride = round_up(shape.d_model, kColumns);
  float* wide = work.wide.data();
  share(num_rows, [&](int64_t r) {
    convert_row<kind>(states + r * stride, nullptr, 1.0f, shape.d_model, work.operand, r);
  });
  work.barrier.wait();
  for (int64_t l = 0; l < num_layers; ++l) {
    multiply<kind>(layers[l], work.operand, num_rows, Write{wide, work.wide_stride});
    work.barrier.wait();
    share(heads, [&](int64_t h) {  // positions share cache lines
      for (int64_t r = 0; r < num_rows; ++r) {
        const float* key = wide + r * work.wide_stride + h * width;
        SourceHead<kind>(to.keys + l * to.key_stride, to.values + l * to.value_stride, document[r] * heads + h, to.room,
                         width)
            .store(place[r], key, key + inner);
      }
    });
    work.barrier.wait();
  }
}

thread_local std::vector<uint32_t> packed_keys, packed_values;  // of all heads

}  // namespace

extern "C" {

// Documents of `starts[d]` to `starts[d + 1]` rows each. `x` (rows, d_model up to the next 32) embedded tokens, then
// their states; `additive_mask` (rows,) 0, or -inf for a token that none may see; `bias` (H, 2 · reach - 1) by key minus
// query.
void leximind_encode(const Encoder* encoder, const int64_t* starts, int64_t num_documents, float* x,
                     const float* additive_mask, const float* bias, int64_t reach, int64_t num_threads) {
  const int64_t stride = round_up(encoder->shape.d_model, kColumns);
  Scratch& work = scratch;
  std::vector<uint32_t>&keys = packed_keys, &values = packed_values;
  for (int64_t begin = 0, end; begin < num_documents; begin = end) {
    end = begin + 1;
    while (end < num_documents && starts[end + 1] - starts[begin] <= kGroupRows) ++end;
    work.reserve(encoder->shape, starts[end] - starts[begin]);
    float* rows = x + starts[begin] * stride;
    const float* mask = additive_mask + starts[begin];
#pragma omp parallel num_threads(num_threads)
    with_kind(encoder->shape.kind, [&](auto kind) {
      Encoding<kind()>(*encoder, starts + begin, end - begin, rows, mask, bias, reach, work, keys, values).run();
    });
  }
}

// Cross-attention's keys and values of encoder states `states` (rows, d_model up to the next 32), written to `keys` and
// `values` as in `Cache` at each row's `document` and `place`, `key_stride` and `value_stride` bytes a layer. `layers`
// are key and value matrices.
void leximind_project(const Shape* shape, const Linear* layers, int64_t num_layers, const float* states,
                      int64_t num_rows, const int64_t* document, const int64_t* place, uint8_t* keys, uint8_t* values,
                      int64_t key_stride, int64_t value_stride, int64_t room, int64_t num_threads) {
  const int64_t stride = round_up(shape->d_model, kColumns);
  const Projection to{keys, values, key_stride, value_stride, room};
  Scratch& work = scratch;
  for (int64_t begin = 0; begin < num_rows; begin += kGroupRows) {
    const int64_t rows = std::min<int64_t>(kGroupRows, num_rows - begin);
    work.reserve(*shape, rows);
#pragma omp parallel num_threads(num_threads)
    with_kind(shape->kind, [&](auto kind) {
      project<kind()>(*shape, layers, num_layers, states + begin * stride, rows, document + begin, place + begin, to,
                      work);
    });
  }
}

// For the test that `structs.py` has the same structs.
extern const int64_t leximind_sizeof_Linear = sizeof(Linear);
extern const int64_t leximind_sizeof_EncoderLayer = sizeof(EncoderLayer);
extern const int64_t leximind_sizeof_Encoder = sizeof(Encoder);

}  // extern "C"
