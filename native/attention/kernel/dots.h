// Sixteen exact sums of 32 bits: of products of four bytes each for scores, of two words each for values. The sums do
// not overflow: see coded_tiles.h.
//
// Keys are bytes from 0 to 255, 128 more than their codes. Where they are multiplied as they are, kKeyBias is 128, and
// a sum has to begin with the sum of the other factors times -kKeyBias.

#if defined(__AVX512F__)

constexpr int kKeyBias = 128;
typedef __m512i Ints;
typedef __m512i KeyCodes;    // sixteen keys' four bytes
typedef __m512i ValueCodes;  // sixteen columns' two words

inline Ints all_ints(int32_t x) { return _mm512_set1_epi32(x); }
inline Lanes floats_of(Ints x) { return _mm512_cvtepi32_ps(x); }
inline KeyCodes load_keys(const uint8_t* from) { return _mm512_loadu_si512(from); }
inline ValueCodes load_values(const int8_t* from) {
  return _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from));
}
inline Ints add_keys(Ints sums, KeyCodes keys, int32_t four) {
  return _mm512_dpbusd_epi32(sums, keys, _mm512_set1_epi32(four));
}
inline Ints add_values(Ints sums, ValueCodes values, int32_t two) {
  return _mm512_dpwssd_epi32(sums, values, _mm512_set1_epi32(two));
}

#elif defined(__AVX2__)

struct Ints {
  __m256i low, high;
};
typedef Ints ValueCodes;

inline Ints all_ints(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
inline Lanes floats_of(Ints x) { return {_mm256_cvtepi32_ps(x.low), _mm256_cvtepi32_ps(x.high)}; }
inline ValueCodes load_values(const int8_t* from) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)from)),
          _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)(from + 16)))};
}

#if defined(__AVXVNNI__)

constexpr int kKeyBias = 128;
typedef Ints KeyCodes;

inline KeyCodes load_keys(const uint8_t* from) {
  return {_mm256_loadu_si256((const __m256i*)from), _mm256_loadu_si256((const __m256i*)(from + 32))};
}
inline Ints add_keys(Ints sums, KeyCodes keys, int32_t four) {
  const __m256i x = _mm256_set1_epi32(four);
  return {_mm256_dpbusd_avx_epi32(sums.low, keys.low, x), _mm256_dpbusd_avx_epi32(sums.high, keys.high, x)};
}
inline Ints add_values(Ints sums, ValueCodes values, int32_t two) {
  const __m256i x = _mm256_set1_epi32(two);
  return {_mm256_dpwssd_avx_epi32(sums.low, values.low, x), _mm256_dpwssd_avx_epi32(sums.high, values.high, x)};
}

#else

constexpr int kKeyBias = 0;
struct KeyCodes {
  __m256i low, high;  // signed
};

inline KeyCodes load_keys(const uint8_t* from) {
  const __m256i bias = _mm256_set1_epi8(-128);
  return {_mm256_xor_si256(_mm256_loadu_si256((const __m256i*)from), bias),
          _mm256_xor_si256(_mm256_loadu_si256((const __m256i*)(from + 32)), bias)};
}
// Magnitudes of keys times the other factors with the keys' signs, because sums of two such products fit 16 bits.
inline __m256i dot_signed(__m256i sums, __m256i keys, __m256i x) {
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(keys), _mm256_sign_epi8(x, keys));
  return _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Ints add_keys(Ints sums, KeyCodes keys, int32_t four) {
  const __m256i x = _mm256_set1_epi32(four);
  return {dot_signed(sums.low, keys.low, x), dot_signed(sums.high, keys.high, x)};
}
inline Ints add_values(Ints sums, ValueCodes values, int32_t two) {
  const __m256i x = _mm256_set1_epi32(two);
  return {_mm256_add_epi32(sums.low, _mm256_madd_epi16(values.low, x)),
          _mm256_add_epi32(sums.high, _mm256_madd_epi16(values.high, x))};
}

