// Recurrent layers for one instruction set. Compiled once per set with SHOAL_ISA naming it: see attention/kernel.cpp.
//
// Rows are taken one after the other, and each value is computed by one chain of operations, so that the bits do not
// depend on where a prompt was cut.

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

}  // namespace

extern const RecurrenceKernel recurrence_kernel;
const RecurrenceKernel recurrence_kernel = {gated_conv};

}  // namespace SHOAL_ISA
}  // namespace shoal
