// Plain data passed from shared code to the kernels of everything between products and attention.
#pragma once

#include <cstdint>

namespace shoal {

enum class Activation : int32_t {
  kSilu = 0,
  kGelu = 1,
  kGeluTanh = 2,
  kClampedSwiglu = 3,  // only with a gate: (clamp(up) + 1) * min(gate, 7) * sigmoid(1.702 * min(gate, 7)), of gpt-oss
  kRelu2 = 4,          // max(x, 0) squared
};

// Each function processes one row.
struct LayerKernel {
  // to = x / rms(x) * weight. Source: arXiv 1910.07467.
  void (*norm)(const float* x, const float* weight, float epsilon, int width, float* to);
  // to = to + (x + bias); bias may be nullptr.
  void (*add)(const float* x, const float* bias, int width, float* to);
  // to = activation(gate) * up; see kClampedSwiglu for the one that is not such a product
  void (*gate)(Activation activation, const float* gate, const float* up, int width, float* to);
  // x = cap * tanh(x / cap)
  void (*softcap)(float cap, int width, float* x);
  // x = x * factor
  void (*scale)(float factor, int width, float* x);
  // to = to + x * factor
  void (*add_scaled)(const float* x, float factor, int width, float* to);
  // x = e**x over the sum of all e**x
  void (*softmax)(int width, float* x);
  // x = 1 / (1 + e**-x)
  void (*sigmoid)(int width, float* x);
  // to = (x - mean(x)) / sqrt(variance(x) + epsilon) * weight + bias; bias may be nullptr. Source: arXiv 1607.06450.
  void (*center)(const float* x, const float* weight, const float* bias, float epsilon, int width, float* to);
  // to = to * x
  void (*multiply)(const float* x, int width, float* to);
  // x = activation(x)
  void (*activate)(Activation activation, int width, float* x);
};

}  // namespace shoal
