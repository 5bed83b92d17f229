// What training computes between its large products, with gradients: RMS normalisation, the gated GELU, cross-entropy,
// each one pass over its rows; and attention forward. Sums are float32 and do not depend on the number of threads.
// `gradients.py` calls them.

#include <algorithm>

#include "attention.h"

namespace {

constexpr int64_t kChunk = 64;  // rows whose gradients of the weight are summed up together

template <typename Number>
void normalise(const float* x, const float* weight, Number* out, float* scales, int64_t rows, int64_t width,
               float epsilon, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads)
  for (int64_t row = 0; row < rows; ++row) {
    const float* from = x + row * width;
    Floats squares = splat(0.0f);
    for (int64_t i = 0; i < width; i += kLanes) {
      const Floats numbers = load16(from + i, lane_mask(width - i));
      squares = fma(numbers, numbers, squares);
    }
    const float scale = 1.0f / std::sqrt(add_lanes(squares) / static_cast<float>(width) + epsilon);
    scales[row] = scale;
    for (int64_t i = 0; i < width; i += kLanes) {
      const Mask mask = lane_mask(width - i);
      const Floats normal = load16(from + i, mask) * splat(scale);
      store16(out + row * width + i, mask, normal * load16(weight + i, mask));
    }
  }
}

// With y = x · s · w and s = 1 / √(mean x² + ε): dx = s · (w · dy − x · s² · mean(w · dy · x)), dw = Σ rows dy · x · s.
template <typename Number>
void normalise_gradient(const float* x, const float* weight, const float* scales, const Number* grad, float* into_x,
                        float* into_weight, int64_t rows, int64_t width, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads)
  for (int64_t begin = 0; begin < rows; begin += kChunk) {
    float* sums = into_weight + begin / kChunk * width;
    std::fill(sums, sums + width, 0.0f);
    for (int64_t row = begin; row < std::min(rows, begin + kChunk); ++row) {
      const float *from = x + row * width, scale = scales[row];
      const Number* upper = grad + row * width;
      Floats along = splat(0.0f);
      for (int64_t i = 0; i < width; i += kLanes) {
        const Mask mask = lane_mask(width - i);
        const Floats product = load16(upper + i, mask) * load16(from + i, mask);
        along = fma(product, load16(weight + i, mask), along);
        store16(sums + i, mask, fma(product, splat(scale), load16(sums + i, mask)));
      }
      const float share = add_lanes(along) * scale * scale / static_cast<float>(width);
      for (int64_t i = 0; i < width; i += kLanes) {
        const Mask mask = lane_mask(width - i);
        const Floats straight = load16(upper + i, mask) * load16(weight + i, mask);
        const Floats less = fnma(load16(from + i, mask), splat(share), straight);
        store16(into_x + row * width + i, mask, less * splat(scale));
      }
    }
  }
}

template <typename Number>
void gate(const Number* gates_and_values, Number* out, int64_t rows, int64_t width, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads)
  for (int64_t row = 0; row < rows; ++row) {
    const Number* from = gates_and_values + 2 * row * width;
    for (int64_t i = 0; i < width; i += kLanes) {
      const Mask mask = lane_mask(width - i);
      const Floats gelu = gelu16(load16(from + i, mask));
      store16(out + row * width + i, mask, gelu * load16(from + width + i, mask));
    }
  }
}

