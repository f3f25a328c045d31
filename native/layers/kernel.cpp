// Everything between products and attention, for one instruction set. Compiled once per set with SHOAL_ISA naming it.

#include "args.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace shoal {
namespace SHOAL_ISA {
namespace {

#include "../lanes/lanes.h"
#include "functions.h"

// The mean of squares is summed lane by lane, then over the lanes: one order for every width.
void norm(const float* x, const float* weight, float epsilon, int width, float* to) {
  Lanes squares = broadcast(0.0f);
  for (int i = 0; i < width; i += kLanes) {
    const Lanes v = load_some(x + i, width - i);
    squares = fma(v, v, squares);
  }
  const float mean = sum_lanes(squares) / float(width);
  const Lanes inverse = broadcast(1.0f / __builtin_sqrtf(mean + epsilon));
  for (int i = 0; i < width; i += kLanes)
    store_some(to + i, width - i, mul(mul(load_some(x + i, width - i), inverse), load_some(weight + i, width - i)));
}

void add_row(const float* x, const float* bias, int width, float* to) {
  for (int i = 0; i < width; i += kLanes) {
    Lanes v = load_some(x + i, width - i);
    if (bias != nullptr) v = add(v, load_some(bias + i, width - i));
    store_some(to + i, width - i, add(load_some(to + i, width - i), v));
  }
}

void gate(Activation activation, const float* gate, const float* up, int width, float* to) {
  for (int i = 0; i < width; i += kLanes)
    store_some(to + i, width - i, gated(activation, load_some(gate + i, width - i), load_some(up + i, width - i)));
}

void softcap(float cap, int width, float* x) {
  const Lanes inverse = broadcast(1.0f / cap), factor = broadcast(cap);
  for (int i = 0; i < width; i += kLanes)
    store_some(x + i, width - i, mul(hyperbolic_tangent(mul(load_some(x + i, width - i), inverse)), factor));
}

void scale(float factor, int width, float* x) {
  for (int i = 0; i < width; i += kLanes)
    store_some(x + i, width - i, mul(load_some(x + i, width - i), broadcast(factor)));
}

void add_scaled(const float* x, float factor, int width, float* to) {
  for (int i = 0; i < width; i += kLanes)
    store_some(to + i, width - i, fma(load_some(x + i, width - i), broadcast(factor), load_some(to + i, width - i)));
}

// Lanes beyond the width count as nothing. The sum is made lane by lane, then over the lanes.
void softmax(int width, float* x) {
  float largest = x[0];
  for (int i = 1; i < width; ++i) largest = x[i] > largest ? x[i] : largest;
  Lanes sum = broadcast(0.0f);
  for (int i = 0; i < width; i += kLanes) {
    store_some(x + i, width - i, exponential(sub(load_some(x + i, width - i), broadcast(largest))));
    sum = add(sum, load_some(x + i, width - i));
  }
  scale(1.0f / sum_lanes(sum), width, x);
}

void sigmoid_row(int width, float* x) {
  for (int i = 0; i < width; i += kLanes) store_some(x + i, width - i, sigmoid(load_some(x + i, width - i)));
}

// x - mean; lanes beyond the width are 0.
inline Lanes centered(const float* x, int count, Lanes mean) {
  const Lanes rest = sub(load_some(x, count), mean);
  if (count >= kLanes) return rest;
  float all[kLanes];
  store(all, rest);
  return load_some(all, count);
}

// Mean and variance are summed lane by lane, then over the lanes: one order for every width.
void center(const float* x, const float* weight, const float* bias, float epsilon, int width, float* to) {
  Lanes sum = broadcast(0.0f), squares = broadcast(0.0f);
  for (int i = 0; i < width; i += kLanes) sum = add(sum, load_some(x + i, width - i));
  const Lanes mean = broadcast(sum_lanes(sum) / float(width));
  for (int i = 0; i < width; i += kLanes) {
    const Lanes v = centered(x + i, width - i, mean);
    squares = fma(v, v, squares);
  }
  const Lanes inverse = broadcast(1.0f / __builtin_sqrtf(sum_lanes(squares) / float(width) + epsilon));
  for (int i = 0; i < width; i += kLanes) {
    Lanes y = mul(mul(sub(load_some(x + i, width - i), mean), inverse), load_some(weight + i, width - i));
    if (bias != nullptr) y = add(y, load_some(bias + i, width - i));
    store_some(to + i, width - i, y);
  }
}

void multiply(const float* x, int width, float* to) {
  for (int i = 0; i < width; i += kLanes)
    store_some(to + i, width - i, mul(load_some(to + i, width - i), load_some(x + i, width - i)));
}

void activate_row(Activation activation, int width, float* x) {
  for (int i = 0; i < width; i += kLanes)
    store_some(x + i, width - i, activate(activation, load_some(x + i, width - i)));
}

}  // namespace

extern const LayerKernel layer_kernel;
const LayerKernel layer_kernel = {norm,    add_row,     gate,   softcap,  scale,       add_scaled,
                                   softmax, sigmoid_row, center, multiply, activate_row};

}  // namespace SHOAL_ISA
}  // namespace shoal
