// Integer products with AVX2, with its VNNI instructions where the processor has them. Included inside the kernel's own
// namespace; see kernel.cpp for what it provides.

constexpr int kDenseRows = 6;
constexpr int kDenseTiles = 1;

struct FewRows : RowLoop {
  static constexpr int kRows = 3;  // 3 rows x 2 registers of integer and of fp32 sums, of 16 registers
  static constexpr int kTiles = 1;

  static __m256i four_codes(const int8_t* from) {
    int32_t word;
    __builtin_memcpy(&word, from, sizeof(word));
    return _mm256_set1_epi32(word);
  }

  static __m256i half_vector(const uint8_t* from) { return _mm256_load_si256((const __m256i*)from); }

#if defined(__AVXVNNI__)

  // Weights are unsigned bytes.
  static int code_bias(const Matrix& m) { return has_signed_codes(m) ? 128 : m.zero_point; }
  static uint8_t code_shift(const Matrix& m) { return has_signed_codes(m) ? 128 : 0; }

  template <int M>
  static void dot_groups(int, const uint8_t* weights, const int8_t* codes, int64_t stride, int groups,
                         __m256i (&sums)[M][2]) {
#pragma GCC unroll 8
    for (int g = 0; g < groups; ++g) {
      const __m256i low = half_vector(weights + g * kVectorBytes), high = half_vector(weights + g * kVectorBytes + 32);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const __m256i x = four_codes(codes + m * stride + g * 4);
        sums[m][0] = _mm256_dpbusd_avx_epi32(sums[m][0], low, x);
        sums[m][1] = _mm256_dpbusd_avx_epi32(sums[m][1], high, x);
      }
    }
  }

#else

  // Narrow codes stay unsigned. Sums of pairs of products must fit 16 bits: this many may be added before they are
  // widened; 0 for signed codes, which are multiplied as magnitudes with the sign applied to the activation.
  static int code_bias(const Matrix& m) { return has_signed_codes(m) ? 0 : m.zero_point; }
  static uint8_t code_shift(const Matrix&) { return 0; }
  static int pair_depth(const Matrix& m) {
    switch (m.codes) {
      case Codes::kBits2:
      case Codes::kBits3:
      case Codes::kBits4: return 8;  // 8 * 2 * 15 * 127 < 2**15
      case Codes::kBits5: return 4;  // 4 * 2 * 31 * 127
      case Codes::kBits6: return 2;  // 2 * 2 * 63 * 127
      default: return 0;
    }
  }

  template <int M, int kDepth>
  static void dot_narrow(const uint8_t* weights, const int8_t* codes, int64_t stride, int groups,
                         __m256i (&sums)[M][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
    for (int first = 0; first < groups; first += kDepth) {
      __m256i pairs[M][2];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) pairs[m][0] = pairs[m][1] = _mm256_setzero_si256();
      const int end = first + kDepth < groups ? first + kDepth : groups;
      for (int g = first; g < end; ++g) {
        const __m256i low = half_vector(weights + g * kVectorBytes);
        const __m256i high = half_vector(weights + g * kVectorBytes + 32);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const __m256i x = four_codes(codes + m * stride + g * 4);
          pairs[m][0] = _mm256_add_epi16(pairs[m][0], _mm256_maddubs_epi16(low, x));
          pairs[m][1] = _mm256_add_epi16(pairs[m][1], _mm256_maddubs_epi16(high, x));
        }
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
        for (int h = 0; h < 2; ++h) sums[m][h] = _mm256_add_epi32(sums[m][h], _mm256_madd_epi16(pairs[m][h], ones));
    }
  }

  template <int M>
  static void dot_signed(const uint8_t* weights, const int8_t* codes, int64_t stride, int groups,
                         __m256i (&sums)[M][2]) {
    const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 8
    for (int g = 0; g < groups; ++g)
#pragma GCC unroll 2
      for (int h = 0; h < 2; ++h) {
        const __m256i w = half_vector(weights + g * kVectorBytes + h * 32), size = _mm256_abs_epi8(w);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const __m256i x = _mm256_sign_epi8(four_codes(codes + m * stride + g * 4), w);
          sums[m][h] = _mm256_add_epi32(sums[m][h], _mm256_madd_epi16(_mm256_maddubs_epi16(size, x), ones));
        }
      }
  }

  template <int M>
  static void dot_groups(int depth, const uint8_t* weights, const int8_t* codes, int64_t stride, int groups,
                         __m256i (&sums)[M][2]) {
    switch (depth) {
      case 8: return dot_narrow<M, 8>(weights, codes, stride, groups, sums);
      case 4: return dot_narrow<M, 4>(weights, codes, stride, groups, sums);
      case 2: return dot_narrow<M, 2>(weights, codes, stride, groups, sums);
      default: return dot_signed<M>(weights, codes, stride, groups, sums);
    }
  }

#endif

  template <int M, int T, int kParts, bool kHasOffsets, bool kIsExact>
  static void micro(const Micro& u) {
    constexpr int groups = kBlockGroups / kParts;
    Lanes out[M];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) out[m] = load(u.out + m * kPanelOutputs);
    for (int p = 0; p < u.num_parts; ++p) {
      fetch_ahead(u, p);
      const uint8_t* weights = u.codes[0] + p * groups * kVectorBytes;
      __m256i sums[M][2];
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
        sums[m][0] = sums[m][1] =
            kIsExact ? _mm256_setzero_si256() : _mm256_set1_epi32(u.starts[0][m * u.num_parts + p]);
      dot_groups<M>(u.pair_depth, weights, u.row_codes + p * groups * 4, u.code_stride, groups, sums);
      if constexpr (kIsExact) {
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 2
          for (int h = 0; h < 2; ++h)
            sums[m][h] = _mm256_add_epi32(_mm256_slli_epi32(sums[m][h], 7),
                                          _mm256_set1_epi32(u.starts[0][m * u.num_parts + p]));
        dot_groups<M>(u.pair_depth, weights, u.row_low_codes + p * groups * 4, u.code_stride, groups, sums);
      }
      const Lanes scale = load(u.scales[0] + p * kTileOutputs);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Lanes both = mul(scale, broadcast(u.row_scales[m * u.scale_stride + p / kParts]));
        out[m] = fma({_mm256_cvtepi32_ps(sums[m][0]), _mm256_cvtepi32_ps(sums[m][1])}, both, out[m]);
      }
      if constexpr (kHasOffsets) {
        const Lanes offset = load(u.offsets[0] + p * kTileOutputs);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) out[m] = fma(offset, broadcast(u.row_sums[m * u.sum_stride + p]), out[m]);
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) store(u.out + m * kPanelOutputs, out[m]);
  }
};
