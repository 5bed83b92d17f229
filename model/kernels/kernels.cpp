// The network on a processor with AVX-512, in float32, bfloat16 or int8: the encoder, the keys and values of
// cross-attention, and the decoder's step, each one call and one thread team. Knows plain arrays, neither Python nor
// torch; `library.py` mirrors the structs.
//
// What a row gives does not depend on the other rows: every product is summed over its inputs in order, whatever the
// number of rows, and attention reads a document's own keys only. So states and tokens are bit for bit those of the
// document alone.

#include <sched.h>

#include <atomic>
#include <chrono>
#include <type_traits>
#include <utility>

#include "attention.h"

extern "C" {

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
  const uint8_t *cross_k, *cross_v;  // (L, documents, H, source, K), in int8 with the scale of each K behind
  int64_t cross_stride, source_capacity;
  const float* source_bias;  // (documents, source)
  int64_t bias_stride;
  const int64_t *positions, *source_lengths;  // (rows,), (documents,)
};

}  // extern "C"

namespace {

constexpr int kGroupRows = 384;  // rows that pass through all layers of the encoder together, in the third-level cache

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

// Of cross-attention's keys and values, which make up most of what a step with many rows reads.
template <Kind kind>
using SourceNumber = std::conditional_t<kind == kFloat32, float, std::conditional_t<kind == kBfloat16, uint16_t, int8_t>>;

template <Kind kind>
int64_t source_step(int64_t width) {
  return kind == kInt8 ? width + static_cast<int64_t>(sizeof(float)) : width;
}

template <typename Step>
void mine(int64_t count, const Step& step) {
  for (int64_t i = omp_get_thread_num(); i < count; i += omp_get_num_threads()) step(i);
}

template <Kind kind>
void step(const Decoder& decoder, const Cache* caches, int64_t num_caches, float* x, float* logits, Scratch& work) {
  using Number = std::conditional_t<kind == kFloat32, float, uint16_t>;
  using Source = SourceNumber<kind>;
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
        store_row(row + inner, width, keys + at);
        store_row(row + 2 * inner, width, values + at);
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
      const int64_t step = source_step<kind>(width), room = cache.source_capacity * step;
      mine(cache.num_documents * heads, [&](int64_t i) {
        const int64_t document = i / heads, h = i % heads;
        const Source* keys = reinterpret_cast<const Source*>(cache.cross_k) + l * cache.cross_stride + i * room;
        const Source* values = reinterpret_cast<const Source*>(cache.cross_v) + l * cache.cross_stride + i * room;
        const float* hidden = cache.source_bias + document * cache.bias_stride;
        for (int64_t n = 0; n < cache.num_beams; ++n) {  // beams share the keys, which stay near meanwhile
          const int64_t r = first_row + document * cache.num_beams + n;
          attend_any<Source>(
              wide + r * work.wide_stride + h * width, width, cache.source_lengths[document], scores.data(),
              context + r * work.context_stride + h * width, [&](int64_t t) { return keys + t * step; },
              [&](int64_t t) { return values + t * step; },
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

template <Kind kind>
void project(const Shape& shape, const Linear* layers, int64_t num_layers, const float* states, int64_t num_rows,
             const int64_t* document, const int64_t* place, uint8_t* keys, uint8_t* values, int64_t layer_stride,
             int64_t room, Scratch& work) {
  using Number = SourceNumber<kind>;
  const int64_t heads = shape.num_heads, width = shape.d_kv, inner = heads * width;
  const int64_t stride = round_up(shape.d_model, kColumns), step = source_step<kind>(width);
  float* wide = work.wide.data();
  mine(num_rows, [&](int64_t r) {
    convert_row<kind>(states + r * stride, nullptr, 1.0f, shape.d_model, work.operand, r);
  });
  work.barrier.wait();
  for (int64_t l = 0; l < num_layers; ++l) {
    multiply<kind>(layers[l], work.operand, num_rows, Write{wide, work.wide_stride});
    work.barrier.wait();
    mine(num_rows, [&](int64_t r) {
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t at = l * layer_stride + ((document[r] * heads + h) * room + place[r]) * step;
        const float* from = wide + r * work.wide_stride + h * width;
        store_row(from, width, reinterpret_cast<Number*>(keys) + at);
        store_row(from + inner, width, reinterpret_cast<Number*>(values) + at);
      }
    });
    work.barrier.wait();
  }
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
// `values` (L, documents, H, room, K), as in `Cache`, at each row's `document` and `place`. `layers` are key and value
// matrices.
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
