// A small network of random numbers, the same on every machine, by the kernels of a library: what it gives to a file.
//
//   network LIBRARY FILE
//
// prints a line for each part of the file, its name and how many floats it has. Fails where a document has not alone, to
// the bit, what it has beside others. tests/arm/test_arm.py compares the files of several machines.

#include "../../model/kernels/network.h"

#include <dlfcn.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <limits>
#include <random>
#include <string>

namespace {

constexpr float kNothing = -std::numeric_limits<float>::infinity();
constexpr int64_t kThreads = 2, kSteps = 5;
const char* const kNames[] = {"float32", "bfloat16", "int8"};

void* library;
FILE* file;

template <typename Function>
Function* function(const char* name) {
  void* found = dlsym(library, name);
  if (!found) std::fprintf(stderr, "%s: %s\n", name, dlerror()), std::exit(2);
  return reinterpret_cast<Function*>(found);
}

void write(const std::string& name, const std::vector<float>& numbers) {
  std::printf("%s %zu\n", name.c_str(), numbers.size());
  std::fwrite(numbers.data(), sizeof(float), numbers.size(), file);
}

void expect_equal(const std::string& what, const float* one, const float* other, int64_t count) {
  if (std::memcmp(one, other, count * sizeof(float)))
    std::fprintf(stderr, "%s: not alone what it is beside others\n", what.c_str()), std::exit(1);
}

std::mt19937 engine;

float uniform() { return static_cast<float>(engine() >> 8) / 8388608.0f - 1.0f; }  // exact, of -1 to 1

std::vector<float> uniform(int64_t count, float scale, float offset = 0.0f) {
  std::vector<float> numbers(count);
  for (float& one : numbers) one = offset + scale * uniform();
  return numbers;
}

// A matrix as `packing.py` lays it out.
struct Matrix {
  std::vector<uint8_t> blocks;
  std::vector<float> scales;
  std::vector<int32_t> sums;
  Linear linear;

  Matrix(int64_t kind, int64_t in, int64_t out) {
    const int64_t group = kind == kInt8 ? 4 : kind == kBfloat16 ? 2 : 1, groups = (in + group - 1) / group;
    const int64_t columns = round_up(out, kColumns), size = 4 / group;
    blocks.resize(columns * groups * 4 + 64);
    scales.assign(columns, 0.0f);
    sums.assign(columns, 0);
    uint8_t* first = blocks.data() + (64 - reinterpret_cast<uintptr_t>(blocks.data()) % 64) % 64;
    const float scale = 1.7f / std::sqrt(static_cast<float>(in));
    for (int64_t o = 0; o < out; ++o) {
      scales[o] = scale / 127.0f;
      for (int64_t i = 0; i < in; ++i) {
        uint8_t* at = first + ((o / kColumns * groups + i / group) * kColumns + o % kColumns) * 4 + i % group * size;
        const float number = uniform();
        if (kind == kInt8) {
          const int8_t level = static_cast<int8_t>(std::lrint(number * 127.0f));
          sums[o] += 128 * level;
          std::memcpy(at, &level, 1);
        } else {
          const float weight = number * scale;
          std::memcpy(at, reinterpret_cast<const uint8_t*>(&weight) + 4 - size, size);  // little-endian
        }
      }
    }
    linear = {first, scales.data(), sums.data(), in, out};
  }
};

struct Network {
  Shape shape;
  int64_t vocabulary = 77, reach = 48, distances = 8;
  std::deque<Matrix> matrices;
  std::deque<std::vector<float>> vectors;
  std::vector<EncoderLayer> encoder_layers;
  std::vector<DecoderLayer> decoder_layers;
  std::vector<Linear> sources;
  std::vector<float> bias;
  Encoder encoder;
  Decoder decoder;

