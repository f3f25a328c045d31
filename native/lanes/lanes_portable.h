// Sixteen lanes in an array, for any processor that computes by IEEE 754. See lanes.h.

struct Lanes {
  float lane[kLanes];
};

// a * b + c rounded once. The product is exact in fp64; its sum with c is rounded to odd there, so that rounding it
// again to fp32 changes nothing. Source: Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", IEEE
// Transactions on Computers 57(4), 2008.
inline float fused(float a, float b, float c) {
  const double product = double(a) * double(b), addend = c;
  const double sum = product + addend;
  const double part = sum - product;
  const double error = (product - (sum - part)) + (addend - part);
  int64_t bits;
  __builtin_memcpy(&bits, &sum, sizeof(bits));
  const bool is_inexact = error > 0.0 || error < 0.0;
  const int64_t towards = (error > 0.0) == (sum > 0.0) ? 1 : -1;
  bits += is_inexact && (bits & 1) == 0 ? towards : 0;
  double odd;
  __builtin_memcpy(&odd, &bits, sizeof(odd));
  return float(odd);
}

inline uint32_t bits_of(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof(bits));
  return bits;
}

inline float of_bits(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, sizeof(x));
  return x;
}

// Source: IEEE 754 binary16; the multiplication makes subnormals normal.
inline float half_to_float(uint16_t half) {
  const uint32_t magnitude = uint32_t(half & 0x7fff) << 13, sign = uint32_t(half & 0x8000) << 16;
  const float x = magnitude >= 0x0f800000u ? of_bits(magnitude + 0x70000000u)         // infinite or NaN
                                           : of_bits(magnitude) * 0x1p112f;           // 2 ** (127 - 15)
  return of_bits(bits_of(x) | sign);
}

// To the nearest, ties to even.
inline uint16_t float_to_half(float x) {
  const uint32_t sign = (bits_of(x) >> 16) & 0x8000u, magnitude = bits_of(x) & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return uint16_t(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // at least 65520: rounds to infinity
  if (magnitude < 0x38800000u)                                    // below 2**-14: adding 0.5 aligns the last place
    return uint16_t(sign | (bits_of(of_bits(magnitude) + 0.5f) - 0x3f000000u));
  const uint32_t rounded = magnitude + 0xfffu + ((magnitude >> 13) & 1u);
  return uint16_t(sign | ((rounded - 0x38000000u) >> 13));
}

#define SHOAL_EACH_LANE(expression)                                   \
  Lanes y;                                                            \
  for (int i = 0; i < kLanes; ++i) y.lane[i] = (expression);          \
  return y

inline Lanes load(const float* from) { SHOAL_EACH_LANE(from[i]); }
inline void store(float* to, Lanes x) {
  for (int i = 0; i < kLanes; ++i) to[i] = x.lane[i];
}
inline Lanes broadcast(float x) { SHOAL_EACH_LANE(x); }
inline Lanes add(Lanes a, Lanes b) { SHOAL_EACH_LANE(a.lane[i] + b.lane[i]); }
inline Lanes sub(Lanes a, Lanes b) { SHOAL_EACH_LANE(a.lane[i] - b.lane[i]); }
inline Lanes mul(Lanes a, Lanes b) { SHOAL_EACH_LANE(a.lane[i] * b.lane[i]); }
inline Lanes div(Lanes a, Lanes b) { SHOAL_EACH_LANE(a.lane[i] / b.lane[i]); }
inline Lanes square_root(Lanes x) { SHOAL_EACH_LANE(__builtin_sqrtf(x.lane[i])); }
#if defined(__SSE2__)

// `fused` for two lanes, without the last rounding.
inline __m128d fused_to_odd(__m128 a, __m128 b, __m128 c) {
  const __m128d product = _mm_mul_pd(_mm_cvtps_pd(a), _mm_cvtps_pd(b)), addend = _mm_cvtps_pd(c);
  const __m128d sum = _mm_add_pd(product, addend), part = _mm_sub_pd(sum, product);
  const __m128d error = _mm_add_pd(_mm_sub_pd(product, _mm_sub_pd(sum, part)), _mm_sub_pd(addend, part));
  const __m128i bits = _mm_castpd_si128(sum), one = _mm_set1_epi64x(1);
  const __m128i is_less = _mm_srai_epi32(_mm_castpd_si128(_mm_xor_pd(error, sum)), 31);  // |exact| < |sum|
  const __m128i towards = _mm_or_si128(_mm_shuffle_epi32(is_less, 0xf5), one);           // -1 or 1
  const __m128i is_even = _mm_sub_epi64(_mm_and_si128(bits, one), one);
  const __m128d zero = _mm_setzero_pd();
  const __m128d is_inexact = _mm_or_pd(_mm_cmplt_pd(error, zero), _mm_cmpgt_pd(error, zero));  // not: not a number
  const __m128i step = _mm_and_si128(_mm_and_si128(towards, is_even), _mm_castpd_si128(is_inexact));
  return _mm_castsi128_pd(_mm_add_epi64(bits, step));
}

inline Lanes fma(Lanes a, Lanes b, Lanes c) {
  Lanes y;
  for (int i = 0; i < kLanes; i += 4) {
    const __m128 a4 = _mm_loadu_ps(a.lane + i), b4 = _mm_loadu_ps(b.lane + i), c4 = _mm_loadu_ps(c.lane + i);
    const __m128 low = _mm_cvtpd_ps(fused_to_odd(a4, b4, c4));
    const __m128 high = _mm_cvtpd_ps(fused_to_odd(_mm_movehl_ps(a4, a4), _mm_movehl_ps(b4, b4), _mm_movehl_ps(c4, c4)));
    _mm_storeu_ps(y.lane + i, _mm_movelh_ps(low, high));
  }
  return y;
}

#else

inline Lanes fma(Lanes a, Lanes b, Lanes c) { SHOAL_EACH_LANE(fused(a.lane[i], b.lane[i], c.lane[i])); }

#endif

// The second where they are equal or one is not a number.
inline Lanes larger(Lanes a, Lanes b) { SHOAL_EACH_LANE(a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]); }
inline Lanes smaller(Lanes a, Lanes b) { SHOAL_EACH_LANE(a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]); }
inline Lanes magnitude(Lanes x) { SHOAL_EACH_LANE(of_bits(bits_of(x.lane[i]) & 0x7fffffffu)); }

