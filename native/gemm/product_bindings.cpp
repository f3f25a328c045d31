// Products of given rows, for tests: the stage runs them itself.
#include "../bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "../isa/isa.h"
#include "bound_matrix.h"
#include "products.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace shoal {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bias = std::optional<nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>>;
using Pool = std::shared_ptr<ThreadPool>;

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// Rows with their codes.
class Quantized {
 public:
  Quantized(const GemmKernel& kernel, const Rows& values, bool is_exact, bool is_dense) {
    const int num_rows = int(values.shape(0)), num_inputs = int(values.shape(1));
    const int num_blocks = (num_inputs + kBlockInputs - 1) / kBlockInputs;
    const size_t blocks = size_t(num_rows) * num_blocks;
    codes_.resize(blocks * kBlockInputs);
    if (is_exact) low_codes_.resize(codes_.size());
    scales_.resize(blocks);
    for (int i = 0; i < 2; ++i) {
      sums_[i].resize(blocks * (i + 1));
      scaled_sums_[i].resize(blocks * (i + 1));
    }
    rows = {num_rows,       num_inputs,    num_blocks, values.data(), num_inputs,
            codes_.data(),  is_exact ? low_codes_.data() : nullptr,   scales_.data(),
            {sums_[0].data(), sums_[1].data()}, {scaled_sums_[0].data(), scaled_sums_[1].data()}};
    if (!is_dense) kernel.quantize(rows, 0, num_rows);
  }

  ActivationRows rows;

 private:
  std::vector<int8_t> codes_, low_codes_;
  std::vector<float> scales_, scaled_sums_[2];
  std::vector<int32_t> sums_[2];
};

const float* data_of(const Bias& bias, const Matrix& matrix) {
  require(!bias || int64_t(bias->size()) == matrix.num_outputs, "a bias must have a value for each output");
  return bias ? bias->data() : nullptr;
}

void run(ThreadPool& pool, const std::string& isa, const Rows& values, bool is_exact, const Out& out,
         const Product& product) {
  const Matrix& matrix = *product.matrix;
  require(int64_t(values.shape(1)) == matrix.num_inputs && out.shape(0) == values.shape(0) &&
              int64_t(out.shape(1)) == matrix.num_outputs && values.shape(0) < (size_t(1) << 20),
          "values must be [rows, inputs] and out [rows, outputs]");
  const GemmKernel& kernel = *find_isa(isa).gemm;
  nb::gil_scoped_release released;
  const Quantized quantized(kernel, values, is_exact, is_dense(matrix));
  run_products(pool, kernel, quantized.rows, &product, 1);
}

void multiply(Pool pool, const BoundMatrix& matrix, Rows values, bool exact_activations, const std::string& isa,
              Out out, Bias bias, bool adds) {
  const Matrix& m = matrix.matrix;
  const Product product{&m, nullptr, data_of(bias, m), nullptr, adds ? Finish::kAdd : Finish::kStore,
                        Activation::kSilu, out.data(), m.num_outputs};
  run(*pool, isa, values, exact_activations, out, product);
}

void multiply_gated(Pool pool, const BoundMatrix& gate, const BoundMatrix& up, int activation, Rows values,
                    bool exact_activations, const std::string& isa, Out out, Bias gate_bias, Bias up_bias) {
  const Matrix &first = gate.matrix, &second = up.matrix;
  require(can_gate(first, second), "the two matrices cannot be multiplied in one panel");
  require(activation >= 0 && activation <= int(Activation::kGeluTanh), "there is no such activation");
  const Product product{&first, &second, data_of(gate_bias, first), data_of(up_bias, second), Finish::kGate,
                        Activation(activation), out.data(), first.num_outputs};
  run(*pool, isa, values, exact_activations, out, product);
}

}  // namespace
}  // namespace shoal

void bind_products(nb::module_& module) {
  using namespace shoal;
  module.def("multiply", &multiply, "pool"_a, "matrix"_a, "values"_a.noconvert(), "exact_activations"_a, "isa"_a,
             "out"_a.noconvert(), "bias"_a.noconvert().none() = nb::none(), "adds"_a = false);
  module.def("multiply_gated", &multiply_gated, "pool"_a, "gate"_a, "up"_a, "activation"_a, "values"_a.noconvert(),
             "exact_activations"_a, "isa"_a, "out"_a.noconvert(), "gate_bias"_a.noconvert().none() = nb::none(),
             "up_bias"_a.noconvert().none() = nb::none());
}
