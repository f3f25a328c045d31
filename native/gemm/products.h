// Distributes products of rows with matrices over the threads of a pool: several matrices that multiply the same rows,
// such as q, k and v, or many that multiply some rows each, such as experts. A row's bits are the same either way.
#pragma once

#include "../threads/thread_pool.h"
#include "args.h"

namespace shoal {

// Neighboring rows of a step.
struct RowSpan {
  int first;
  int count;
};

// y = x W^T for some of the rows; with kGate the product of two matrices of one shape.
struct Product {
  const Matrix* matrix;
  const Matrix* second;  // kGate only
  const float* bias;     // nullptr: none
  const float* second_bias;
  Finish finish;
  Activation activation;
  float* out;  // of row 0, whichever rows are multiplied
  int64_t out_stride;
  RowSpan rows;
  float scale = 1.0f;                     // kAddScaled only
  const ActivationRows* from = nullptr;   // rows of its own, instead of those of the call
};

// Products must not write to the same outputs.
void run_products(ThreadPool& pool, const GemmKernel& kernel, const ActivationRows& rows, const Product* products,
                  int count);

// Whether the two can be multiplied in one panel, as kGate demands.
bool can_gate(const Matrix& gate, const Matrix& up);

}  // namespace shoal