inline Lanes load_half(const uint16_t* from) { SHOAL_EACH_LANE(half_to_float(from[i])); }
inline void store_half(uint16_t* to, Lanes x) {
  for (int i = 0; i < kLanes; ++i) to[i] = float_to_half(x.lane[i]);
}
inline Lanes load_bfloat(const uint16_t* from) { SHOAL_EACH_LANE(of_bits(uint32_t(from[i]) << 16)); }
inline Lanes from_ints(const int32_t* from) { SHOAL_EACH_LANE(float(from[i])); }
inline Lanes from_bytes(const int8_t* from) { SHOAL_EACH_LANE(float(from[i])); }
inline Lanes from_unsigned_bytes(const uint8_t* from) { SHOAL_EACH_LANE(float(from[i])); }

inline float largest_lane(Lanes x) {
  float most = x.lane[0];
  for (int i = 1; i < kLanes; ++i) most = x.lane[i] > most ? x.lane[i] : most;
  return most;
}

// The nearest integers, ties to even, of values within [-128, 127]. Returns their sum.
inline int32_t store_rounded(int8_t* to, Lanes x) {
  int32_t sum = 0;
  for (int i = 0; i < kLanes; ++i) {
    const int32_t whole = int32_t(bits_of(x.lane[i] + 12582912.0f)) - 0x4b400000;  // 1.5 * 2**23
    to[i] = int8_t(whole);
    sum += whole;
  }
  return sum;
}

// The nearest integers, ties to even, of values within [-32768, 32767].
inline void store_words(int16_t* to, Lanes x) {
  for (int i = 0; i < kLanes; ++i) to[i] = int16_t(int32_t(bits_of(x.lane[i] + 12582912.0f)) - 0x4b400000);
}

// x * 2**n, where `shifted` is n + 1.5 * 2**23: n is in its low mantissa bits.
inline Lanes add_exponent(Lanes x, Lanes shifted) {
  SHOAL_EACH_LANE(of_bits(bits_of(x.lane[i]) + (bits_of(shifted.lane[i]) << 23)));
}

#undef SHOAL_EACH_LANE
