// Integer products in plain C++. Included inside the kernel's own namespace; see kernel.cpp for what it provides.

constexpr int kDenseRows = 2;
constexpr int kDenseTiles = 1;

struct FewRows : RowLoop {
  static constexpr int kRows = 2;
  static constexpr int kTiles = 1;

  static void dot_groups(const uint8_t* weights, const int8_t* codes, int groups, int32_t (&sums)[kTileOutputs]) {
    const int8_t* w = (const int8_t*)weights;
    for (int g = 0; g < groups; ++g, w += kVectorBytes, codes += 4)
      for (int c = 0; c < kTileOutputs; ++c)
        for (int j = 0; j < 4; ++j) sums[c] += int32_t(w[4 * c + j]) * codes[j];
  }

  template <int M, int T, int kParts, bool kHasOffsets, bool kIsExact>
  static void micro(const Micro& u) {
    constexpr int groups = kBlockGroups / kParts;
    for (int m = 0; m < M; ++m) {
      Lanes out = load(u.out + m * kPanelOutputs);
      for (int p = 0; p < u.num_parts; ++p) {
        if (m == 0) fetch_ahead(u, p);
        const uint8_t* weights = u.codes[0] + p * groups * kVectorBytes;
        const int64_t at = m * u.code_stride + p * groups * 4;
        int32_t sums[kTileOutputs] = {};
        dot_groups(weights, u.row_codes + at, groups, sums);
        if constexpr (kIsExact) {
          for (int32_t& sum : sums) sum *= 128;
          dot_groups(weights, u.row_low_codes + at, groups, sums);
        }
        const Lanes scale = load(u.scales[0] + p * kTileOutputs);
        out = fma(from_ints(sums), mul(scale, broadcast(u.row_scales[m * u.scale_stride + p / kParts])), out);
        if constexpr (kHasOffsets)
          out = fma(load(u.offsets[0] + p * kTileOutputs), broadcast(u.row_sums[m * u.sum_stride + p]), out);
      }
      store(u.out + m * kPanelOutputs, out);
    }
  }
};
