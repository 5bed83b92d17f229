// A decoder's step in float32, bfloat16 or int8, one call and one thread team. Knows plain arrays, neither Python nor
// torch.
//
// What a row gives does not depend on the other rows: every product is summed over its inputs in order, whatever the
// number of rows, and attention reads a document's own keys only. So tokens are bit for bit those of the document alone.

#include <chrono>

#include "source.h"
#include "team.h"

namespace {

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

// Where the tokens of a cache's row `r` begin among those of the cache: each row has its newest one, and those that are
// proposed to follow it.
int64_t first_token(const Cache& cache, int64_t r) {
  if (!cache.token_ends) return r;
  return r ? cache.token_ends[r - 1] : 0;
}

int64_t count_tokens(const Cache& cache) { return first_token(cache, cache.num_documents * cache.num_beams); }

int64_t count_tokens(const Cache* caches, int64_t num_caches) {
  int64_t tokens = 0;
  for (int64_t c = 0; c < num_caches; ++c) tokens += count_tokens(caches[c]);
  return tokens;
}

// One new token for every row of some caches, and for every token that is proposed.
template <Kind kind>
class Step {
 public:
  // `x` is the residual stream, embedded tokens at first.
  Step(const Decoder& decoder, const Cache* caches, int64_t num_caches, float* x, Scratch& work)
      : decoder_(decoder), shape_(decoder.shape), caches_(caches), num_caches_(num_caches), x_(x), work_(work) {
    int64_t longest = 0;
    for (int64_t c = 0; c < num_caches; ++c)
      longest = std::max({longest, caches[c].target_capacity, caches[c].source_capacity});
    head_scratch.reserve(longest, width_);
  }

  void run(float* logits) {
    for (int64_t l = 0; l < decoder_.num_layers; ++l) {
      const DecoderLayer& layer = decoder_.layers[l];
      normalise(layer.self_norm);
      product(layer.qkv, Write{wide_, work_.wide_stride}, kAttentionMatrices);
      store_keys(l);
      attend_to_target(l);
      convert(context_, work_.context_stride, inner_, kSelfAttention);
      product(layer.self_out, Add{x_, x_stride_}, kAttentionMatrices);

      normalise(layer.cross_norm);
      product(layer.q, Write{wide_, work_.wide_stride}, kAttentionMatrices);
      attend_to_source(l);
      convert(context_, work_.context_stride, inner_, kCrossAttention);
      product(layer.cross_out, Add{x_, x_stride_}, kAttentionMatrices);

      normalise(layer.feed_forward_norm);
      multiply<kind>(layer.wi, work_.operand, num_rows_, Gate{wide_, work_.wide_stride});
      convert(wide_, work_.wide_stride, shape_.d_ff, kFeedForward);
      product(layer.wo, Add{x_, x_stride_}, kFeedForward);
    }
    normalise(decoder_.norm);
    product(decoder_.lm_head, Write{logits, round_up(decoder_.lm_head.out, kColumns)}, kOutputMatrix);
  }

 private:
  using Number = typename Format<kind>::Cached;
  using Source = typename Format<kind>::Source;

  void normalise(const float* weight) {
    share(num_rows_, [&](int64_t r) {
      normalise_row<kind>(x_ + r * x_stride_, weight, shape_.epsilon, shape_.d_model, work_.operand, r);
    });
    work_.barrier.wait();
    clock_.end(kConversions);
  }

  // What all threads have written of `from` as an operand; that work was of the stage `before`.
  void convert(const float* from, int64_t stride, int64_t columns, Stage before) {
    work_.barrier.wait();
    clock_.end(before);
    share(num_rows_, [&](int64_t r) { convert_row<kind>(from + r * stride, nullptr, 1.0f, columns, work_.operand, r); });
    work_.barrier.wait();
    clock_.end(kConversions);
  }

  template <typename Epilogue>
  void product(const Linear& matrix, const Epilogue& epilogue, Stage stage) {
    multiply<kind>(matrix, work_.operand, num_rows_, epilogue);
    work_.barrier.wait();
    clock_.end(stage);
  }

  // `work` with each cache and the number of its first token.
  template <typename Work>
  void for_each_cache(const Work& work) {
    int64_t first = 0;
    for (int64_t c = 0; c < num_caches_; ++c) {
      work(caches_[c], first);
      first += count_tokens(caches_[c]);
    }
  }

  // No barrier follows: a thread attends for the rows and heads that it stored; of other beams it reads the past alone.
  // What is stored of a proposed token that is not kept, the token that comes in its place overwrites.
  void store_keys(int64_t layer) {
    for_each_cache([&](const Cache& cache, int64_t first) {
      const int64_t room = cache.target_capacity * width_;
      Number* keys = reinterpret_cast<Number*>(cache.self_keys) + layer * cache.self_stride;
      Number* values = reinterpret_cast<Number*>(cache.self_values) + layer * cache.self_stride;
      share(cache.num_documents * cache.num_beams * heads_, [&](int64_t i) {
        const int64_t r = i / heads_, h = i % heads_, begin = first_token(cache, r), end = first_token(cache, r + 1);
        for (int64_t n = begin; n < end; ++n) {
          const int64_t at = i * room + (cache.positions[r] + n - begin) * width_;
          const float* row = wide_ + (first + n) * work_.wide_stride + h * width_;
          store_row(row + inner_, width_, keys + at);
          store_row(row + 2 * inner_, width_, values + at);
        }
      });
    });
  }

