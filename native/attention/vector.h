// Fixed-width float vectors for the instruction set that this file is being compiled for, and the exponential.
// Included inside the kernel's own namespace: nothing here may be shared between instruction sets.

typedef float F1 __attribute__((vector_size(4)));
typedef float F4 __attribute__((vector_size(16)));
typedef float F8 __attribute__((vector_size(32)));
typedef float F16 __attribute__((vector_size(64)));

#if defined(__AVX512F__)
typedef F16 Vec;
constexpr int kTileRows = 8;  // 8 rows x 2 vectors of accumulators, of 32 registers
constexpr int kTileVecs = 2;
#elif defined(__AVX2__)
typedef F8 Vec;
constexpr int kTileRows = 6;  // 6 rows x 2 vectors of accumulators, of 16 registers
constexpr int kTileVecs = 2;
#elif defined(__aarch64__)
typedef F4 Vec;
constexpr int kTileRows = 5;  // 5 rows x 4 vectors of accumulators, of 32 registers
constexpr int kTileVecs = 4;
#else
typedef F4 Vec;
constexpr int kTileRows = 2;  // 2 rows x 4 vectors of accumulators, of 16 registers
constexpr int kTileVecs = 4;
#endif
constexpr int kLanes = sizeof(Vec) / sizeof(float);
typedef int IVec __attribute__((vector_size(sizeof(Vec))));

template <typename V>
inline V load(const float* from) {
  V value;
  __builtin_memcpy(&value, from, sizeof(V));
  return value;
}

template <typename V>
inline void store(float* to, V value) {
  __builtin_memcpy(to, &value, sizeof(V));
}

inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }
inline Vec smaller(Vec a, Vec b) { return a < b ? a : b; }

inline float largest_lane(Vec v) {
  float best = v[0];
  for (int i = 1; i < kLanes; ++i) best = v[i] > best ? v[i] : best;
  return best;
}

inline float sum_lanes(Vec v) {
  float sum = 0.0f;
  for (int i = 0; i < kLanes; ++i) sum += v[i];
  return sum;
}

// e**x for x within [-87, 87] (clamped), relative error below 2e-7. x = n ln 2 + r with |r| <= ln 2 / 2: the power of
// two is added to the exponent bits, e**r is its Taylor polynomial of degree 7 (remainder below 6e-9).
inline Vec exponential(Vec x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2**23: adding it leaves the nearest integer in the low mantissa bits
  const Vec zero = {};
  x = larger(smaller(x, zero + 87.0f), zero - 87.0f);
  const Vec shifted = x * 1.44269504f + kRound;
  const Vec n = shifted - kRound;
  const Vec r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, the first exact in few bits
  Vec power = r * (1.0f / 5040.0f) + 1.0f / 720.0f;
  power = power * r + 1.0f / 120.0f;
  power = power * r + 1.0f / 24.0f;
  power = power * r + 1.0f / 6.0f;
  power = power * r + 0.5f;
  power = power * r + 1.0f;
  power = power * r + 1.0f;
  return (Vec)((IVec)power + ((IVec)shifted << 23));
}

// tanh to an absolute error of 2e-7; beyond 10 it is 1 in fp32.
inline Vec hyperbolic_tangent(Vec x) {
  const Vec zero = {};
  x = larger(smaller(x, zero + 10.0f), zero - 10.0f);
  return 1.0f - 2.0f / (exponential(x + x) + 1.0f);
}