template <typename Number>
void gate_gradient(const Number* gates_and_values, const Number* grad, Number* into, int64_t rows, int64_t width,
                   int64_t num_threads) {
  const Floats one = splat(1.0f), slope = splat(1.5957691216f);  // 2 √(2/π)
#pragma omp parallel for num_threads(num_threads)
  for (int64_t row = 0; row < rows; ++row) {
    const Number* from = gates_and_values + 2 * row * width;
    Number* to = into + 2 * row * width;
    for (int64_t i = 0; i < width; i += kLanes) {
      const Mask mask = lane_mask(width - i);
      const Floats x = load16(from + i, mask), value = load16(from + width + i, mask);
      const Floats upper = load16(grad + row * width + i, mask), square = x * x;
      // gelu = x · σ(u), u = slope · (x + 0.044715 x³), so gelu' = σ + x · σ (1 − σ) · u'
      const Floats inner = fma(square, splat(0.044715f), one) * x;
      const Floats e = exp16(inner * (splat(0.0f) - slope));
      const Floats sigmoid = one / (e + one);
      const Floats inner_slope = fma(square, splat(3 * 0.044715f), one) * slope;
      const Floats gelu = x * sigmoid;
      const Floats bend = gelu * (one - sigmoid) * inner_slope;
      store16(to + i, mask, upper * value * (sigmoid + bend));
      store16(to + width + i, mask, upper * gelu);
    }
  }
}

// In place of each row's logits the gradient of its loss, which is −log p of the true one with `smoothing` shared out
// among all, times `unit`.
template <typename Number>
void cross_entropy(Number* logits, const int64_t* truths, float* losses, int64_t rows, int64_t width, float smoothing,
                   float unit, int64_t num_threads) {
  const float share = smoothing / static_cast<float>(width);
#pragma omp parallel for num_threads(num_threads)
  for (int64_t row = 0; row < rows; ++row) {
    Number* numbers = logits + row * width;
    const Floats lowest = splat(-INFINITY);
    Floats highest = lowest, sum = splat(0.0f), all = splat(0.0f);
    for (int64_t i = 0; i < width; i += kLanes) {
      const Mask mask = lane_mask(width - i);
      const Floats x = load16(numbers + i, mask);
      highest = select(mask, max(highest, x), highest);
      all = all + x;
    }
    const float top = largest_lane(highest);
    for (int64_t i = 0; i < width; i += kLanes) {
      const Mask mask = lane_mask(width - i);
      const Floats x = load16(numbers + i, mask) - splat(top);
      sum = select(mask, sum + exp16(x), sum);
    }
    const float log_sum = top + std::log(add_lanes(sum));
    const int64_t truth = truths[row];
    const float likely = first_lane(load16(numbers + truth, lane_mask(1))) - log_sum;
    losses[row] = (smoothing - 1) * likely - share * (add_lanes(all) - static_cast<float>(width) * log_sum);
    for (int64_t i = 0; i < width; i += kLanes) {
      const Mask mask = lane_mask(width - i);
      const Floats p = exp16(load16(numbers + i, mask) - splat(log_sum));
      store16(numbers + i, mask, (p - splat(share)) * splat(unit));
    }
    const Floats certain = splat(std::exp(likely) - share - (1 - smoothing));
    store16(numbers + truth, lane_mask(1), certain * splat(unit));
  }
}

// --- attention -------------------------------------------------------------------------------------------------------

// Numbers of (batch, heads, length, width), whose strides are counted in elements; the last one is 1.
template <typename Number>
struct Heads {
  const Number* numbers;
  int64_t batch_stride, head_stride, row_stride;
  const Number* at(int64_t batch, int64_t head) const { return numbers + batch * batch_stride + head * head_stride; }
};

template <typename Number>
Heads<Number> view(const Number* numbers, const int64_t* strides) {
  return {numbers, strides[0], strides[1], strides[2]};
}

