// Prints how often a second one thread does one piece of work: 64 rows times 2048 x 256 4-bit weights, norms or gates
// of 64 rows of 2048. For kernel_order.py.

#include <ctime>

#include <cstdio>
#include <cstring>
#include <vector>

#define SHOAL_ISA kernels
#include "gemm/kernel.cpp"
#undef SHOAL_ISA
#if defined(__AMX_INT8__)
#include "isa/tile_permission.h"
#endif
#define SHOAL_ISA layers
#include "layers/kernel.cpp"

#include "gemm/packing/layout.cpp"
#include "random_matrix.h"

using namespace shoal;

namespace {

constexpr int kRows = 64, kInputs = 2048, kOutputs = 256;
constexpr double kMinSeconds = 0.2;

double thread_seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return double(now.tv_sec) + 1e-9 * double(now.tv_nsec);
}

template <typename Work>
double times_per_second(const Work& work) {
  work();
  int count = 0;
  const double start = thread_seconds();
  double end = start;
  for (; end - start < kMinSeconds; ++count, end = thread_seconds()) work();
  return count / (end - start);
}

std::vector<float> random_values(size_t count, Random& random) {
  std::vector<float> values(count);
  for (float& value : values) value = random.within(3.0f);
  return values;
}

double products(Random& random) {
  const RandomMatrix weights(form(Codes::kBits4, 8, Scales::kHalf, Scales::kNone), kOutputs, kInputs, random);
  const std::vector<float> values = random_values(kRows * kInputs, random);
  std::vector<float> out(kRows * kOutputs);
  constexpr int blocks = kInputs / kBlockInputs;
  std::vector<int8_t> codes(kRows * kInputs);
  std::vector<float> scales(kRows * blocks), scaled_sums[2];
  std::vector<int32_t> sums[2];
  for (int i = 0; i < 2; ++i) {
    sums[i].resize(scales.size() * (i + 1));
    scaled_sums[i].resize(scales.size() * (i + 1));
  }
  const ActivationRows rows{kRows, kInputs, blocks, values.data(), kInputs, codes.data(), nullptr, scales.data(),
                            {sums[0].data(), sums[1].data()}, {scaled_sums[0].data(), scaled_sums[1].data()}};
  const auto scratch = allocate<PanelScratch>(1);
  Panel panel{};
  panel.matrices[0] = panel.matrices[1] = &weights.matrix;
  panel.num_tiles = 2;
  panel.out = out.data();
  panel.out_stride = kOutputs;
  return times_per_second([&] {
    kernels::gemm_kernel.quantize(rows, 0, kRows);
    for (int tile = 0; tile < kOutputs / kTileOutputs; tile += 2) {
      panel.tiles[0] = tile;
      panel.tiles[1] = tile + 1;
      kernels::gemm_kernel.multiply(panel, rows, 0, kRows, scratch[0]);
    }
  });
}

double layers_of(bool is_norm, Random& random) {
  const std::vector<float> x = random_values(kRows * kInputs, random), y = random_values(kRows * kInputs, random);
  std::vector<float> to(kInputs);
  return times_per_second([&] {
    for (int row = 0; row < kRows; ++row) {
      const float* at = x.data() + row * kInputs;
      if (is_norm) {
        layers::layer_kernel.norm(at, y.data(), 1e-5f, kInputs, to.data());
      } else {
        layers::layer_kernel.gate(Activation::kSilu, at, y.data() + row * kInputs, kInputs, to.data());
      }
    }
  });
}

}  // namespace

int main(int count, char** words) {
#if defined(__AMX_INT8__)
  if (!may_use_tiles()) return 1;
#endif
  if (count != 2) return 1;
  Random random;
  const bool is_product = std::strcmp(words[1], "products") == 0;
  std::printf("%.6g\n", is_product ? products(random) : layers_of(std::strcmp(words[1], "norms") == 0, random));
}