  void attend_to_target(int64_t layer) {
    for_each_cache([&](const Cache& cache, int64_t first) {
      const int64_t room = cache.target_capacity * width_;
      const Number* keys = reinterpret_cast<const Number*>(cache.self_keys) + layer * cache.self_stride;
      const Number* values = reinterpret_cast<const Number*>(cache.self_values) + layer * cache.self_stride;
      share(cache.num_documents * cache.num_beams * heads_, [&](int64_t i) {
        const int64_t r = i / heads_, h = i % heads_, begin = first_token(cache, r), end = first_token(cache, r + 1);
        const int64_t first_row = r / cache.num_beams * cache.num_beams, past = cache.positions[r];
        const int32_t* lineage = cache.lineage + r * cache.lineage_stride;
        const auto place = [&](int64_t t) {
          const int64_t holder = t >= past ? r : first_row + lineage[t];
          return (holder * heads_ + h) * room + t * width_;
        };
        // Of the head that this thread takes next.
        const int64_t next = (i + omp_get_num_threads()) * room, bytes = past * width_ * sizeof(Number);
        prefetch_bytes(reinterpret_cast<const uint8_t*>(keys + next), bytes);
        prefetch_bytes(reinterpret_cast<const uint8_t*>(values + next), bytes);
        for (int64_t n = begin; n < end; ++n) {
          const int64_t age = past + n - begin;
          attend_any<Number>(
              query(first + n, h), width_, age + 1, [&](int64_t t) { return keys + place(t); },
              [&](int64_t t) { return values + place(t); }, distance_bias(h, age), head_scratch.scores.data(),
              context(first + n, h));
        }
      });
    });
  }

  // The bias of 16 keys from `t` on, at places of the target, on a query at `age`.
  auto distance_bias(int64_t head, int64_t age) const {
    const int64_t last = decoder_.num_distances - 1;
    const float* table = decoder_.bias + head * decoder_.num_distances;
    return [=](int64_t t, Mask mask) {
      const Ints distance = splat_int(static_cast<int>(age - t)) - lane_numbers();
      return gather(table, min(distance, splat_int(static_cast<int>(last))), mask);
    };
  }

  void attend_to_source(int64_t layer) {
    for_each_cache([&](const Cache& cache, int64_t first) {
      uint8_t* keys = cache.cross_keys + layer * cache.cross_key_stride * static_cast<int64_t>(sizeof(Source));
      uint8_t* values = cache.cross_values + layer * cache.cross_value_stride * static_cast<int64_t>(sizeof(Source));
      share(cache.num_documents * heads_, [&](int64_t i) {
        const int64_t document = i / heads_, h = i % heads_;
        const float* additive_mask = cache.additive_mask + document * cache.mask_stride;
        // Beams and proposed tokens share the keys.
        const int64_t begin = first_token(cache, document * cache.num_beams);
        const int64_t count = first_token(cache, (document + 1) * cache.num_beams) - begin;
        SourceHead<kind>(keys, values, i, cache.source_capacity, width_)
            .attend(query(first + begin, h), work_.wide_stride, count, cache.source_ends[document],
                    [&](int64_t t, Mask mask) { return load16(additive_mask + t, mask); }, context(first + begin, h),
                    work_.context_stride, omp_get_num_threads(), head_scratch);
      });
    });
  }

  const float* query(int64_t token, int64_t head) const { return wide_ + token * work_.wide_stride + head * width_; }
  float* context(int64_t token, int64_t head) const {
    return context_ + token * work_.context_stride + head * width_;
  }

  const Decoder& decoder_;
  const Shape& shape_;
  const Cache* caches_;
  const int64_t num_caches_;
  float* x_;
  Scratch& work_;
  StageClock clock_;
  const int64_t heads_ = shape_.num_heads, width_ = shape_.d_kv, inner_ = heads_ * width_;
  const int64_t x_stride_ = round_up(shape_.d_model, kColumns), num_rows_ = count_tokens(caches_, num_caches_);
  float *const wide_ = work_.wide.data(), *const context_ = work_.context.data();
};

}  // namespace

extern "C" {

// `x` (R, d_model up to the next 32) embedded tokens, lost; `logits` (R, vocabulary up to the next 32): R tokens of the
// caches' rows, the proposed ones of a row behind its newest.
void leximind_decoder_step(const Decoder* decoder, const Cache* caches, int64_t num_caches, float* x, float* logits,
                           int64_t num_threads) {
  Scratch& work = scratch;
  work.reserve(decoder->shape, count_tokens(caches, num_caches));
#pragma omp parallel num_threads(num_threads)
  with_kind(decoder->shape.kind,
            [&](auto kind) { Step<kind()>(*decoder, caches, num_caches, x, work).run(logits); });
}

// Nanoseconds of all steps so far by stage; `ns` has room for them.
void leximind_stages(int64_t* ns) { std::copy_n(stage_ns, kStages, ns); }

// What `sources.py` says of the sources that this was compiled from.
uint32_t leximind_sources() { return LEXIMIND_SOURCES; }

// For the test that `structs.py` has the same structs.
extern const int64_t leximind_sizeof_DecoderLayer = sizeof(DecoderLayer);
extern const int64_t leximind_sizeof_Decoder = sizeof(Decoder);
extern const int64_t leximind_sizeof_Cache = sizeof(Cache);

}  // extern "C"