// One head of one document: softmax(q kᵀ + bias) to `weights` (queries, keys), and by v to `out`.
void attend_head(const Heads<uint16_t>& q, const Heads<uint16_t>& k, const Heads<uint16_t>& v, const Heads<float>& bias,
                 int64_t batch, int64_t head, int64_t queries, int64_t keys, int64_t width, uint16_t* weights,
                 uint16_t* out, int64_t out_stride) {
  static thread_local std::vector<uint32_t> packed_keys, packed_values;
  packed_keys.resize(Head<kBfloat16>::key_units(keys, width));
  packed_values.resize(Head<kBfloat16>::value_units(keys, width));
  HeadScratch& work = head_scratch;
  work.reserve(keys, width);
  pack_keys<kBfloat16>(k.at(batch, head), k.row_stride, keys, width, packed_keys.data(), work.row);
  pack_values<kBfloat16>(v.at(batch, head), v.row_stride, keys, width, packed_values.data());
  for (int64_t begin = 0; begin < queries; begin += kQueryRows) {
    const float* own = bias.at(batch, head) + begin * bias.row_stride;
    const auto keep = [&](int64_t r, const float* terms, float inverse) {
      convert_row<kBfloat16>(terms, nullptr, inverse, keys, work.weights, r);
      std::memcpy(weights + (begin + r) * keys, work.weights.bytes.data() + r * work.weights.stride, 2 * keys);
    };
    attend_block<kBfloat16>(
        Rows(q.at(batch, head) + begin * q.row_stride, 2 * q.row_stride), std::min<int64_t>(kQueryRows, queries - begin),
        packed_matrix(packed_keys.data(), width, keys), packed_matrix(packed_values.data(), keys, width), work,
        [&](int64_t r, int64_t t, Mask mask) { return load16(own + r * bias.row_stride + t, mask); }, keep,
        WriteHead<uint16_t>{out + begin * out_stride, out_stride, width, nullptr});
  }
}

// Places of 16 numbers, `stride` apart.
Ints apart(int64_t stride) {
  return lane_numbers() * splat_int(static_cast<int>(stride));
}

// Columns of (length, width) as rows, two of their numbers a unit.
void transpose(const uint16_t* from, int64_t stride, int64_t length, int64_t width, uint32_t* to, int64_t to_stride) {
  const Ints places = apart(to_stride);
  for (int64_t s = 0; s < length; s += 2)
    for (int64_t j = 0; j < width; j += kLanes) {
      const Mask mask = lane_mask(width - j), next = s + 1 < length ? mask : kNoLanes;
      const uint16_t* at = from + s * stride + j;
      const Ints low = load_wide(at, mask), high = load_wide(at + (next ? stride : 0), next);
      scatter(to + j * to_stride + s / 2, mask, places, low | (high << 16));
    }
}

// Rows of (width, length) floats as columns.
void transpose(const float* from, int64_t stride, int64_t length, int64_t width, uint16_t* to, int64_t to_stride) {
  const Ints places = apart(stride);
  for (int64_t s = 0; s < length; ++s)
    for (int64_t j = 0; j < width; j += kLanes) {
      const Mask mask = lane_mask(width - j);
      store16(to + s * to_stride + j, mask, gather(from + j * stride + s, places, mask));
    }
}

