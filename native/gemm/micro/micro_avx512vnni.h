// Integer products with AVX-512 VNNI. Included inside the kernel's own namespace; see kernel.cpp for what it provides.

constexpr int kDenseRows = 12;  // 12 x 2 fp32 sums, of 32 registers
constexpr int kDenseTiles = 2;

struct FewRows : RowLoop {
  static constexpr int kRows = 6;  // 6 rows x 2 tiles of integer and of fp32 sums
  static constexpr int kTiles = 2;

  // Weights are unsigned bytes.
  static int code_bias(const Matrix& m) { return has_signed_codes(m) ? 128 : m.zero_point; }
  static uint8_t code_shift(const Matrix& m) { return has_signed_codes(m) ? 128 : 0; }

  static __m512i four_codes(const int8_t* from) {
    int32_t word;
    __builtin_memcpy(&word, from, sizeof(word));
    return _mm512_set1_epi32(word);
  }

  // sums[M, T] += weights of `groups` groups times the codes of M rows.
  template <int M, int T>
  static void dot_groups(const uint8_t* const* weights, const int8_t* codes, int64_t stride, int groups,
                         __m512i (&sums)[M][T]) {
#pragma GCC unroll 8
    for (int g = 0; g < groups; ++g) {
      __m512i w[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) w[t] = _mm512_load_si512(weights[t] + g * kVectorBytes);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const __m512i x = four_codes(codes + m * stride + g * 4);
#pragma GCC unroll 8
        for (int t = 0; t < T; ++t) sums[m][t] = _mm512_dpbusd_epi32(sums[m][t], w[t], x);
      }
    }
  }

  template <int M, int T, int kParts, bool kHasOffsets, bool kIsExact>
  static void micro(const Micro& u) {
    constexpr int groups = kBlockGroups / kParts;
    Lanes out[M][T];
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) out[m][t] = load(u.out + m * kPanelOutputs + t * kTileOutputs);
    for (int p = 0; p < u.num_parts; ++p) {
      fetch_ahead(u, p);
      __m512i sums[M][T];
      const uint8_t* weights[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) weights[t] = u.codes[t] + p * groups * kVectorBytes;
      if constexpr (kIsExact) {
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) sums[m][t] = _mm512_setzero_si512();
        dot_groups<M, T>(weights, u.row_codes + p * groups * 4, u.code_stride, groups, sums);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t)
            sums[m][t] = _mm512_add_epi32(_mm512_slli_epi32(sums[m][t], 7),
                                          _mm512_set1_epi32(u.starts[t][m * u.num_parts + p]));
        dot_groups<M, T>(weights, u.row_low_codes + p * groups * 4, u.code_stride, groups, sums);
      } else {
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) sums[m][t] = _mm512_set1_epi32(u.starts[t][m * u.num_parts + p]);
        dot_groups<M, T>(weights, u.row_codes + p * groups * 4, u.code_stride, groups, sums);
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const Lanes scale = load(u.scales[t] + p * kTileOutputs);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const Lanes both = mul(scale, broadcast(u.row_scales[m * u.scale_stride + p / kParts]));
          out[m][t] = fma(_mm512_cvtepi32_ps(sums[m][t]), both, out[m][t]);
        }
        if constexpr (kHasOffsets) {
          const Lanes offset = load(u.offsets[t] + p * kTileOutputs);
#pragma GCC unroll 8
          for (int m = 0; m < M; ++m) out[m][t] = fma(offset, broadcast(u.row_sums[m * u.sum_stride + p]), out[m][t]);
        }
      }
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) store(u.out + m * kPanelOutputs + t * kTileOutputs, out[m][t]);
  }
};
