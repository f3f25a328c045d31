// Integer products with AMX: the sums of a part for sixteen rows and the sixteen outputs of a tile are one instruction.
// Included inside the kernel's own namespace, after the tile operations and the loop for few rows; see kernel.cpp for
// what it provides.
//
// The layout of a packed part is what the instruction expects of weights: a row for four inputs, with four bytes for
// each output. Sums leave a tile through memory, and are scaled and added in registers while those of the next part are
// computed.

constexpr int kManyRows = 8;  // a tile takes as long for one row. Estimate: docs/decisions/0027-the-native-stage.md

struct ManyRows : RowLoop {
  static constexpr int kRows = 16;  // 16 fp32 sums, of 32 registers
  static constexpr int kRowUnit = 16;
  static constexpr int kTiles = 1;

  // Numbers of tiles. There are two for sums, so that one part's can be stored while the next part's are computed.
  struct Numbers {
    int sums[2], rows;
  };
  static constexpr Numbers kWhole = {{0, 1}, 2}, kRest = {{3, 4}, 5};  // sixteen rows, and the remaining ones
  static constexpr int kWeights = 6;

  // The shapes of tiles, configured while a panel is multiplied. Afterwards tiles are released: switching a thread with
  // tiles in use costs more, and keeps its core from sleeping.
  class Setup {
   public:
    Setup(int num_rows, int parts) {
      const int part_bytes = kBlockInputs / parts;
      if (num_rows >= kRows) shape(kWhole, kRows, part_bytes);
      if (num_rows % kRows > 0) shape(kRest, num_rows % kRows, part_bytes);
      shape(kWeights, part_bytes / 4, kVectorBytes);
      Tiles::configure(config_);
    }
    ~Setup() { Tiles::release(); }
    Setup(const Setup&) = delete;

   private:
    void shape(const Numbers& numbers, int rows, int part_bytes) {
      for (const int tile : numbers.sums) shape(tile, rows, int(sizeof(int32_t)) * kTileOutputs);
      shape(numbers.rows, rows, part_bytes);
    }
    void shape(int tile, int rows, int row_bytes) {
      config_.rows[tile] = uint8_t(rows);
      config_.row_bytes[tile] = uint16_t(row_bytes);
    }

    alignas(64) TileConfig config_ = {1, 0, {}, {}, {}};
  };

  template <int M>
  using Sums = int32_t[M][kTileOutputs];

  // The sums of part p, by means of the tile with that number.
  template <int M, int kParts, int kTile>
  static void dot_part(const Micro& u, const int8_t* codes, int p, Sums<M>& sums) {
    constexpr Numbers numbers = M == kRows ? kWhole : kRest;
    constexpr int part_bytes = kBlockInputs / kParts;
    Tiles::zero<numbers.sums[kTile]>();
    Tiles::load<numbers.rows>(codes + p * part_bytes, u.code_stride);
    Tiles::load<kWeights>(u.codes[0] + p * part_bytes * kTileOutputs, kVectorBytes);
    Tiles::dot<numbers.sums[kTile], numbers.rows, kWeights>();
    Tiles::store<numbers.sums[kTile]>(sums, sizeof(sums[0]));
  }

  template <int M, int kParts, bool kIsExact, int kTile>
  static void dot_part(const Micro& u, int p, Sums<M>& sums) {
    fetch_ahead(u, p);
    dot_part<M, kParts, kTile>(u, u.row_codes, p, sums);
    if constexpr (kIsExact) {
      alignas(64) Sums<M> low;
      dot_part<M, kParts, kTile>(u, u.row_low_codes, p, low);
      for (int m = 0; m < M; ++m)
        for (int c = 0; c < kTileOutputs; ++c) sums[m][c] = sums[m][c] * 128 + low[m][c];
    }
  }

  // The value of row m, with rows `stride` apart. Addresses are computed again for every fourth row, because sixteen of
  // them do not fit the registers.
  static Lanes of_row(const float*& values, int64_t stride, int m) {
    if (m > 0 && m % 4 == 0) __asm__("" : "+r"(values += 4 * stride));
    return broadcast(values[m % 4 * stride]);
  }

  template <int M, int kParts, bool kHasOffsets>
  static void add_part(const Micro& u, int p, const Sums<M>& sums, Lanes (&out)[M]) {
    const Lanes scale = load(u.scales[0] + p * kTileOutputs);
    const float* row_scales = u.row_scales + p / kParts;
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m)
      out[m] = fma(from_ints(sums[m]), mul(scale, of_row(row_scales, u.scale_stride, m)), out[m]);
    if constexpr (kHasOffsets) {
      const Lanes offset = load(u.offsets[0] + p * kTileOutputs);
      const float* row_sums = u.row_sums + p;
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) out[m] = fma(offset, of_row(row_sums, u.sum_stride, m), out[m]);
    }
  }

  template <int M, int T, int kParts, bool kHasOffsets, bool kIsExact>
  static void micro(const Micro& shared) {
    const Micro u = shared;  // which no store can change
    alignas(64) Sums<M> sums[2];
    Lanes out[M];
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) out[m] = load(u.out + m * kPanelOutputs);
    dot_part<M, kParts, kIsExact, 0>(u, 0, sums[0]);
    for (int p = 0; p < u.num_parts; p += 2) {
      if (p + 1 < u.num_parts) dot_part<M, kParts, kIsExact, 1>(u, p + 1, sums[1]);
      add_part<M, kParts, kHasOffsets>(u, p, sums[0], out);
      if (p + 1 == u.num_parts) break;
      if (p + 2 < u.num_parts) dot_part<M, kParts, kIsExact, 0>(u, p + 2, sums[0]);
      add_part<M, kParts, kHasOffsets>(u, p + 1, sums[1], out);
    }
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) store(u.out + m * kPanelOutputs, out[m]);
  }
};
