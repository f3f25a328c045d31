// Plain data passed from shared code to the kernels that search rows of logits.
#pragma once

#include <cstdint>

namespace shoal {

constexpr int kSpanLogits = 256;  // neighbors of which only the largest is considered when looking for few of many
constexpr int kSpanFloats = 2;

// What to find in one row, and what to change in it before.
struct LogitRow {
  float* logits;
  int num_logits;
  const uint8_t* allowed;  // a bit for each logit, the lowest of the first byte first; nullptr: all are
  int64_t allowed_bytes;   // logits beyond them are not allowed
  int first_time;          // logits from here on are of timestamps; 0: none are
  int num_top;             // how many of the largest are wanted, at most num_logits
  bool wants_sum;
};

struct FoundInRow {
  int best;          // the largest, ties to the smaller index
  double sum;        // of e**(logit - best logit), where it is wanted
  int32_t* top;      // [num_top], the largest first, ties to the smaller index
  float* top_logits; // [num_top]
};

struct SamplingKernel {
  // Removes what is not allowed (it becomes -inf), then what is not a timestamp if all timestamps together are more
  // likely than any other logit, and searches the rest. `room` holds kSpanFloats values for each span of kSpanLogits.
  void (*look_over)(const LogitRow& row, float* room, FoundInRow* found);
};

}  // namespace shoal
