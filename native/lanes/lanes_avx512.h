// Sixteen lanes in one register. See lanes.h.

typedef __m512 Lanes;

inline Lanes load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Lanes x) { _mm512_storeu_ps(to, x); }
inline Lanes broadcast(float x) { return _mm512_set1_ps(x); }
inline Lanes add(Lanes a, Lanes b) { return _mm512_add_ps(a, b); }
inline Lanes sub(Lanes a, Lanes b) { return _mm512_sub_ps(a, b); }
inline Lanes mul(Lanes a, Lanes b) { return _mm512_mul_ps(a, b); }
inline Lanes div(Lanes a, Lanes b) { return _mm512_div_ps(a, b); }
inline Lanes square_root(Lanes x) { return _mm512_sqrt_ps(x); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { return _mm512_fmadd_ps(a, b, c); }
// The second where they are equal or one is not a number.
inline Lanes larger(Lanes a, Lanes b) { return _mm512_max_ps(a, b); }
inline Lanes smaller(Lanes a, Lanes b) { return _mm512_min_ps(a, b); }
inline Lanes magnitude(Lanes x) { return _mm512_abs_ps(x); }

inline Lanes load_half(const uint16_t* from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from)); }
inline void store_half(uint16_t* to, Lanes x) {
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
inline Lanes load_bfloat(const uint16_t* from) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
inline Lanes from_ints(const int32_t* from) { return _mm512_cvtepi32_ps(_mm512_loadu_si512(from)); }
inline Lanes from_bytes(const int8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)from)));
}
inline Lanes from_unsigned_bytes(const uint8_t* from) {
  return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)from)));
}

// In whatever order, since it does not matter.
inline float largest_lane(Lanes x) { return _mm512_reduce_max_ps(x); }

// The nearest integers, ties to even, of values within [-128, 127]. Returns their sum.
inline int32_t store_rounded(int8_t* to, Lanes x) {
  const __m512i whole = _mm512_cvtps_epi32(x);
  _mm_storeu_si128((__m128i*)to, _mm512_cvtepi32_epi8(whole));
  return _mm512_reduce_add_epi32(whole);
}

// The nearest integers, ties to even, of values within [-32768, 32767].
inline void store_words(int16_t* to, Lanes x) {
  _mm256_storeu_si256((__m256i*)to, _mm512_cvtepi32_epi16(_mm512_cvtps_epi32(x)));
}

// Lane i of the result joins all lanes of x[i]: two registers become one in each step.
template <typename Join>
inline __m512i join_lanes(const __m512i (&x)[kLanes], const Join& join) {
  __m512i quarters[4];  // register i has four lanes each of x[i], x[i + 4], x[i + 8] and x[i + 12]
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i low = join(_mm512_shuffle_i32x4(x[i], x[i + 4], 0x44), _mm512_shuffle_i32x4(x[i], x[i + 4], 0xee));
    const __m512i high =
        join(_mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0x44), _mm512_shuffle_i32x4(x[i + 8], x[i + 12], 0xee));
    quarters[i] = join(_mm512_shuffle_i32x4(low, high, 0x88), _mm512_shuffle_i32x4(low, high, 0xdd));
  }
  __m512i pairs[2];
#pragma GCC unroll 2
  for (int i = 0; i < 2; ++i)
    pairs[i] = join(_mm512_unpacklo_epi32(quarters[2 * i], quarters[2 * i + 1]),
                    _mm512_unpackhi_epi32(quarters[2 * i], quarters[2 * i + 1]));
  return join(_mm512_unpacklo_epi64(pairs[0], pairs[1]), _mm512_unpackhi_epi64(pairs[0], pairs[1]));
}

// The largest lanes of sixteen, side by side; x(i) gives the i-th, without a sign.
template <typename Each>
inline Lanes largest_lanes(const Each& x) {
  __m512i all[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) all[i] = _mm512_castps_si512(x(i));
  return _mm512_castsi512_ps(join_lanes(all, [](__m512i a, __m512i b) { return _mm512_max_epi32(a, b); }));
}

// store_rounded for sixteen times sixteen values, of which x(i) gives the i-th; sums[16].
template <typename Each>
inline void store_rounded(int8_t* to, const Each& x, int32_t* sums) {
  __m512i whole[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) {
    whole[i] = _mm512_cvtps_epi32(x(i));
    _mm_storeu_si128((__m128i*)(to + i * kLanes), _mm512_cvtepi32_epi8(whole[i]));
  }
  _mm512_storeu_si512(sums, join_lanes(whole, [](__m512i a, __m512i b) { return _mm512_add_epi32(a, b); }));
}

// x * 2**n, where `shifted` is n + 1.5 * 2**23: n is in its low mantissa bits.
inline Lanes add_exponent(Lanes x, Lanes shifted) {
  const __m512i exponent = _mm512_slli_epi32(_mm512_castps_si512(shifted), 23);
  return _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(x), exponent));
}
