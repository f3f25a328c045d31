// Products of given rows, for an encoder's convolutions and for tests. The stage runs its own.
#include "../bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../isa/isa.h"
#include "../require.h"
#include "bound_matrix.h"
#include "products.h"
#include "row_codes.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace shoal {
namespace {

using Rows = nb::ndarray<const float, nb::ndim<2>, nb::device::cpu>;  // may overlap, as windows do
using Out = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bias = std::optional<nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>>;
using Starts = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Pool = std::shared_ptr<ThreadPool>;

constexpr int kNoActivation = -1;

const float* data_of(const Bias& bias, const Matrix& matrix) {
  require(!bias || int64_t(bias->size()) == matrix.num_outputs, "a bias must have a value for each output");
  return bias ? bias->data() : nullptr;
}

// All products have matrices of one shape.
void run(ThreadPool& pool, const std::string& isa, const Rows& values, bool is_exact, const Out& out,
         const std::vector<Product>& products) {
  const Matrix& matrix = *products.front().matrix;
  require(int64_t(values.shape(1)) == matrix.num_inputs && out.shape(0) == values.shape(0) &&
              int64_t(out.shape(1)) == matrix.num_outputs && values.shape(0) < (size_t(1) << 20),
          "values must be [rows, inputs] and out [rows, outputs]");
  require(values.stride(1) == 1 && values.stride(0) >= 0, "inputs of a row must lie side by side, and rows must follow");
  const GemmKernel& kernel = *find_isa(isa).gemm;
  const int num_rows = int(values.shape(0));
  nb::gil_scoped_release released;
  const RowCodes codes(num_rows, matrix.num_inputs, is_exact);
  ActivationRows rows = codes.of(values.data(), num_rows, matrix.num_inputs);
  rows.value_stride = values.stride(0);
  const auto has_codes = [](const Product& product) { return !is_dense(*product.matrix); };
  if (std::any_of(products.begin(), products.end(), has_codes)) kernel.quantize(rows, 0, num_rows);
  run_products(pool, kernel, rows, products.data(), int(products.size()));
}

void multiply(Pool pool, const BoundMatrix& matrix, Rows values, bool exact_activations, const std::string& isa,
              Out out, Bias bias, bool adds, int activation) {
  const Matrix& m = matrix.matrix;
  require(activation >= kNoActivation && activation <= int(Activation::kRelu2), "there is no such activation");
  require(!adds || activation == kNoActivation, "what is added has no activation");
  const Finish finish = adds ? Finish::kAdd : activation == kNoActivation ? Finish::kStore : Finish::kActivate;
  const Product product{&m, nullptr, data_of(bias, m), nullptr, finish, Activation(std::max(activation, 0)),
                        out.data(), m.num_outputs, {0, int(values.shape(0))}};
  run(*pool, isa, values, exact_activations, out, {product});
}

void multiply_gated(Pool pool, const BoundMatrix& gate, const BoundMatrix& up, int activation, Rows values,
                    bool exact_activations, const std::string& isa, Out out, Bias gate_bias, Bias up_bias) {
  const Matrix &first = gate.matrix, &second = up.matrix;
  require(can_gate(first, second), "the two matrices cannot be multiplied in one panel");
  require(activation >= 0 && activation <= int(Activation::kRelu2), "there is no such activation");
  const Product product{&first, &second, data_of(gate_bias, first), data_of(up_bias, second), Finish::kGate,
                        Activation(activation), out.data(), first.num_outputs, {0, int(values.shape(0))}};
  run(*pool, isa, values, exact_activations, out, {product});
}

void multiply_grouped(Pool pool, const std::vector<const BoundMatrix*>& matrices, const Starts& starts, Rows values,
                      bool exact_activations, const std::string& isa, Out out) {
  require(!matrices.empty() && starts.shape(0) == matrices.size() + 1 && starts.data()[0] == 0 &&
              size_t(starts.data()[matrices.size()]) == values.shape(0),
          "starts must have the first row of each matrix, and the number of rows");
  std::vector<Product> products;
  for (size_t i = 0; i < matrices.size(); ++i) {
    const Matrix &matrix = matrices[i]->matrix, &first = matrices[0]->matrix;
    const RowSpan rows{starts.data()[i], starts.data()[i + 1] - starts.data()[i]};
    require(matrix.num_outputs == first.num_outputs && matrix.num_inputs == first.num_inputs && rows.count >= 0,
            "grouped matrices must have one shape, and starts must not fall");
    products.push_back({&matrix, nullptr, nullptr, nullptr, Finish::kStore, Activation::kSilu, out.data(),
                        matrix.num_outputs, rows});
  }
  run(*pool, isa, values, exact_activations, out, products);
}

}  // namespace
}  // namespace shoal

void bind_products(nb::module_& module) {
  using namespace shoal;
  module.def("multiply", &multiply, "pool"_a, "matrix"_a, "values"_a.noconvert(), "exact_activations"_a, "isa"_a,
             "out"_a.noconvert(), "bias"_a.noconvert().none() = nb::none(), "adds"_a = false,
             "activation"_a = kNoActivation);
  module.def("multiply_grouped", &multiply_grouped, "pool"_a, "matrices"_a, "starts"_a.noconvert(),
             "values"_a.noconvert(), "exact_activations"_a, "isa"_a, "out"_a.noconvert());
  module.def("multiply_gated", &multiply_gated, "pool"_a, "gate"_a, "up"_a, "activation"_a, "values"_a.noconvert(),
             "exact_activations"_a, "isa"_a, "out"_a.noconvert(), "gate_bias"_a.noconvert().none() = nb::none(),
             "up_bias"_a.noconvert().none() = nb::none());
}
