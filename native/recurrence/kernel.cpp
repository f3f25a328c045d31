// Recurrent layers for one instruction set. Compiled once per set with SHOAL_ISA naming it: see attention/kernel.cpp.
//
// Rows are processed one after the other, and each value is computed by one chain of operations, so that the bits do
// not depend on where a prompt was cut.

#include "args.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "../layers/args.h"

namespace shoal {
namespace SHOAL_ISA {
namespace {

#include "../lanes/lanes.h"
#include "../layers/functions.h"

// Up to sixteen channels of a convolution: their taps and their latest inputs.
template <int kTaps>
struct ConvLanes {
  Lanes taps[kTaps], window[kTaps], bias;
  int channel, count, num_channels;

  ConvLanes(const ConvView& view, const ConvCall& call, int first)
      : bias(broadcast(0.0f)), channel(first), count(call.end_channel - first), num_channels(view.num_channels) {
    for (int tap = 0; tap < kTaps; ++tap) taps[tap] = load_some(view.taps + at(tap), count);
    for (int tap = 0; tap + 1 < kTaps; ++tap) window[tap + 1] = load_some(call.window + at(tap), count);
    if (view.bias != nullptr) bias = load_some(view.bias + first, count);
  }

  int64_t at(int tap) const { return int64_t(tap) * num_channels + channel; }

  // The sum over the window with the newest input, the oldest term first.
  Lanes next(Lanes x) {
    for (int tap = 0; tap + 1 < kTaps; ++tap) window[tap] = window[tap + 1];
    window[kTaps - 1] = x;
    Lanes sum = bias;
    for (int tap = 0; tap < kTaps; ++tap) sum = fma(window[tap], taps[tap], sum);
    return sum;
  }

