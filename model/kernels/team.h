// What the threads of one call share: where they wait for each other, their parts of the work, their scratch memory.

#pragma once

#include <sched.h>

#include <atomic>

#include "matrices.h"
#include "network.h"

namespace {

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
        relax();
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

// This thread's share of `count` pieces of work: every so-manyth.
template <typename Work>
void share(int64_t count, const Work& work) {
  for (int64_t i = omp_get_thread_num(); i < count; i += omp_get_num_threads()) work(i);
}

}  // namespace
