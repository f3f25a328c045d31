#include "../bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>

#include "../require.h"
#include "bound_matrix.h"
#include "packing/checksum.h"
#include "packing/half.h"
#include "packing/layout.h"
#include "packing/pack.h"
#include "packing/rows.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace shoal {
namespace {

// What a matrix is, without where: codes, scales, offsets, zero point, outputs, inputs, inputs of a part, first block.
using Form = std::array<int32_t, 8>;
template <typename Item, size_t Dims>
using Array = nb::ndarray<Item, nb::ndim<Dims>, nb::c_contig, nb::device::cpu>;
using Pool = std::shared_ptr<ThreadPool>;

Form form_of(const Matrix& m) {
  return {int32_t(m.codes), int32_t(m.scales), int32_t(m.offsets), m.zero_point,
          m.num_outputs,    m.num_inputs,      m.part_inputs,      m.first_block};
}

nb::tuple as_tuple(const Matrix& m) { return nb::tuple(nb::cast(form_of(m))); }

Matrix matrix_of(const Form& form) {
  return {Codes(form[0]), Scales(form[1]), Scales(form[2]), form[3], form[4], form[5],
          form[6],        form[7],         nullptr,         nullptr, nullptr, nullptr, nullptr};
}

size_t layout_bytes(const Form& form) { return matrix_layout(matrix_of(form)).num_bytes; }

void require_room(const Matrix& matrix, const void* bytes, size_t num_bytes) {
  require(num_bytes == matrix_layout(matrix).num_bytes, "the buffer has another size than the packed matrix");
  require(reinterpret_cast<uintptr_t>(bytes) % kVectorBytes == 0, "the buffer must begin at a multiple of 64 bytes");
}

void new_matrix(BoundMatrix* self, const Form& form, PackedBytes bytes) {
  Matrix matrix = matrix_of(form);
  require_room(matrix, bytes.data(), bytes.size());
  attach(matrix, bytes.data());
  new (self) BoundMatrix{matrix, std::move(bytes)};
}

nb::tuple gguf_form_of(int kind, int num_outputs, int num_inputs, int first_input) {
  const Matrix matrix = gguf_form(find_gguf_kind(kind), num_outputs, num_inputs, first_input);
  matrix_layout(matrix);
  return as_tuple(matrix);
}

nb::tuple blocks_form_of(int bits, int num_outputs, int num_inputs, int scales, int offsets) {
  const Matrix matrix = blocks_form(bits, num_outputs, num_inputs, Scales(scales), Scales(offsets));
  matrix_layout(matrix);
  return as_tuple(matrix);
}

nb::tuple coded_form_of(int codes, int num_outputs, int num_inputs, int scales, int offsets, int part_inputs,
                        int first_input) {
  const int zero_point = Codes(codes) == Codes::kGrouped4 ? 8 : Codes(codes) == Codes::kGrouped8 ? 128 : 0;
  const Matrix matrix = matrix_of({codes, scales, offsets, zero_point, num_outputs, num_inputs, part_inputs, first_input});
  require(is_coded_float(matrix), "not a kind of coded floats");
  matrix_layout(matrix);
  return as_tuple(matrix);
}

void pack_gguf_rows(Pool pool, int kind_number, Array<const uint8_t, 2> rows,
                    std::optional<Array<const int32_t, 1>> order, int first_input, int num_inputs,
                    Array<uint8_t, 1> out) {
  const GgufKind& kind = find_gguf_kind(kind_number);
  const size_t num_outputs = order ? order->size() : rows.shape(0);
  require(num_outputs < (size_t(1) << 31), "too many rows");
  const Matrix matrix = gguf_form(kind, int(num_outputs), num_inputs, first_input);
  require_room(matrix, out.data(), out.size());
  const size_t row_blocks = rows.shape(1) / kind.block_bytes;
  require(rows.shape(1) % kind.block_bytes == 0 && size_t(first_input) + num_inputs <= row_blocks * kind.block_inputs,
          "the rows do not have these inputs");
  for (size_t i = 0; order && i < order->size(); ++i)
    require(order->data()[i] >= 0 && size_t(order->data()[i]) < rows.shape(0), "the order names a row that is not there");
  nb::gil_scoped_release released;
  pack_gguf(*pool, matrix, kind, {rows.data(), rows.shape(1), order ? order->data() : nullptr, first_input}, out.data());
}

using Floats = Array<const float, 2>;

bool is_held(Scales scales, float value) {
  const uint32_t bits = bits_of_float(value);
  if (scales == Scales::kHalf) return bits_of_float(half_value(nearest_half(value))) == bits;
  return scales != Scales::kBrain || (bits & 0xffff) == 0;
}

bool can_be_held(Scales scales, const Floats& values) {
  return std::all_of(values.data(), values.data() + values.size(), [=](float value) { return is_held(scales, value); });
}

bool are_zero_points(const Matrix& matrix, const Floats& scales, const Floats& offsets) {
  for (size_t i = 0; i < offsets.size(); ++i)
    if (zero_point_of(matrix, scales.data()[i], offsets.data()[i]) < 0) return false;
  return true;
}

void pack_block_arrays(Pool pool, const Form& form, Array<const uint8_t, 3> codes, Floats scales,
                       std::optional<Floats> offsets, Array<uint8_t, 1> out, int first_output) {
  const Matrix given = matrix_of(form);
  const int bits = given.codes == Codes::kBytes ? 8 : 4;
  const Matrix matrix = blocks_form(bits, given.num_outputs, given.num_inputs, given.scales, given.offsets);
  require(form_of(matrix) == form && offsets.has_value() == (given.offsets != Scales::kNone), "not the blocks' form");
  require_room(matrix, out.data(), out.size());
  const int64_t end = first_output + int64_t(codes.shape(0));
  require(first_output >= 0 && first_output % kTileOutputs == 0 && end <= matrix.num_outputs &&
              (end % kTileOutputs == 0 || end == matrix.num_outputs), "the outputs are not those of whole tiles");
  const OutputSpan span{first_output, int(codes.shape(0))};
  const auto has_blocks = [&](const auto& array) {
    return int64_t(array.shape(0)) == span.count && int64_t(array.shape(1)) == num_blocks(matrix);
  };
  require(has_blocks(codes) && has_blocks(scales) && (!offsets || has_blocks(*offsets)) &&
              codes.shape(2) == size_t(4 * bits), "the arrays have another shape than the matrix");
  require(can_be_held(matrix.scales, scales) && (!offsets || can_be_held(matrix.offsets, *offsets)),
          "a scale or an offset is no fp16 or bfloat16 number");
  require(matrix.offsets != Scales::kZeroPoints || are_zero_points(matrix, scales, *offsets),
          "an offset is no whole multiple of its scale");
  nb::gil_scoped_release released;
  pack_blocks(*pool, matrix, span, {bits, codes.data(), scales.data(), offsets ? offsets->data() : nullptr},
              out.data());
}

void pack_coded_arrays(Pool pool, const Form& form, Array<const uint8_t, 2> codes, Floats scales,
                       std::optional<Array<const uint8_t, 2>> zero_points,
                       std::optional<Array<const int32_t, 1>> groups, Array<uint8_t, 1> out) {
  const Matrix matrix = matrix_of(form);
  require(is_coded_float(matrix), "not a kind of coded floats");
  require_room(matrix, out.data(), out.size());
  const auto has_shape = [&](const auto& array, int num_columns) {
    return int64_t(array.shape(0)) == matrix.num_outputs && int64_t(array.shape(1)) == num_columns;
  };
  require(has_shape(codes, matrix.num_inputs) && has_shape(scales, num_parts(matrix)), "arrays of another shape");
  require(zero_points.has_value() == (matrix.offsets == Scales::kZeroPoints) &&
              (!zero_points || has_shape(*zero_points, num_parts(matrix))), "zero points of another shape");
  require(groups.has_value() == is_grouped(matrix) && (!groups || int64_t(groups->size()) == matrix.num_inputs),
          "one group for every input");
  for (size_t i = 0; groups && i < groups->size(); ++i)
    require(groups->data()[i] >= 0 && groups->data()[i] < num_parts(matrix), "an input of a group that is not there");
  require(can_be_held(matrix.scales, scales), "a scale is no fp16 or bfloat16 number");
  nb::gil_scoped_release released;
  pack_coded(*pool, matrix, {codes.data(), scales.data(), zero_points ? zero_points->data() : nullptr,
                             groups ? groups->data() : nullptr}, out.data());
}

uint64_t checksum_of(Pool pool, Array<const uint8_t, 1> data) {
  nb::gil_scoped_release released;
  return checksum(*pool, data.data(), data.size());
}

void unpack_rows(const BoundMatrix& self, Array<const int32_t, 1> rows, Array<float, 2> out) {
  const Matrix& matrix = self.matrix;
  require(out.shape(0) == rows.size() && int64_t(out.shape(1)) == matrix.num_inputs, "out must be [rows, inputs]");
  for (size_t i = 0; i < rows.size(); ++i)
    require(rows.data()[i] >= 0 && rows.data()[i] < matrix.num_outputs, "the matrix has no such row");
  nb::gil_scoped_release released;
  for (size_t i = 0; i < rows.size(); ++i) unpack_row(matrix, rows.data()[i], out.data() + i * matrix.num_inputs);
}

}  // namespace
}  // namespace shoal