  Network(int64_t kind, int64_t d_model, int64_t heads, int64_t d_kv, int64_t d_ff)
      : shape{kind, d_model, heads, d_kv, d_ff, 1e-6f} {
    const int64_t inner = heads * d_kv;
    for (int layer = 0; layer < 2; ++layer) {
      encoder_layers.push_back({norm(), norm(), matrix(d_model, 3 * inner), matrix(inner, d_model),
                                matrix(d_model, 2 * d_ff), matrix(d_ff, d_model)});
      decoder_layers.push_back({norm(), norm(), norm(), matrix(d_model, 3 * inner), matrix(inner, d_model),
                                matrix(d_model, inner), matrix(inner, d_model), matrix(d_model, 2 * d_ff),
                                matrix(d_ff, d_model)});
      sources.push_back(matrix(d_model, 2 * inner));
    }
    bias = uniform(heads * (2 * reach - 1), 1.0f);
    encoder = {shape, 2, encoder_layers.data(), norm()};
    vectors.push_back(uniform(heads * distances, 1.0f));
    const float* own_bias = vectors.back().data();
    decoder = {shape, 2, decoder_layers.data(), norm(), matrix(d_model, vocabulary), own_bias, distances};
  }

  const float* norm() {
    vectors.push_back(uniform(round_up(shape.d_model, kColumns), 0.5f, 1.0f));
    return vectors.back().data();
  }
  Linear matrix(int64_t in, int64_t out) { return matrices.emplace_back(shape.kind, in, out).linear; }
  int64_t stride() const { return round_up(shape.d_model, kColumns); }

  // Rows of embedded tokens.
  std::vector<float> rows(int64_t count) const {
    std::vector<float> x(count * stride(), 0.0f);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t i = 0; i < shape.d_model; ++i) x[r * stride() + i] = uniform();
    return x;
  }
};

// What documents of some lengths give: their states, then the logits of every step.
struct Answer {
  std::vector<float> states, logits;  // (rows, d_model up to 32), (steps, documents, vocabulary up to 32)
};

// `x` has the documents' embedded tokens; `tokens` (steps, documents) those that are decoded.
Answer answer(const Network& network, const std::vector<int64_t>& lengths, std::vector<float> x,
              const std::vector<float>& tokens) {
  const int64_t documents = lengths.size(), stride = network.stride(), heads = network.shape.num_heads;
  const int64_t width = network.shape.d_kv, capacity = 64, room = 16;
  std::vector<int64_t> starts{0}, document, place;
  std::vector<float> hidden, mask(documents * capacity, kNothing);
  for (int64_t d = 0; d < documents; ++d) {
    for (int64_t t = 0; t < lengths[d]; ++t) {
      const bool is_hidden = t == 3;
      hidden.push_back(is_hidden ? kNothing : 0.0f);
      mask[d * capacity + t] = hidden.back();
      document.push_back(d);
      place.push_back(t);
    }
    starts.push_back(starts.back() + lengths[d]);
  }
  function<void(const Encoder*, const int64_t*, int64_t, float*, const float*, const float*, int64_t, int64_t)>(
      "leximind_encode")(&network.encoder, starts.data(), documents, x.data(), hidden.data(), network.bias.data(),
                         network.reach, kThreads);

  const int64_t own = 2 * documents * heads * room * width * 4;
  const int64_t layer = documents * heads * capacity * (round_up(width, kColumns) + 3) * 4;  // enough in every kind
  std::vector<uint8_t> self_keys(own), self_values(own), cross_keys(2 * layer), cross_values(2 * layer);
  function<void(const Shape*, const Linear*, int64_t, const float*, int64_t, const int64_t*, const int64_t*, uint8_t*,
                uint8_t*, int64_t, int64_t, int64_t, int64_t)>("leximind_project")(
      &network.shape, network.sources.data(), 2, x.data(), document.size(), document.data(), place.data(),
      cross_keys.data(), cross_values.data(), layer, layer, capacity, kThreads);

  const int64_t size = network.shape.kind == kFloat32 ? 4 : network.shape.kind == kBfloat16 ? 2 : 1;
  std::vector<int32_t> lineage(documents * room, 0);
  std::vector<int64_t> positions(documents, 0);
  const Cache cache{documents, 1, self_keys.data(), self_values.data(), documents * heads * room * width, room,
                    lineage.data(), room, cross_keys.data(), cross_values.data(), layer / size, layer / size, capacity,
                    mask.data(), capacity, positions.data(), lengths.data(), nullptr};
  const int64_t logits = round_up(network.vocabulary, kColumns);
  Answer given{x, std::vector<float>(kSteps * documents * logits)};
  for (int64_t step = 0; step < kSteps; ++step) {
    std::vector<float> stream(tokens.begin() + step * documents * stride, tokens.begin() + (step + 1) * documents * stride);
    function<void(const Decoder*, const Cache*, int64_t, float*, float*, int64_t)>("leximind_decoder_step")(
        &network.decoder, &cache, 1, stream.data(), given.logits.data() + step * documents * logits, kThreads);
    for (int64_t& position : positions) ++position;
  }
  return given;
}

