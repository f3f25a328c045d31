// Prints a hash a line of what the lanes, and attention on them, compute from pseudo-random input. Compiled for several
// instruction sets by test_kernel_bits.py: all must print the same.

#include <algorithm>
#include <cmath>
#include <vector>

#define SHOAL_ISA under_test
#define SHOAL_ISA_NAME "under_test"
#define SHOAL_ISA_FLOPS 1e9
#include "attention/kernel.cpp"
#include "bits.h"

using namespace shoal;
using namespace shoal::under_test;

namespace {

class LaneHash : public Hash {
 public:
  using Hash::add;
  void add(Lanes x) {
    float each[kLanes];
    store(each, x);
    for (const float y : each) add(y);
  }
};

struct Sixteen {
  float x[kLanes];

  template <typename Make>
  explicit Sixteen(const Make& make) {
    for (float& each : x) each = make();
  }
  operator Lanes() const { return load(x); }
};

template <typename Compute>
void hash(const char* name, int count, const Compute& compute) {
  LaneHash hash;
  Random random;
  for (int i = 0; i < count; ++i) compute(hash, random);
  hash.print(name);
}

void arithmetic() {
  hash("arithmetic", 20000, [](LaneHash& hash, Random& random) {
    const auto make = [&] { return random.any(); };
    const Sixteen a(make), b(make);
    for (const Lanes y : {add(a, b), sub(a, b), mul(a, b), div(a, b), square_root(a), magnitude(a)}) hash.add(y);
    hash.add(larger(a, b));
    hash.add(smaller(a, b));
  });
  hash("sums", 20000, [](LaneHash& hash, Random& random) {
    const Sixteen a([&] { return random.any(true); });
    hash.add(sum_lanes(a));
    hash.add(largest_lane(a));
  });
}

// Half a unit in the last place away from a tie: what rounds twice, rounds wrongly.
void fused_ties(LaneHash& hash, Random& random) {
  const float x = 1.0f + random.scaled(11, -12, 1), y = random.scaled(1, -100, 60);
  const Sixteen a([&] { return random.bits() % 2 ? x : -x; }), b([&] { return random.bits() % 2 ? y : 1.0f; });
  const Sixteen c([&] { return random.scaled(24, -40, 60); }), tiny([] { return 1.0f / 16777216.0f; });
  hash.add(fma(a, b, c));
  hash.add(fma(b, tiny, c));
}

// Results that are subnormal, or cancel.
void fused_small(LaneHash& hash, Random& random) {
  const Sixteen a([&] { return random.scaled(24, -104, 10); }), b([&] { return -random.scaled(24, -109, 25); });
  const Sixteen c([&] { return random.scaled(24, -173, 22); });
  hash.add(fma(a, b, c));
  hash.add(fma(a, b, sub(broadcast(0.0f), mul(a, b))));
}

void fused() {
  for (const bool is_near : {false, true}) {
    hash(is_near ? "fma near" : "fma any", 20000, [&](LaneHash& hash, Random& random) {
      const auto make = [&] { return random.any(is_near); };
      const Sixteen a(make), b(make), c(make);
      hash.add(fma(a, b, c));
    });
  }
  hash("fma ties", 20000, fused_ties);
  hash("fma small", 20000, fused_small);
}

void functions() {
  hash("exponential", 20000, [](LaneHash& hash, Random& random) {
    hash.add(exponential(Sixteen([&] { return random.within(100.0f); })));
    hash.add(exponential(Sixteen([&] { return random.any(); })));
  });
  hash("sigmoid", 20000, [](LaneHash& hash, Random& random) {
    hash.add(sigmoid(Sixteen([&] { return random.within(99.0f); })));
  });
  hash("tanh", 20000, [](LaneHash& hash, Random& random) {
    hash.add(hyperbolic_tangent(Sixteen([&] { return random.within(11.0f); })));
  });
}

void halves() {
  LaneHash widened;
  for (int first = 0; first < 65536; first += kLanes) {
    uint16_t half[kLanes];
    for (int i = 0; i < kLanes; ++i) half[i] = uint16_t(first + i);
    widened.add(load_half(half));
    widened.add(load_bfloat(half));
  }
  widened.print("load_half");
  const auto add_halves = [](LaneHash& hash, Lanes x) {
    uint16_t half[kLanes];
    store_half(half, x);
    for (const uint16_t y : half) hash.add(int32_t((y & 0x7fff) > 0x7c00 ? 0x7e00 : y));
  };
  hash("store_half any", 30000, [&](LaneHash& hash, Random& random) {
    add_halves(hash, Sixteen([&] { return random.any(); }));
  });
  hash("store_half ties", 30000, [&](LaneHash& hash, Random& random) {
    add_halves(hash, Sixteen([&] { return random.scaled(12, -30, 36); }));
  });
}

void integers() {
  hash("integers", 20000, [](LaneHash& hash, Random& random) {
    int8_t bytes[kLanes];
    int32_t words[kLanes];
    const Sixteen x([&] {
      const float any = random.within(127.0f);
      return random.bits() % 4 ? any : std::floor(any) + 0.5f;
    });
    hash.add(store_rounded(bytes, x));
    for (int i = 0; i < kLanes; ++i) {
      hash.add(int32_t(bytes[i]));
      words[i] = int32_t(random.bits());
    }
    hash.add(from_ints(words));
    int16_t rounded[kLanes];
    store_words(rounded, mul(x, broadcast(258.0f)));
    for (const int16_t word : rounded) hash.add(int32_t(word));
    hash.add(from_bytes(bytes));
    hash.add(from_unsigned_bytes(reinterpret_cast<const uint8_t*>(bytes)));
  });
  hash("sixteen at a time", 2000, [](LaneHash& hash, Random& random) {
    float x[kLanes][kLanes];
    int8_t bytes[kLanes * kLanes];
    int32_t sums[kLanes];
    for (float& each : *reinterpret_cast<float(*)[kLanes * kLanes]>(x)) each = random.within(127.0f);
    hash.add(largest_lanes([&](int i) { return magnitude(load(x[i])); }));
    store_rounded(bytes, [&](int i) { return load(x[i]); }, sums);
    for (const int8_t byte : bytes) hash.add(int32_t(byte));
    for (const int32_t sum : sums) hash.add(sum);
  });
}

struct Shape {
  const char* name;
  int num_heads, num_kv_heads, head_dim, rotary_dim, window;
  float softcap;
  int num_rows;
  KvType kv_type;
};

void attention(const Shape& shape) {
  constexpr int kBlock = 32, kTileTokens = 5;
  Random random;
  const int num_blocks = (shape.num_rows + kBlock - 1) / kBlock, half = shape.rotary_dim / 2;
  const int qkv_width = (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim;
  const int out_width = shape.num_heads * shape.head_dim;
  std::vector<float> qkv(size_t(shape.num_rows) * qkv_width), out(size_t(shape.num_rows) * out_width);
  std::vector<float> cos(size_t(shape.num_rows) * half + 1), sin(cos.size()), scratch(1 << 20);
  std::vector<float> keys(size_t(num_blocks) * kBlock * shape.num_kv_heads * shape.head_dim), values(keys.size());
  std::vector<int32_t> positions(shape.num_rows), table(num_blocks);
  for (std::vector<float>* each : {&qkv, &cos, &sin})
    std::generate(each->begin(), each->end(), [&] { return random.within(2.0f); });
  for (int i = 0; i < shape.num_rows; ++i) positions[i] = i;
  for (int i = 0; i < num_blocks; ++i) table[i] = num_blocks - 1 - i;
  LayerView layer{shape.num_heads, shape.num_kv_heads, shape.head_dim, shape.rotary_dim, kBlock,
                        shape.window,    false,              false,          0.3f,             shape.softcap, shape.kv_type,
                        keys.data(),     values.data(),      cos.data(),     sin.data()};
  std::vector<float> key_scales(size_t(num_blocks) * kBlock * shape.num_kv_heads), value_scales(key_scales.size());
  layer.key_scales = key_scales.data();
  layer.value_scales = value_scales.data();
  layer.sees_all = shape.kv_type == KvType::kCodes;
  const StepView step{positions.data(), table.data(), num_blocks, &shape.num_rows};
  const CallView call{qkv.data(), out.data(), qkv_width, out_width};
  const Memory memory{scratch.data(), nullptr};
  attention_kernel.append(layer, step, call, {0, 0, shape.num_rows}, memory);
  for (int row = 0; row < shape.num_rows; row += kTileTokens) {
    const int count = std::min(kTileTokens, shape.num_rows - row);
    const int end = layer.sees_all ? shape.num_rows : row + count;
    const Span span{{0, row, count}, 0, (end - 1) / kSegmentKeys + 1, kAlone};
    for (int h = 0; h < shape.num_kv_heads; ++h) attention_kernel.attend(layer, step, call, span, h, memory);
  }
  LaneHash hash;
  for (const float x : out) hash.add(x);
  hash.print(shape.name);
}

}  // namespace

int main() {
  arithmetic();
  fused();
  functions();
  halves();
  integers();
  attention({"attention", 3, 1, 36, 36, 0, 0.0f, 560, KvType::kFloat});
  attention({"attention fp16", 3, 1, 36, 36, 0, 0.0f, 560, KvType::kHalf});
  attention({"attention odd", 3, 3, 21, 6, 100, 5.0f, 250, KvType::kFloat});
  attention({"attention odd fp16", 3, 3, 21, 6, 100, 5.0f, 250, KvType::kHalf});
  attention({"attention codes", 6, 2, 80, 16, 0, 0.0f, 570, KvType::kCodes});
  attention({"attention narrow", 4, 1, 7, 4, 0, 0.0f, 200, KvType::kHalf});
}
