// Plain data passed from shared code to the kernels of recurrent layers. See attention/args.h.
#pragma once

#include <cstdint>

namespace shoal {

constexpr int kMinTaps = 2, kMaxTaps = 4;  // of a convolution over neighboring tokens

// A causal convolution of each channel over the latest tokens. Rows are `stride` values apart.
struct ConvView {
  int num_taps;
  int num_channels;
  const float* taps;  // [num_taps, num_channels], of the oldest token first
  const float* bias;  // [num_channels] or nullptr
};

// Consecutive rows of one sequence, and some channels of them.
struct ConvCall {
  int num_rows;
  int first_channel;
  int end_channel;
  int64_t in_stride;
  int64_t out_stride;
  float* window;  // [num_taps - 1, num_channels]: the latest inputs, the oldest first; updated
};

// The gated delta rule of one value head. Source: Gated Delta Networks, arXiv 2412.06464, equation 10.
struct DeltaView {
  int key_dim;    // of queries and keys
  int value_dim;
  float epsilon;  // of the norm of outputs
  const float* norm;  // [value_dim]
};

// Consecutive rows of one sequence, and the columns of one value head in them.
struct DeltaCall {
  int num_rows;
  int64_t in_stride;
  int64_t out_stride;
  const float *query, *key, *value, *gate;  // in the first row
  const float *write, *decay;               // the same, one number each: before sigmoid and softplus
  float rate;                               // negative; factor on the softplus
  float decay_bias;
  float* matrix;                            // [key_dim, value_dim]: the state
  float* out;
};

constexpr int kMaxDeltaDim = 512;  // of a head

// The scan of one head. Source: Mamba-2, arXiv 2405.21060, section 3 (a scalar decay for each head and token).
struct ScanView {
  int head_dim;
  int state_dim;
};

// Consecutive rows of one sequence, and the columns of one head in them.
struct ScanCall {
  int num_rows;
  int64_t in_stride;
  int64_t out_stride;
  const float *x, *write, *read;  // in the first row: [head_dim], [state_dim] and [state_dim]
  const float* step;              // the same, a number: before its softplus
  float step_bias;
  float rate;                     // negative: the state decays by e**(rate * step)
  float skip;                     // factor on x, which is added to what is read
  float* state;                   // [state_dim, head_dim]
  float* out;
};

// The entry points of one instruction set.
struct RecurrenceKernel {
  // out = c * conv(b * x). Rows of `in` are b, c and x beside each other. Source: LFM2 technical report, arXiv 2511.23404,
  // section 2.
  void (*gated_conv)(const ConvView&, const ConvCall&, const float* in, float* out);
  // x = silu(conv(x)), in place
  void (*silu_conv)(const ConvView&, const ConvCall&, float* x);
  // Rows of a head: queries and keys are scaled to length 1, the state decays, is corrected and read, and the result
  // gets a norm and a gate.
  void (*delta_rule)(const DeltaView&, const DeltaCall&);
  // Rows of a head: the state decays, x times its step is written into it, and it is read.
  void (*scan)(const ScanView&, const ScanCall&);
  // x = x * silu(gate), then x / rms(x) * weight
  void (*gated_norm)(const float* gate, const float* weight, float epsilon, int width, float* x);
  // x = x * silu(gate) * weight. Returns the sum of squares before the weight.
  float (*gated_squares)(const float* gate, const float* weight, int width, float* x);
};

}  // namespace shoal
