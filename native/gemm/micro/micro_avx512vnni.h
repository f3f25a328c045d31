// Integer products with AVX-512 VNNI. Included inside the kernel's own namespace; see kernel.cpp for what it provides.

constexpr int kDenseRows = 12;  // 12 x 2 fp32 sums, of 32 registers
constexpr int kDenseTiles = 2;

struct FewRows : RowLoop {
  static constexpr int kRows = 6;  // 6 rows x 2 tiles of integer and of fp32 sums
  static constexpr int kTiles = 2;

  // Weights are unsigned bytes.
  static int code_bias(const Matrix& m) { return has_signed_codes(m) ? 128 : m.zero_point; }
  static uint8_t code_shift(const Matrix& m) { return has_signed_codes(m) ? 128 : 0; }

  // The values of rows at one place, with rows `stride` apart. Every third row has an address, and instructions reach
  // the two rows after it by multiples of the stride, because addresses of all rows do not fit the registers.
  template <typename T>
  class RowValues {
   public:
    RowValues(const T* first, int64_t stride) : every_third_{first, first + 3 * stride}, stride_(stride) {}

    const T* at(int m) const { return every_third_[m / 3] + m % 3 * stride_; }
    // Moves forward by this many places.
    void advance(int places) {
      for (const T*& at : every_third_) {
        at += places;
        __asm__("" : "+r"(at));  // keeps the compiler from deriving one address from another
      }
    }

   private:
    const T* every_third_[2];
    int64_t stride_;
  };

  static __m512i four_codes(const int8_t* from) {
    int32_t word;
    __builtin_memcpy(&word, from, sizeof(word));
    return _mm512_set1_epi32(word);
  }

  // sums[M, T] += weights of `groups` groups times the codes of M rows.
  template <int M, int T, int groups>
  static void dot_groups(const uint8_t* weights, const RowValues<int8_t>& codes, __m512i (&sums)[M][T]) {
#pragma GCC unroll 8
    for (int g = 0; g < groups; ++g) {
      __m512i w[T];
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t)
        w[t] = _mm512_load_si512(weights + t * sizeof(PanelScratch::codes[0]) + g * kVectorBytes);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const __m512i x = four_codes(codes.at(m) + g * 4);
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
    const uint8_t* weights = u.codes[0];  // the second tile's codes are unpacked to the scratch memory
    const float *scales = u.scales[0], *offsets = u.offsets[0];
    RowValues<int8_t> codes(u.row_codes, u.code_stride);
    RowValues<int8_t> low_codes(kIsExact ? u.row_low_codes : u.row_codes, u.code_stride);
    RowValues<int32_t> first_starts(u.starts[0], u.num_parts), second_starts(u.starts[1], u.num_parts);
    RowValues<float> row_scales(u.row_scales, u.scale_stride), row_sums(u.row_sums, u.sum_stride);
    const int num_parts = u.num_parts;
    for (int p = 0; p < num_parts; ++p) {
      fetch_ahead(u, p);
      __m512i sums[M][T];
      if constexpr (kIsExact) {
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) sums[m][t] = _mm512_setzero_si512();
        dot_groups<M, T, groups>(weights, codes, sums);
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t)
            sums[m][t] = _mm512_add_epi32(_mm512_slli_epi32(sums[m][t], 7),
                                          _mm512_set1_epi32(*(t == 0 ? first_starts : second_starts).at(m)));
        dot_groups<M, T, groups>(weights, low_codes, sums);
      } else {
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
          for (int t = 0; t < T; ++t) sums[m][t] = _mm512_set1_epi32(*(t == 0 ? first_starts : second_starts).at(m));
        dot_groups<M, T, groups>(weights, codes, sums);
      }
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) {
        const Lanes scale = load(scales + t * (sizeof(PanelScratch::scales[0]) / sizeof(float)));
#pragma GCC unroll 8
        for (int m = 0; m < M; ++m) {
          const Lanes both = mul(scale, broadcast(*row_scales.at(m)));
          out[m][t] = fma(_mm512_cvtepi32_ps(sums[m][t]), both, out[m][t]);
        }
        if constexpr (kHasOffsets) {
          const Lanes offset = load(offsets + t * (sizeof(PanelScratch::offsets[0]) / sizeof(float)));
#pragma GCC unroll 8
          for (int m = 0; m < M; ++m) out[m][t] = fma(offset, broadcast(*row_sums.at(m)), out[m][t]);
        }
      }
      weights += groups * kVectorBytes;
      scales += kTileOutputs;
      offsets += kTileOutputs;
      codes.advance(groups * 4);
      if (kIsExact) low_codes.advance(groups * 4);
      first_starts.advance(1);
      second_starts.advance(1);
      row_scales.advance(kParts == 1 ? 1 : p % 2);
      if (kHasOffsets) row_sums.advance(1);
    }
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int t = 0; t < T; ++t) store(u.out + m * kPanelOutputs + t * kTileOutputs, out[m][t]);
  }
};
