// Prints a hash a line of what the products of every form of matrix, and what lies between products, compute from
// pseudo-random input; or of the products of given shapes, six numbers each: the form's, whether activations are exact,
// outputs, inputs, rows and a seed. Compiled for several instruction sets: all must print the same.

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#define SHOAL_ISA under_test
#include "gemm/kernel.cpp"
#undef SHOAL_ISA
#if defined(__AMX_INT8__)
#include "isa/tile_permission.h"
#endif
#define SHOAL_ISA layers_under_test
#include "layers/kernel.cpp"

#include "bits.h"
#include "gemm/packing/layout.cpp"
#include "random_matrix.h"

using namespace shoal;

namespace {

struct Shape {
  int num_outputs, num_inputs, num_rows;
};

// Rows of blocks of very different sizes; one of zeros, one in which a number is none.
class RandomRows {
 public:
  RandomRows(int num_rows, int num_inputs, bool is_exact, Random& random) {
    const int blocks = (num_inputs + kBlockInputs - 1) / kBlockInputs;
    values_.resize(size_t(num_rows) * num_inputs);
    for (int row = 0; row < num_rows; ++row)
      for (int k = 0; k < num_inputs; ++k)
        values_[size_t(row) * num_inputs + k] = random.within(std::ldexp(1.0f, (row + k / kBlockInputs * 7) % 20 - 10));
    if (num_rows > 5) std::fill_n(values_.begin() + 5 * num_inputs, num_inputs, 0.0f);
    if (num_rows > 9) values_[size_t(9) * num_inputs + num_inputs / 2] = std::nanf("");
    codes_.resize(size_t(num_rows) * blocks * kBlockInputs);
    low_codes_.resize(codes_.size());
    scales_.resize(size_t(num_rows) * blocks);
    for (int i = 0; i < 2; ++i) {
      sums_[i].resize(scales_.size() * (i + 1));
      scaled_sums_[i].resize(scales_.size() * (i + 1));
    }
    rows = {num_rows, num_inputs, blocks, values_.data(), num_inputs, codes_.data(),
            is_exact ? low_codes_.data() : nullptr, scales_.data(), {sums_[0].data(), sums_[1].data()},
            {scaled_sums_[0].data(), scaled_sums_[1].data()}};
    under_test::gemm_kernel.quantize(rows, 0, num_rows);
  }

  void add_to(Hash& hash) const {
    for (const int8_t code : codes_) hash.add(int32_t(code));
    for (const int8_t code : low_codes_) hash.add(int32_t(code));
    for (const float scale : scales_) hash.add(scale);
    for (int i = 0; i < 2; ++i) {
      for (const int32_t sum : sums_[i]) hash.add(sum);
      for (const float sum : scaled_sums_[i]) hash.add(sum);
    }
  }

  ActivationRows rows;

 private:
  std::vector<float> values_, scales_, scaled_sums_[2];
  std::vector<int8_t> codes_, low_codes_;
  std::vector<int32_t> sums_[2];
};

// All outputs of all rows, in calls of some rows each.
void add_product(Hash& hash, Panel panel, const RandomRows& rows, const float* bias) {
  static const Buffer<PanelScratch> scratch = allocate<PanelScratch>(1);
  const int num_rows = rows.rows.num_rows, num_outputs = panel.matrices[0]->num_outputs;
  std::vector<float> out(size_t(num_rows) * num_outputs, 0.25f);
  panel.biases[0] = panel.biases[1] = bias;
  panel.out = out.data();
  panel.out_stride = num_outputs;
  const int tiles = num_tiles(*panel.matrices[0]), step = panel.finish == Finish::kGate ? 1 : 2;
  for (int tile = 0; tile < tiles; tile += step) {
    const bool is_gate = panel.finish == Finish::kGate, has_two = is_gate || tile + 1 < tiles;
    panel.tiles[0] = tile;
    panel.tiles[1] = is_gate || !has_two ? tile : tile + 1;
    panel.num_tiles = has_two ? 2 : 1;
    for (int first = 0, count = 1; first < num_rows; first += count, count = std::min(count + 3, kPanelRows)) {
      count = std::min(count, num_rows - first);
      under_test::gemm_kernel.multiply(panel, rows.rows, first, count, scratch[0]);
    }
  }
  for (const float x : out) hash.add(x);
}

Hash products(const Matrix& form, bool is_exact, const Shape& shape, int seed) {
  Random random;
  for (int i = 0; i < seed; ++i) random.bits();
  Hash hash;
  const RandomMatrix first(form, shape.num_outputs, shape.num_inputs, random);
  const RandomMatrix second(form, shape.num_outputs, shape.num_inputs, random);
  const RandomRows rows(shape.num_rows, shape.num_inputs, is_exact, random);
  rows.add_to(hash);
  std::vector<float> bias(shape.num_outputs);
  for (float& b : bias) b = random.within(1.0f);
  Panel panel{};
  panel.matrices[0] = panel.matrices[1] = &first.matrix;
  add_product(hash, panel, rows, nullptr);
  panel.finish = Finish::kAdd;
  add_product(hash, panel, rows, bias.data());
  panel.finish = Finish::kGate;
  panel.matrices[1] = &second.matrix;
  for (const Activation activation : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
    panel.activation = activation;
    add_product(hash, panel, rows, bias.data());
  }
  return hash;
}

// Of every form. Neither outputs nor rows fill a tile, a panel or a register tile.
void all_products() {
  for (const Form& each : kForms)
    for (const bool is_exact : {false, true}) {
      const bool dense = is_dense(each.matrix);
      if (dense && is_exact) continue;
      const Shape shape{43, dense ? 301 : 11 * kBlockInputs, 70};
      products(each.matrix, is_exact, shape, 0).print((std::string(each.name) + (is_exact ? ", exact" : "")).c_str());
    }
}

void layers() {
  const LayerKernel& kernel = layers_under_test::layer_kernel;
  Random random;
  Hash hashes[5];
  for (int width = 1; width < 200; width += 7) {
    std::vector<float> x(width), y(width), out(width, 0.5f);
    for (std::vector<float>* each : {&x, &y})
      for (float& value : *each) value = random.within(30.0f);
    const auto add_to = [&](Hash& hash) { for (const float value : out) hash.add(value); };
    kernel.add(x.data(), width % 2 ? y.data() : nullptr, width, out.data());
    add_to(hashes[0]);
    for (const Activation activation : {Activation::kSilu, Activation::kGelu, Activation::kGeluTanh}) {
      kernel.gate(activation, x.data(), y.data(), width, out.data());
      add_to(hashes[1]);
    }
    kernel.scale(0.3f, width, out.data());
    add_to(hashes[2]);
    kernel.softcap(5.0f, width, out.data());
    add_to(hashes[3]);
    kernel.norm(x.data(), y.data(), 1e-5f, width, out.data());
    add_to(hashes[4]);
  }
  const char* names[] = {"add", "gate", "scale", "softcap", "norm"};
  for (int i = 0; i < 5; ++i) hashes[i].print(names[i]);
}

}  // namespace

int main(int count, char** words) {
#if defined(__AMX_INT8__)
  if (!may_use_tiles()) return 1;
#endif
  for (int at = 1; at + 5 < count; at += 6) {
    int numbers[6];
    for (int i = 0; i < 6; ++i) numbers[i] = std::atoi(words[at + i]);
    const Form& form = kForms[numbers[0]];
    products(form.matrix, numbers[1] != 0, {numbers[2], numbers[3], numbers[4]}, numbers[5]).print(form.name);
  }
  if (count > 1) return 0;
  all_products();
  layers();
}