void bind_gemm(nb::module_& module) {
  using namespace shoal;
  nb::class_<BoundMatrix>(module, "Matrix")
      .def("__init__", &new_matrix, "form"_a, "data"_a.noconvert())
      .def_prop_ro("form", [](const BoundMatrix& self) { return as_tuple(self.matrix); })
      .def_prop_ro("shape", [](const BoundMatrix& self) {
        return nb::make_tuple(self.matrix.num_outputs, self.matrix.num_inputs);
      })
      .def_prop_ro("num_bytes", [](const BoundMatrix& self) { return self.bytes.size(); })
      .def("unpack_rows", &unpack_rows, "rows"_a.noconvert(), "out"_a.noconvert());
  module.def("checksum", &checksum_of, "pool"_a, "data"_a.noconvert());
  module.def("layout_bytes", &layout_bytes, "form"_a);
  module.def("gguf_form", &gguf_form_of, "kind"_a, "num_outputs"_a, "num_inputs"_a, "first_input"_a);
  module.def("blocks_form", &blocks_form_of, "bits"_a, "num_outputs"_a, "num_inputs"_a, "scales"_a, "offsets"_a);
  module.def("coded_form", &coded_form_of, "codes"_a, "num_outputs"_a, "num_inputs"_a, "scales"_a, "offsets"_a,
             "part_inputs"_a, "first_input"_a);
  module.def("pack_coded", &pack_coded_arrays, "pool"_a, "form"_a, "codes"_a.noconvert(), "scales"_a.noconvert(),
             "zero_points"_a.noconvert().none(), "groups"_a.noconvert().none(), "out"_a.noconvert());
  module.def("pack_gguf", &pack_gguf_rows, "pool"_a, "kind"_a, "rows"_a.noconvert(), "order"_a.noconvert().none(),
             "first_input"_a, "num_inputs"_a, "out"_a.noconvert());
  module.def("pack_blocks", &pack_block_arrays, "pool"_a, "form"_a, "codes"_a.noconvert(), "scales"_a.noconvert(),
             "offsets"_a.noconvert().none(), "out"_a.noconvert(), "first_output"_a = 0);
}
