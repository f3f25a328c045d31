// Shares products of the same rows with several matrices out over the threads of a pool.
#pragma once

#include "../threads/thread_pool.h"
#include "args.h"

namespace shoal {

// y = x W^T for all rows; with kGate the product of two matrices of one shape.
struct Product {
  const Matrix* matrix;
  const Matrix* second;  // kGate only
  const float* bias;     // nullptr: none
  const float* second_bias;
  Finish finish;
  Activation activation;
  float* out;
  int64_t out_stride;
};

void run_products(ThreadPool& pool, const GemmKernel& kernel, const ActivationRows& rows, const Product* products,
                  int count);

// Whether the two can be multiplied in one panel, as kGate demands.
bool can_gate(const Matrix& gate, const Matrix& up);

}  // namespace shoal