void run(const std::string& name, const Network& network) {
  std::vector<int64_t> lengths;
  for (int64_t d = 0; d < 13; ++d) lengths.push_back(1 + d * 23 % 41);  // 1 to 41 tokens
  int64_t rows = 0;
  for (int64_t length : lengths) rows += length;
  const int64_t documents = lengths.size(), stride = network.stride(), logits = round_up(network.vocabulary, kColumns);
  const std::vector<float> x = network.rows(rows), tokens = network.rows(kSteps * documents);
  const Answer all = answer(network, lengths, x, tokens);
  for (int64_t d = 0, begin = 0; d < documents; begin += lengths[d++]) {
    std::vector<float> own;
    for (int64_t step = 0; step < kSteps; ++step) {
      const auto at = tokens.begin() + (step * documents + d) * stride;
      own.insert(own.end(), at, at + stride);
    }
    const auto at = x.begin() + begin * stride;
    const Answer alone = answer(network, {lengths[d]}, {at, at + lengths[d] * stride}, own);
    expect_equal(name + " states", alone.states.data(), all.states.data() + begin * stride, lengths[d] * stride);
    for (int64_t step = 0; step < kSteps; ++step)
      expect_equal(name + " logits", alone.logits.data() + step * logits,
                   all.logits.data() + (step * documents + d) * logits, logits);
  }
  write(name + "/states", all.states);
  write(name + "/logits", all.logits);
}

std::vector<uint16_t> bfloat16(const std::vector<float>& numbers) {
  std::vector<uint16_t> halves(numbers.size());
  for (size_t i = 0; i < numbers.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &numbers[i], 4);
    halves[i] = static_cast<uint16_t>(bits >> 16);
  }
  return halves;
}

std::vector<float> floats(const std::vector<uint16_t>& halves) {
  std::vector<float> numbers(halves.size());
  for (size_t i = 0; i < halves.size(); ++i) {
    const uint32_t bits = static_cast<uint32_t>(halves[i]) << 16;
    std::memcpy(&numbers[i], &bits, 4);
  }
  return numbers;
}

