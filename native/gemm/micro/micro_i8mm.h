// Integer products with arm64's matrix instructions: two rows times two outputs, eight inputs deep. Included inside the
// kernel's own namespace, after the loop for few rows; see kernel.cpp for what it provides.

constexpr int kManyRows = 2;

struct ManyRows : RowLoop {
  static constexpr int kRows = 4;  // 2 pairs x 8 registers of integer sums, of 32; fp32 sums stay in memory
  static constexpr int kRowUnit = 2;
  static constexpr int kTiles = 1;

  // From four inputs of sixteen outputs a vector to eight inputs of two outputs a register.
  static void arrange(uint8_t* codes, int blocks) {
    for (int pair = 0; pair < blocks * kBlockGroups / 2; ++pair, codes += 2 * kVectorBytes) {
      int32x4_t words[2][4];
      for (int g = 0; g < 2; ++g)
        for (int q = 0; q < 4; ++q) words[g][q] = vreinterpretq_s32_u8(vld1q_u8(codes + g * kVectorBytes + q * 16));
      for (int q = 0; q < 4; ++q) {
        vst1q_u8(codes + 2 * q * 16, vreinterpretq_u8_s32(vzip1q_s32(words[0][q], words[1][q])));
        vst1q_u8(codes + (2 * q + 1) * 16, vreinterpretq_u8_s32(vzip2q_s32(words[0][q], words[1][q])));
      }
    }
  }

  // Eight inputs of both rows of a pair; zeros where the second does not exist.
  template <int M>
  static int8x16_t codes_of_pair(const int8_t* codes, int64_t stride, int pair) {
    const int row = 2 * pair;
    return vcombine_s8(vld1_s8(codes + row * stride), row + 1 < M ? vld1_s8(codes + (row + 1) * stride) : vdup_n_s8(0));
  }

  // sums[pair][i]: of rows 2 pair and 2 pair + 1, each with outputs 2 i and 2 i + 1.
  template <int M>
  static void dot_groups(const uint8_t* weights, const int8_t* codes, int64_t stride, int groups,
                         int32x4_t (&sums)[(M + 1) / 2][8]) {
    constexpr int pairs = (M + 1) / 2;
    for (int g = 0; g < groups; g += 2) {
      int8x16_t x[pairs];
#pragma GCC unroll 2
      for (int pair = 0; pair < pairs; ++pair) x[pair] = codes_of_pair<M>(codes + g * 4, stride, pair);
#pragma GCC unroll 8
      for (int i = 0; i < 8; ++i) {
        const int8x16_t w = vld1q_s8((const int8_t*)weights + g * kVectorBytes + i * 16);
#pragma GCC unroll 2
        for (int pair = 0; pair < pairs; ++pair) sums[pair][i] = vmmlaq_s32(sums[pair][i], x[pair], w);
      }
    }
  }

  // The sums of one row of a pair, output by output.
  static Lanes sums_of_row(const int32x4_t (&sums)[8], int half) {
    Lanes whole;
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
      const int64x2_t first = vreinterpretq_s64_s32(sums[2 * q]), second = vreinterpretq_s64_s32(sums[2 * q + 1]);
      whole.part[q] = vcvtq_f32_s32(
          vreinterpretq_s32_s64(half == 0 ? vzip1q_s64(first, second) : vzip2q_s64(first, second)));
    }
    return whole;
  }

  template <int M, int T, int kParts, bool kHasOffsets, bool kIsExact>
  static void micro(const Micro& u) {
    constexpr int groups = kBlockGroups / kParts;
    for (int p = 0; p < u.num_parts; ++p) {
      fetch_ahead(u, p);
      const uint8_t* weights = u.codes[0] + p * groups * kVectorBytes;
      int32x4_t sums[(M + 1) / 2][8] = {};
      dot_groups<M>(weights, u.row_codes + p * groups * 4, u.code_stride, groups, sums);
      if constexpr (kIsExact) {
        for (auto& pair : sums)
          for (int32x4_t& sum : pair) sum = vshlq_n_s32(sum, 7);
        dot_groups<M>(weights, u.row_low_codes + p * groups * 4, u.code_stride, groups, sums);
      }
      const Lanes scale = load(u.scales[0] + p * kTileOutputs), offset = load(u.offsets[0] + p * kTileOutputs);
#pragma GCC unroll 4
      for (int m = 0; m < M; ++m) {
        float* to = u.out + m * kPanelOutputs;
        const Lanes row_scale = broadcast(u.row_scales[m * u.scale_stride + p / kParts]);
        Lanes out = fma(sums_of_row(sums[m / 2], m % 2), mul(scale, row_scale), load(to));
        if constexpr (kHasOffsets) out = fma(offset, broadcast(u.row_sums[m * u.sum_stride + p]), out);
        store(to, out);
      }
    }
  }
};
