// Rows of logits for one instruction set. Compiled once per set with SHOAL_ISA naming it: see attention/kernel.cpp.
//
// NaN counts as less than everything. Sums are formed lane by lane, then over the lanes, in spans that begin at the
// same logits, each relative to its own largest: one order for every instruction set.

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

constexpr float kNever = -__builtin_inff();
constexpr float kFarBelow = 30.0f;  // what is this much less than the best adds less than 1e-13 of it to a sum

struct Span {
  int first;
  int end;
};

// What is known of each span, so that a row is read once, whatever is wanted.
struct Spans {
  float* largest;
  float* sums;  // of e**(logit - largest), where sums are wanted
};

inline int smaller_int(int a, int b) { return a < b ? a : b; }
inline float larger_float(float a, float b) { return a > b ? a : b; }

// The span of a row that begins at `first`.
inline Span span_at(const LogitRow& row, int first) {
  return {first, smaller_int(first + kSpanLogits, row.num_logits)};
}

// Lanes beyond `count` are -inf.
inline Lanes load_logits(const float* from, int count) {
  if (count >= kLanes) return load(from);
  float padded[kLanes];
  for (int i = 0; i < kLanes; ++i) padded[i] = i < count ? from[i] : kNever;
  return load(padded);
}

inline void fill(float* to, int count, float value) {
  for (int i = 0; i < count; ++i) to[i] = value;
}

inline float exponential_of(float x) {
  float y[kLanes];
  store(y, exponential(broadcast(x)));
  return y[0];
}

inline float largest_in(const float* logits, Span span) {
  Lanes best = broadcast(kNever);
  for (int i = span.first; i < span.end; i += kLanes) best = larger(load_logits(logits + i, span.end - i), best);
  return largest_lane(best);
}

// The sum of e**(logit - best).
inline float sum_in(const float* logits, Span span, float best) {
  const Lanes offset = broadcast(best);
  Lanes part = broadcast(0.0f);
  for (int i = span.first; i < span.end; i += kLanes)
    part = add(part, exponential(sub(load_logits(logits + i, span.end - i), offset)));
  return sum_lanes(part);
}

// Sixteen logits by the bits of a word.
inline void keep_allowed(uint32_t word, int count, float* logits) {
  if (word == 0xffff) return;
  if (word == 0) return fill(logits, count, kNever);
  for (int i = 0; i < count; ++i) logits[i] = (word >> i & 1) != 0 ? logits[i] : kNever;
}

void forbid(const LogitRow& row, Span span) {
  for (int i = span.first; i < span.end; i += kLanes) {
    const int64_t byte = i / 8;
    uint32_t word = byte < row.allowed_bytes ? row.allowed[byte] : 0;
    if (byte + 1 < row.allowed_bytes) word |= uint32_t(row.allowed[byte + 1]) << 8;
    keep_allowed(word, smaller_int(kLanes, span.end - i), row.logits + i);
  }
}

void learn(const LogitRow& row, const Spans& spans, Span span) {
  const int at = span.first / kSpanLogits;
  const float largest = largest_in(row.logits, span);
  spans.largest[at] = largest;
  if (row.wants_sum) spans.sums[at] = largest == kNever ? 0.0f : sum_in(row.logits, span, largest);
}

float largest_known(const LogitRow& row, const Spans& spans, Span wanted) {
  float best = kNever;
  for (int first = wanted.first / kSpanLogits * kSpanLogits; first < wanted.end; first += kSpanLogits) {
    const Span span = span_at(row, first);
    const bool is_whole = span.first >= wanted.first && span.end <= wanted.end;
    const Span part{span.first < wanted.first ? wanted.first : span.first, smaller_int(span.end, wanted.end)};
    best = larger_float(is_whole ? spans.largest[first / kSpanLogits] : largest_in(row.logits, part), best);
  }
  return best;
}

// Source: openai/whisper, whisper/decoding.py, ApplyTimestampRules; logarithms are left out on both sides.
void prefer_times(const LogitRow& row, const Spans& spans) {
  const Span others{0, row.first_time}, times{row.first_time, row.num_logits};
  const float best = largest_known(row, spans, times);
  if (best == kNever) return;
  if (!(sum_in(row.logits, times, best) > exponential_of(largest_known(row, spans, others) - best))) return;
  fill(row.logits, others.end, kNever);
  for (int first = 0; first < others.end; first += kSpanLogits) learn(row, spans, span_at(row, first));
}

// Logits far below the best are left out.
double sum_of(const LogitRow& row, const Spans& spans, float best) {
  double sum = 0.0;
  for (int at = 0; at * kSpanLogits < row.num_logits; ++at)
    if (spans.largest[at] > best - kFarBelow)
      sum += double(spans.sums[at]) * double(exponential_of(spans.largest[at] - best));
  return sum;
}

int index_of(const float* logits, Span span, float value) {
  for (int i = span.first; i < span.end; ++i)
    if (logits[i] == value) return i;
  return span.first;
}

// Inserts a logit after those that are at least as large.
inline void insert(int index, float logit, int count, FoundInRow* found) {
  int at = count;
  for (; at > 0 && logit > found->top_logits[at - 1]; --at) {
    found->top[at] = found->top[at - 1];
    found->top_logits[at] = found->top_logits[at - 1];
  }
  found->top[at] = index;
  found->top_logits[at] = logit;
}

void find_top(const LogitRow& row, const Spans& spans, FoundInRow* found) {
  int count = 0;
  for (int first = 0; first < row.num_logits; first += kSpanLogits) {
    if (count == row.num_top && !(spans.largest[first / kSpanLogits] > found->top_logits[count - 1])) continue;
    for (int i = first; i < span_at(row, first).end; ++i) {
      const float logit = row.logits[i] == row.logits[i] ? row.logits[i] : kNever;
      if (count == row.num_top && !(logit > found->top_logits[count - 1])) continue;
      if (count < row.num_top) ++count;
      insert(i, logit, count - 1, found);
    }
  }
}

void look_over(const LogitRow& row, float* room, FoundInRow* found) {
  const Spans spans{room, room + (row.num_logits + kSpanLogits - 1) / kSpanLogits};
  for (int first = 0; first < row.num_logits; first += kSpanLogits) {
    const Span span = span_at(row, first);
    if (row.allowed != nullptr) forbid(row, span);
    learn(row, spans, span);
  }
  if (row.first_time > 0) prefer_times(row, spans);
  float best = kNever;
  Span best_span = span_at(row, 0);
  for (int first = 0; first < row.num_logits; first += kSpanLogits) {
    if (!(spans.largest[first / kSpanLogits] > best)) continue;
    best = spans.largest[first / kSpanLogits];
    best_span = span_at(row, first);
  }
  found->best = index_of(row.logits, best_span, best);
  found->sum = row.wants_sum ? sum_of(row, spans, best) : 0.0;
  if (row.num_top > 0) find_top(row, spans, found);
}

}  // namespace

extern const SamplingKernel sampling_kernel;
const SamplingKernel sampling_kernel = {look_over};

}  // namespace SHOAL_ISA
}  // namespace shoal