// Gradients of one head of one document, given that of its result, `grad`: of what goes into softmax to `into_bias`
// (queries, keys) unless that is null, of the others to rows of `width` numbers, `into_stride` apart.
void attend_head_gradient(const Heads<uint16_t>& q, const Heads<uint16_t>& k, const Heads<uint16_t>& v,
                          const Heads<uint16_t>& grad, int64_t batch, int64_t head, int64_t queries, int64_t keys,
                          int64_t width, const uint16_t* weights, uint16_t* into_q, uint16_t* into_k, uint16_t* into_v,
                          int64_t into_stride, float* into_bias) {
  static thread_local std::vector<uint32_t> packed_values, packed_keys, columns, packed;
  static thread_local std::vector<uint16_t> scores;
  static thread_local std::vector<float> sums;
  packed_values.resize(Head<kBfloat16>::key_units(keys, width));
  packed_keys.resize(Head<kBfloat16>::value_units(keys, width));
  HeadScratch& work = head_scratch;
  work.reserve(keys, width);
  pack_keys<kBfloat16>(v.at(batch, head), v.row_stride, keys, width, packed_values.data(), work.row);
  pack_values<kBfloat16>(k.at(batch, head), k.row_stride, keys, width, packed_keys.data());
  const Linear value_matrix = packed_matrix(packed_values.data(), width, keys);
  const Linear key_matrix = packed_matrix(packed_keys.data(), keys, width);
  const int64_t scores_stride = odd_lines(2 * round_up(keys, kColumns)) / 2;
  scores.resize(queries * scores_stride);
  for (int64_t begin = 0; begin < queries; begin += kQueryRows) {
    const int64_t count = std::min<int64_t>(kQueryRows, queries - begin);
    const Rows rows(grad.at(batch, head) + begin * grad.row_stride, 2 * grad.row_stride);
    multiply_alone<kBfloat16>(value_matrix, rows, count, Write{work.scores.data(), work.stride});
    for (int64_t r = 0; r < count; ++r) {
      const float* of_weights = work.scores.data() + r * work.stride;
      const uint16_t* own = weights + (begin + r) * keys;
      Floats shared = splat(0.0f);
      for (int64_t t = 0; t < keys; t += kLanes) {
        const Mask mask = lane_mask(keys - t);
        shared = fma(load16(own + t, mask), load16(of_weights + t, mask), shared);
      }
      const Floats mean = splat(add_lanes(shared));
      uint16_t* to = scores.data() + (begin + r) * scores_stride;
      for (int64_t t = 0; t < round_up(keys, kColumns); t += kLanes) {
        const Mask mask = lane_mask(std::max<int64_t>(keys - t, 0));
        const Floats of_score = load16(own + t, mask) * (load16(of_weights + t, mask) - mean);
        store16(to + t, kAllLanes, of_score);
        if (into_bias) store16(into_bias + (begin + r) * keys + t, mask, of_score);
      }
    }
    multiply_alone<kBfloat16>(key_matrix, Rows(scores.data() + begin * scores_stride, 2 * scores_stride), count,
                              WriteHead<uint16_t>{into_q + begin * into_stride, into_stride, width, nullptr});
  }
  // The others turned on their side, so that it is the narrow matrices that are transposed: their rows are columns of
  // the queries and of `grad`, multiplied by the gradients of scores and by the weights as they lie.
  const int64_t columns_stride = odd_lines(2 * round_up(queries, kColumns)) / 4;
  const int64_t sums_stride = odd_lines(4 * round_up(keys, kColumns)) / 4;
  columns.resize(width * columns_stride);
  sums.resize(width * sums_stride);
  packed.resize(Head<kBfloat16>::value_units(queries, keys));
  const auto product = [&](const Heads<uint16_t>& narrow, const uint16_t* wide, int64_t stride, uint16_t* into) {
    transpose(narrow.at(batch, head), narrow.row_stride, queries, width, columns.data(), columns_stride);
    pack_values<kBfloat16>(wide, stride, queries, keys, packed.data());
    multiply_alone<kBfloat16>(packed_matrix(packed.data(), queries, keys), Rows(columns.data(), 4 * columns_stride), width,
                              Write{sums.data(), sums_stride});
    transpose(sums.data(), sums_stride, keys, width, into, into_stride);
  };
  product(q, scores.data(), scores_stride, into_k);
  product(grad, weights, keys, into_v);
}

// `work` with a zero of the numbers of `kind`.
template <typename Work>
void with_number(int64_t kind, const Work& work) {
  switch (static_cast<Kind>(kind)) {
    case kFloat32: return work(float{});
    case kBfloat16: return work(uint16_t{});
    case kInt8: __builtin_unreachable();  // nothing is trained in int8
  }
}

}  // namespace

