// Packed matrices of random weights, in every form that the kernels know.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>

#include "bits.h"
#include "gemm/packing/layout.h"
#include "memory/buffer.h"

namespace shoal {

// A matrix of random codes, with scales such as models have.
class RandomMatrix {
 public:
  RandomMatrix(const Matrix& form, int num_outputs, int num_inputs, Random& random) : matrix(form) {
    matrix.num_outputs = num_outputs;
    matrix.num_inputs = num_inputs;
    matrix.first_block = form.scales == Scales::kSuper || form.scales == Scales::kNibbles ? 3 : 0;  // of a shard
    const MatrixLayout layout = matrix_layout(matrix);
    bytes_ = allocate<uint8_t>(layout.num_bytes);
    for (size_t i = 0; i < layout.num_bytes; ++i) bytes_.get()[i] = uint8_t(random.bits());
    fill(matrix.codes == Codes::kFloat ? Scales::kFloat : Scales::kNone, layout.codes, layout.scales, random);
    if (is_dense(matrix) && matrix.codes != Codes::kFloat) fill(Scales::kHalf, layout.codes, layout.scales, random);
    fill(matrix.scales, layout.scales, layout.fine_scales, random);
    fill(matrix.offsets, layout.offsets, layout.fine_offsets, random);
    attach(matrix, bytes_.get());
  }

  Matrix matrix;

 private:
  void fill(Scales kind, size_t start, size_t end, Random& random) {
    for (size_t at = start; at < end; at += 4) {
      const float x = random.within(0.02f);
      const uint32_t halves = (random.bits() & 0x83ff83ffu) | 0x1c001c00u;  // fp16 around 2 ** -8
      uint8_t exponents[4];
      for (uint8_t& e : exponents) e = uint8_t(110 + random.bits() % 20);
      if (kind == Scales::kFloat) std::memcpy(bytes_.get() + at, &x, 4);
      if (kind == Scales::kHalf || kind == Scales::kSuper || kind == Scales::kNibbles)
        std::memcpy(bytes_.get() + at, &halves, 4);
      if (kind == Scales::kExponent) std::memcpy(bytes_.get() + at, exponents, 4);
    }
  }

  Buffer<uint8_t> bytes_;
};

struct Form {
  const char* name;
  Matrix matrix;
};

constexpr Matrix form(Codes codes, int zero_point, Scales scales, Scales offsets, int part_inputs = kBlockInputs) {
  return {codes, scales, offsets, zero_point, 0, 0, part_inputs, 0, nullptr, nullptr, nullptr, nullptr, nullptr};
}

// One for every branch that a kernel has: the forms of all GGUF kinds, and of block weights.
constexpr Form kForms[] = {
    {"fp32", form(Codes::kFloat, 0, Scales::kNone, Scales::kNone)},
    {"fp16", form(Codes::kHalf, 0, Scales::kNone, Scales::kNone)},
    {"bf16", form(Codes::kBfloat, 0, Scales::kNone, Scales::kNone)},
    {"Q4_0", form(Codes::kBits4, 8, Scales::kHalf, Scales::kNone)},
    {"Q4_1", form(Codes::kBits4, 0, Scales::kHalf, Scales::kHalf)},
    {"Q5_0", form(Codes::kBits5, 16, Scales::kHalf, Scales::kNone)},
    {"Q5_1", form(Codes::kBits5, 0, Scales::kHalf, Scales::kHalf)},
    {"Q8_0", form(Codes::kBytes, 0, Scales::kHalf, Scales::kNone)},
    {"Q2_K", form(Codes::kBits2, 0, Scales::kNibbles, Scales::kNibbles, 16)},
    {"Q3_K", form(Codes::kBits3, 4, Scales::kSuper, Scales::kNone, 16)},
    {"Q4_K", form(Codes::kBits4, 0, Scales::kSuper, Scales::kSuper)},
    {"Q5_K", form(Codes::kBits5, 0, Scales::kSuper, Scales::kSuper)},
    {"Q6_K", form(Codes::kBits6, 32, Scales::kSuper, Scales::kNone, 16)},
    {"IQ4_NL", form(Codes::kTableIq4, 0, Scales::kHalf, Scales::kNone)},
    {"IQ4_XS", form(Codes::kTableIq4, 0, Scales::kSuper, Scales::kNone)},
    {"MXFP4", form(Codes::kTableMxfp4, 0, Scales::kExponent, Scales::kNone)},
    {"4 bits, fp32", form(Codes::kBits4, 8, Scales::kFloat, Scales::kFloat)},
    {"8 bits, fp32", form(Codes::kBytes, 0, Scales::kFloat, Scales::kFloat)},
};

}  // namespace shoal