  void save(const ConvCall& call) const {
    for (int tap = 0; tap + 1 < kTaps; ++tap) store_some(call.window + at(tap), count, window[tap + 1]);
  }
};

template <int kTaps>
void gated_conv_of(const ConvView& view, const ConvCall& call, const float* in, float* out) {
  for (int channel = call.first_channel; channel < call.end_channel; channel += kLanes) {
    ConvLanes<kTaps> lanes(view, call, channel);
    for (int row = 0; row < call.num_rows; ++row) {
      const float* from = in + row * call.in_stride + channel;
      const Lanes b = load_some(from, lanes.count), c = load_some(from + view.num_channels, lanes.count);
      const Lanes x = load_some(from + 2 * int64_t(view.num_channels), lanes.count);
      store_some(out + row * call.out_stride + channel, lanes.count, mul(c, lanes.next(mul(b, x))));
    }
    lanes.save(call);
  }
}

void gated_conv(const ConvView& view, const ConvCall& call, const float* in, float* out) {
  switch (view.num_taps) {
    case 2: return gated_conv_of<2>(view, call, in, out);
    case 3: return gated_conv_of<3>(view, call, in, out);
    default: return gated_conv_of<4>(view, call, in, out);
  }
}

template <int kTaps>
void silu_conv_of(const ConvView& view, const ConvCall& call, float* x) {
  for (int channel = call.first_channel; channel < call.end_channel; channel += kLanes) {
    ConvLanes<kTaps> lanes(view, call, channel);
    for (int row = 0; row < call.num_rows; ++row) {
      float* at = x + row * call.in_stride + channel;
      store_some(at, lanes.count, activate(Activation::kSilu, lanes.next(load_some(at, lanes.count))));
    }
    lanes.save(call);
  }
}

void silu_conv(const ConvView& view, const ConvCall& call, float* x) {
  switch (view.num_taps) {
    case 2: return silu_conv_of<2>(view, call, x);
    case 3: return silu_conv_of<3>(view, call, x);
    default: return silu_conv_of<4>(view, call, x);
  }
}

float lane_of(Lanes x) {
  float all[kLanes];
  store(all, x);
  return all[0];
}

// log(1 + e**x) = max(x, 0) + log(1 + u) with u = e**-|x|, and log(1 + u) = 2 artanh(u / (2 + u)), by its series: the
// argument is at most 1/3, so that the first term left out is below 2e-12.
float softplus(float x) {
  const double u = lane_of(exponential(broadcast(x < 0.0f ? x : -x)));
  const double ratio = u / (2.0 + u), square = ratio * ratio;
  double sum = 0.0;
  for (int power = 21; power >= 1; power -= 2) sum = sum * square + 1.0 / power;
  return float((x > 0.0f ? double(x) : 0.0) + 2.0 * ratio * sum);
}

float sum_of_squares(const float* x, int width) {
  Lanes squares = broadcast(0.0f);
  for (int i = 0; i < width; i += kLanes) {
    const Lanes v = load_some(x + i, width - i);
    squares = fma(v, v, squares);
  }
  return sum_lanes(squares);
}

// to = x * scale / |x|
void normalize(const float* x, float scale, int width, float* to) {
  const float factor = scale / __builtin_sqrtf(sum_of_squares(x, width) + 1e-6f);
  for (int i = 0; i < width; i += kLanes)
    store_some(to + i, width - i, mul(load_some(x + i, width - i), broadcast(factor)));
}

// Some columns of the state: kColumns registers of them, or `count` columns of one.
template <int kColumns, bool kWhole>
void step_columns(const DeltaView& view, float* matrix, const float* query, const float* key, const float* value,
                  float decay, float write, int count, float* out) {
  const auto get = [count](const float* from, int i) { return kWhole ? load(from + i * kLanes) : load_some(from, count); };
  const auto put = [count](float* to, int i, Lanes x) { kWhole ? store(to + i * kLanes, x) : store_some(to, count, x); };
  const Lanes factor = broadcast(decay);
  Lanes sums[kColumns], changes[kColumns];
  for (int i = 0; i < kColumns; ++i) sums[i] = broadcast(0.0f);
  for (int row = 0; row < view.key_dim; ++row) {
    const float* at = matrix + int64_t(row) * view.value_dim;
    const Lanes k = broadcast(key[row]);
    for (int i = 0; i < kColumns; ++i) sums[i] = fma(mul(get(at, i), factor), k, sums[i]);
  }
  for (int i = 0; i < kColumns; ++i) {
    changes[i] = mul(sub(get(value, i), sums[i]), broadcast(write));
    sums[i] = broadcast(0.0f);
  }
  for (int row = 0; row < view.key_dim; ++row) {
    float* at = matrix + int64_t(row) * view.value_dim;
    const Lanes k = broadcast(key[row]), q = broadcast(query[row]);
    for (int i = 0; i < kColumns; ++i) {
      const Lanes next = fma(k, changes[i], mul(get(at, i), factor));
      put(at, i, next);
      sums[i] = fma(next, q, sums[i]);
    }
  }
  for (int i = 0; i < kColumns; ++i) put(out, i, sums[i]);
}

void delta_rule(const DeltaView& view, const DeltaCall& call) {
  constexpr int kWide = 4;
  float query[kMaxDeltaDim], key[kMaxDeltaDim];
  for (int row = 0; row < call.num_rows; ++row) {
    const int64_t at = row * call.in_stride;
    normalize(call.query + at, 1.0f / __builtin_sqrtf(float(view.key_dim)), view.key_dim, query);
    normalize(call.key + at, 1.0f, view.key_dim, key);
    const float write = lane_of(sigmoid(broadcast(call.write[at])));
    const float decay = lane_of(exponential(broadcast(call.rate * softplus(call.decay[at] + call.decay_bias))));
    const float *value = call.value + at, *gate = call.gate + at;
    float* out = call.out + row * call.out_stride;
    int column = 0;
    for (; column + kWide * kLanes <= view.value_dim; column += kWide * kLanes)
      step_columns<kWide, true>(view, call.matrix + column, query, key, value + column, decay, write, kLanes, out + column);
    for (; column < view.value_dim; column += kLanes)
      step_columns<1, false>(view, call.matrix + column, query, key, value + column, decay, write,
                             view.value_dim - column, out + column);
    const float mean = sum_of_squares(out, view.value_dim) / float(view.value_dim);
    const Lanes inverse = broadcast(1.0f / __builtin_sqrtf(mean + view.epsilon));
    for (int i = 0; i < view.value_dim; i += kLanes) {
      const int count = view.value_dim - i;
      const Lanes normed = mul(mul(load_some(out + i, count), inverse), load_some(view.norm + i, count));
      store_some(out + i, count, mul(normed, activate(Activation::kSilu, load_some(gate + i, count))));
    }
  }
}

#include "kernel/scan.h"

}  // namespace

extern const RecurrenceKernel recurrence_kernel;
const RecurrenceKernel recurrence_kernel = {gated_conv, silu_conv, delta_rule,
                                            scan,       gated_norm, gated_squares};

}  // namespace SHOAL_ISA
}  // namespace shoal