extern "C" {

// `kind` is that of `out` and of gradients; `x` is float32.
void leximind_normalise(int64_t kind, const float* x, const float* weight, void* out, float* scales, int64_t rows,
                        int64_t width, float epsilon, int64_t num_threads) {
  with_number(kind, [&](auto zero) {
    normalise(x, weight, static_cast<decltype(zero)*>(out), scales, rows, width, epsilon, num_threads);
  });
}

// `into_weight` (⌈rows / 64⌉, width): what is left is to add its rows up.
void leximind_normalise_gradient(int64_t kind, const float* x, const float* weight, const float* scales,
                                 const void* grad, float* into_x, float* into_weight, int64_t rows, int64_t width,
                                 int64_t num_threads) {
  with_number(kind, [&](auto zero) {
    normalise_gradient(x, weight, scales, static_cast<const decltype(zero)*>(grad), into_x, into_weight, rows, width,
                       num_threads);
  });
}

// `gates_and_values` (rows, 2 · width): a row's gates, then its values.
void leximind_gate(int64_t kind, const void* gates_and_values, void* out, int64_t rows, int64_t width,
                   int64_t num_threads) {
  with_number(kind, [&](auto zero) {
    using Number = decltype(zero);
    gate(static_cast<const Number*>(gates_and_values), static_cast<Number*>(out), rows, width, num_threads);
  });
}

void leximind_gate_gradient(int64_t kind, const void* gates_and_values, const void* grad, void* into, int64_t rows,
                            int64_t width, int64_t num_threads) {
  with_number(kind, [&](auto zero) {
    using Number = decltype(zero);
    gate_gradient(static_cast<const Number*>(gates_and_values), static_cast<const Number*>(grad),
                  static_cast<Number*>(into), rows, width, num_threads);
  });
}

void leximind_cross_entropy(int64_t kind, void* logits, const int64_t* truths, float* losses, int64_t rows,
                            int64_t width, float smoothing, float unit, int64_t num_threads) {
  with_number(kind, [&](auto zero) {
    cross_entropy(static_cast<decltype(zero)*>(logits), truths, losses, rows, width, smoothing, unit, num_threads);
  });
}

// q, k, v (B, H, S, width) bfloat16 of an even width and `bias` (B, H, queries, keys) float32, each with three strides;
// `weights` (B, H, queries, keys), `out` (B, queries, H, width).
void leximind_attend(const uint16_t* q, const int64_t* q_strides, const uint16_t* k, const int64_t* k_strides,
                     const uint16_t* v, const int64_t* v_strides, const float* bias, const int64_t* bias_strides,
                     uint16_t* weights, uint16_t* out, int64_t batch, int64_t heads, int64_t queries, int64_t keys,
                     int64_t width, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads)
  for (int64_t i = 0; i < batch * heads; ++i) {
    const int64_t document = i / heads, head = i % heads;
    attend_head(view(q, q_strides), view(k, k_strides), view(v, v_strides), view(bias, bias_strides), document, head,
                queries, keys, width, weights + i * queries * keys, out + (document * queries * heads + head) * width,
                heads * width);
  }
}

// Gradients of the same, given `grad` (B, H, queries, width) with strides like those of q: `into_q` (B, queries, H,
// width), `into_k` and `into_v` (B, keys, H, width), `into_bias` (B, H, queries, keys) or null.
void leximind_attend_gradient(const uint16_t* q, const int64_t* q_strides, const uint16_t* k, const int64_t* k_strides,
                              const uint16_t* v, const int64_t* v_strides, const uint16_t* grad,
                              const int64_t* grad_strides, const uint16_t* weights, uint16_t* into_q, uint16_t* into_k,
                              uint16_t* into_v, float* into_bias, int64_t batch, int64_t heads, int64_t queries,
                              int64_t keys, int64_t width, int64_t num_threads) {
#pragma omp parallel for num_threads(num_threads)
  for (int64_t i = 0; i < batch * heads; ++i) {
    const int64_t document = i / heads, head = i % heads;
    const auto into = [&](uint16_t* numbers, int64_t length) {
      return numbers + (document * length * heads + head) * width;
    };
    attend_head_gradient(view(q, q_strides), view(k, k_strides), view(v, v_strides), view(grad, grad_strides), document,
                         head, queries, keys, width, weights + i * queries * keys, into(into_q, queries),
                         into(into_k, keys), into(into_v, keys), heads * width,
                         into_bias ? into_bias + i * queries * keys : nullptr);
  }
}

}  // extern "C"
