// Integer products with arm64's dot-product instructions. Included inside the kernel's own namespace; see kernel.cpp
// for what it provides.

constexpr int kDenseRows = 5;
constexpr int kDenseTiles = 1;

struct FewRows : RowLoop {
  static constexpr int kRows = 3;  // 3 rows x 4 registers of integer and of fp32 sums, of 32 registers
  static constexpr int kTiles = 1;

  template <int M>
  static void dot_groups(const uint8_t* weights, const int8_t* codes, int64_t stride, int groups,
                         int32x4_t (&sums)[M][4]) {
    for (int g = 0; g < groups; ++g) {
      int8x16_t w[4];
      for (int q = 0; q < 4; ++q) w[q] = vld1q_s8((const int8_t*)weights + g * kVectorBytes + q * 16);
      for (int m = 0; m < M; ++m) {
        int32_t word;
        __builtin_memcpy(&word, codes + m * stride + g * 4, sizeof(word));
        const int8x16_t x = vreinterpretq_s8_s32(vdupq_n_s32(word));
        for (int q = 0; q < 4; ++q) sums[m][q] = vdotq_s32(sums[m][q], w[q], x);
      }
    }
  }

  template <int M, int T, int kParts, bool kHasOffsets, bool kIsExact>
  static void micro(const Micro& u) {
    constexpr int groups = kBlockGroups / kParts;
    Lanes out[M];
    for (int m = 0; m < M; ++m) out[m] = load(u.out + m * kPanelOutputs);
    for (int p = 0; p < u.num_parts; ++p) {
      fetch_ahead(u, p);
      const uint8_t* weights = u.codes[0] + p * groups * kVectorBytes;
      int32x4_t sums[M][4] = {};
      dot_groups<M>(weights, u.row_codes + p * groups * 4, u.code_stride, groups, sums);
      if constexpr (kIsExact) {
        for (int m = 0; m < M; ++m)
          for (int q = 0; q < 4; ++q) sums[m][q] = vshlq_n_s32(sums[m][q], 7);
        dot_groups<M>(weights, u.row_low_codes + p * groups * 4, u.code_stride, groups, sums);
      }
      const Lanes scale = load(u.scales[0] + p * kTileOutputs), offset = load(u.offsets[0] + p * kTileOutputs);
      for (int m = 0; m < M; ++m) {
        Lanes whole;
        for (int q = 0; q < 4; ++q) whole.part[q] = vcvtq_f32_s32(sums[m][q]);
        out[m] = fma(whole, mul(scale, broadcast(u.row_scales[m * u.scale_stride + p / kParts])), out[m]);
        if constexpr (kHasOffsets) out[m] = fma(offset, broadcast(u.row_sums[m * u.sum_stride + p]), out[m]);
      }
    }
    for (int m = 0; m < M; ++m) store(u.out + m * kPanelOutputs, out[m]);
  }
};