#endif

#elif defined(__aarch64__)

constexpr int kKeyBias = 0;
struct Ints {
  int32x4_t part[4];
};
struct KeyCodes {
  int8x16_t part[4];
};
struct ValueCodes {
  int16x8_t part[4];
};

inline Ints all_ints(int32_t x) { return {{vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x), vdupq_n_s32(x)}}; }
inline Lanes floats_of(Ints x) {
  Lanes y;
  for (int i = 0; i < 4; ++i) y.part[i] = vcvtq_f32_s32(x.part[i]);
  return y;
}
inline KeyCodes load_keys(const uint8_t* from) {
  KeyCodes y;
  for (int i = 0; i < 4; ++i) y.part[i] = vreinterpretq_s8_u8(veorq_u8(vld1q_u8(from + 16 * i), vdupq_n_u8(128)));
  return y;
}
inline ValueCodes load_values(const int8_t* from) {
  ValueCodes y;
  for (int i = 0; i < 4; ++i) y.part[i] = vmovl_s8(vld1_s8(from + 8 * i));
  return y;
}
inline int32x4_t dot_signed(int32x4_t sums, int8x16_t keys, int8x16_t x) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(sums, keys, x);
#else
  const int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(keys), vget_low_s8(x)));
  const int32x4_t high = vpaddlq_s16(vmull_high_s8(keys, x));
  return vaddq_s32(sums, vpaddq_s32(low, high));
#endif
}
inline Ints add_keys(Ints sums, KeyCodes keys, int32_t four) {
  const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(four));
  for (int i = 0; i < 4; ++i) sums.part[i] = dot_signed(sums.part[i], keys.part[i], x);
  return sums;
}
inline Ints add_values(Ints sums, ValueCodes values, int32_t two) {
  const int16x8_t x = vreinterpretq_s16_s32(vdupq_n_s32(two));
  for (int i = 0; i < 4; ++i) {
    const int32x4_t low = vmull_s16(vget_low_s16(values.part[i]), vget_low_s16(x));
    sums.part[i] = vaddq_s32(sums.part[i], vpaddq_s32(low, vmull_high_s16(values.part[i], x)));
  }
  return sums;
}

#else

constexpr int kKeyBias = 0;
struct Ints {
  int32_t lane[kLanes];
};
struct KeyCodes {
  int16_t code[kLanes * 4];
};
struct ValueCodes {
  int16_t code[kLanes * 2];
};

inline Ints all_ints(int32_t x) {
  Ints y;
  for (int32_t& lane : y.lane) lane = x;
  return y;
}
inline Lanes floats_of(Ints x) { return from_ints(x.lane); }
inline KeyCodes load_keys(const uint8_t* from) {
  KeyCodes y;
  for (int i = 0; i < kLanes * 4; ++i) y.code[i] = int16_t(from[i] - 128);
  return y;
}
inline ValueCodes load_values(const int8_t* from) {
  ValueCodes y;
  for (int i = 0; i < kLanes * 2; ++i) y.code[i] = from[i];
  return y;
}
inline Ints add_keys(Ints sums, const KeyCodes& keys, int32_t four) {
  int8_t x[4];
  __builtin_memcpy(x, &four, sizeof(x));
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < 4; ++j) sums.lane[i] += int32_t(keys.code[4 * i + j]) * x[j];
  return sums;
}
inline Ints add_values(Ints sums, const ValueCodes& values, int32_t two) {
  int16_t x[2];
  __builtin_memcpy(x, &two, sizeof(x));
  for (int i = 0; i < kLanes; ++i)
    for (int j = 0; j < 2; ++j) sums.lane[i] += int32_t(values.code[2 * i + j]) * x[j];
  return sums;
}

#endif

// The factor that all lanes are multiplied by: neighboring codes of a row.
template <typename T>
inline int32_t word_at(const T* from) {
  int32_t word;
  __builtin_memcpy(&word, from, sizeof(word));
  return word;
}
