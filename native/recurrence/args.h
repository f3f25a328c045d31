// Plain data that crosses from shared code into the kernels of recurrent layers. See attention/args.h.
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
  float* window;  // [num_taps - 1, num_channels]: the latest inputs, the oldest first; is moved on
};

// The entry points of one instruction set.
struct RecurrenceKernel {
  // out = c * conv(b * x). Rows of `in` are b, c and x beside each other. Source: LFM2 technical report, arXiv 2511.23404,
  // section 2.
  void (*gated_conv)(const ConvView&, const ConvCall&, const float* in, float* out);
};

}  // namespace shoal
