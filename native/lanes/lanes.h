// Sixteen virtual lanes of fp32: the one vector type of all float arithmetic, so that every instruction set computes the
// same bits. A register may hold sixteen lanes, eight or four; what a lane computes does not depend on that, fused
// multiply-adds are written out (compile with -ffp-contract=off), and reductions over lanes have one order.
//
// Included inside a kernel's own namespace: nothing here may be shared between instruction sets.

constexpr int kLanes = 16;

#if defined(__AVX512F__)
#include "lanes_avx512.h"
#elif defined(__AVX2__)
#include "lanes_avx2.h"
#elif defined(__aarch64__)
#include "lanes_neon.h"
#else
#include "lanes_portable.h"
#endif

#if !defined(__AVX512F__)

// The largest lanes of sixteen, side by side; x(i) gives the i-th, without a sign.
template <typename Each>
inline Lanes largest_lanes(const Each& x) {
  float most[kLanes];
  for (int i = 0; i < kLanes; ++i) most[i] = largest_lane(x(i));
  return load(most);
}

// store_rounded for sixteen times sixteen values, of which x(i) gives the i-th; sums[16].
template <typename Each>
inline void store_rounded(int8_t* to, const Each& x, int32_t* sums) {
  for (int i = 0; i < kLanes; ++i) sums[i] = store_rounded(to + i * kLanes, x(i));
}

#endif

// The sum of all lanes: lane i and i + 8, then + 4, + 2, + 1.
inline float sum_lanes(Lanes x) {
  float v[kLanes];
  store(v, x);
  for (int width = kLanes / 2; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) v[i] += v[i + width];
  return v[0];
}

// e**x for x within [-87, 87] (clamped), relative error below 2e-7. x = n ln 2 + r with |r| <= ln 2 / 2: the power of
// two is added to the exponent bits, e**r is its Taylor polynomial of degree 7 (remainder below 6e-9).
inline Lanes exponential(Lanes x) {
  const Lanes round = broadcast(12582912.0f);  // 1.5 * 2**23: adding it leaves the nearest integer in the low bits
  x = larger(smaller(x, broadcast(87.0f)), broadcast(-87.0f));
  const Lanes shifted = fma(x, broadcast(1.44269504f), round);
  const Lanes n = sub(shifted, round);
  const Lanes high = fma(n, broadcast(-0.693359375f), x);  // ln 2 in two parts, the first exact in few bits
  const Lanes r = fma(n, broadcast(2.12194440e-4f), high);
  Lanes power = fma(r, broadcast(1.0f / 5040.0f), broadcast(1.0f / 720.0f));
  power = fma(power, r, broadcast(1.0f / 120.0f));
  power = fma(power, r, broadcast(1.0f / 24.0f));
  power = fma(power, r, broadcast(1.0f / 6.0f));
  power = fma(power, r, broadcast(0.5f));
  power = fma(power, r, broadcast(1.0f));
  power = fma(power, r, broadcast(1.0f));
  return add_exponent(power, shifted);
}

// 1 / (1 + e**-x)
inline Lanes sigmoid(Lanes x) {
  const Lanes one = broadcast(1.0f);
  return div(one, add(one, exponential(sub(broadcast(0.0f), x))));
}

// tanh to an absolute error of 2e-7; beyond 10 it is 1 in fp32.
inline Lanes hyperbolic_tangent(Lanes x) {
  x = larger(smaller(x, broadcast(10.0f)), broadcast(-10.0f));
  const Lanes one = broadcast(1.0f);
  return sub(one, div(broadcast(2.0f), add(exponential(add(x, x)), one)));
}