// What training computes, in bfloat16 where it has a choice.
void run_training() {
  const int64_t rows = 70, width = 45;
  const std::vector<float> x = uniform(rows * width, 1.0f), weight = uniform(width, 0.5f, 1.0f);
  const std::vector<uint16_t> grad = bfloat16(uniform(rows * width, 1.0f));
  std::vector<uint16_t> normal(rows * width);
  std::vector<float> scales(rows), into_x(rows * width), into_weight(2 * width);
  function<void(int64_t, const float*, const float*, void*, float*, int64_t, int64_t, float, int64_t)>(
      "leximind_normalise")(kBfloat16, x.data(), weight.data(), normal.data(), scales.data(), rows, width, 1e-6f, kThreads);
  write("training/normalise", floats(normal));
  function<void(int64_t, const float*, const float*, const float*, const void*, float*, float*, int64_t, int64_t, int64_t)>(
      "leximind_normalise_gradient")(kBfloat16, x.data(), weight.data(), scales.data(), grad.data(), into_x.data(),
                                     into_weight.data(), rows, width, kThreads);
  write("training/normalise_gradient", into_x);

  const std::vector<uint16_t> both = bfloat16(uniform(rows * 2 * width, 3.0f));
  std::vector<uint16_t> gated(rows * width), into_both(rows * 2 * width);
  function<void(int64_t, const void*, void*, int64_t, int64_t, int64_t)>("leximind_gate")(
      kBfloat16, both.data(), gated.data(), rows, width, kThreads);
  write("training/gate", floats(gated));
  function<void(int64_t, const void*, const void*, void*, int64_t, int64_t, int64_t)>("leximind_gate_gradient")(
      kBfloat16, both.data(), grad.data(), into_both.data(), rows, width, kThreads);
  write("training/gate_gradient", floats(into_both));

  std::vector<float> logits = uniform(rows * width, 4.0f), losses(rows);
  std::vector<int64_t> truths(rows);
  for (int64_t r = 0; r < rows; ++r) truths[r] = r * 7 % width;
  function<void(int64_t, void*, const int64_t*, float*, int64_t, int64_t, float, float, int64_t)>(
      "leximind_cross_entropy")(kFloat32, logits.data(), truths.data(), losses.data(), rows, width, 0.1f, 1.0f, kThreads);
  write("training/losses", losses);
  write("training/cross_entropy", logits);

  const int64_t batch = 2, heads = 3, queries = 37, keys = 51, head = 20;
  const auto random = [&](int64_t length) { return bfloat16(uniform(batch * heads * length * head, 1.0f)); };
  const std::vector<uint16_t> q = random(queries), k = random(keys), v = random(keys), upper = random(queries);
  const std::vector<float> bias = uniform(batch * heads * queries * keys, 1.0f);
  const int64_t of_q[] = {heads * queries * head, queries * head, head}, of_k[] = {heads * keys * head, keys * head, head};
  const int64_t of_bias[] = {heads * queries * keys, queries * keys, keys};
  std::vector<uint16_t> weights(bias.size()), out(q.size()), into_q(q.size()), into_k(k.size()), into_v(v.size());
  std::vector<float> into_bias(bias.size());
  function<void(const uint16_t*, const int64_t*, const uint16_t*, const int64_t*, const uint16_t*, const int64_t*,
                const float*, const int64_t*, uint16_t*, uint16_t*, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t)>(
      "leximind_attend")(q.data(), of_q, k.data(), of_k, v.data(), of_k, bias.data(), of_bias, weights.data(), out.data(),
                         batch, heads, queries, keys, head, kThreads);
  write("training/attend", floats(out));
  function<void(const uint16_t*, const int64_t*, const uint16_t*, const int64_t*, const uint16_t*, const int64_t*,
                const uint16_t*, const int64_t*, const uint16_t*, uint16_t*, uint16_t*, uint16_t*, float*, int64_t, int64_t,
                int64_t, int64_t, int64_t, int64_t)>("leximind_attend_gradient")(
      q.data(), of_q, k.data(), of_k, v.data(), of_k, upper.data(), of_q, weights.data(), into_q.data(), into_k.data(),
      into_v.data(), into_bias.data(), batch, heads, queries, keys, head, kThreads);
  write("training/into_q", floats(into_q));
  write("training/into_k", floats(into_k));
  write("training/into_v", floats(into_v));
  write("training/into_bias", into_bias);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return std::fprintf(stderr, "%s LIBRARY FILE\n", arguments[0]), 2;
  if (!dlopen("libgomp.so.1", RTLD_NOW | RTLD_GLOBAL)) return std::fprintf(stderr, "%s\n", dlerror()), 2;  // as by torch
  library = dlopen(arguments[1], RTLD_NOW);
  if (!library) return std::fprintf(stderr, "%s\n", dlerror()), 2;
  file = std::fopen(arguments[2], "wb");
  if (!file) return std::perror(arguments[2]), 2;
  for (int64_t kind : {kFloat32, kBfloat16, kInt8}) {
    engine.seed(1);
    run(std::string(kNames[kind]) + "/even", Network(kind, 64, 2, 32, 96));
    run(std::string(kNames[kind]) + "/odd", Network(kind, 72, 3, 20, 80));  // of no width that registers have
  }
  run_training();
  return std::fclose(file);
}
