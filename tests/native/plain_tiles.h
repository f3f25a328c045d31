// What the tile instructions of AMX do, in plain C++, so that their kernel can be tested on every processor. Included in
// the place of native/gemm/micro/tiles_amx.h, and by those who catch its instructions, tile_traps.h. Where an instruction
// raises an exception, this ends the program.
// Source: Intel SDM, LDTILECFG, TILELOADD, TILESTORED, TILEZERO, TILERELEASE and TDPBSSD.

struct TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
static_assert(sizeof(TileConfig) == 64, "as the processor reads it");

class PlainTiles {
 public:
  // Zeroes all tiles.
  static void configure(const TileConfig& config) {
    require(config.palette == 1 && config.start_row == 0);
    for (const uint8_t byte : config.reserved) require(byte == 0);
    for (int i = 0; i < 16; ++i) {
      const bool is_none = config.rows[i] == 0 && config.row_bytes[i] == 0;
      require(is_none || (i < kTiles && config.rows[i] != 0 && config.row_bytes[i] != 0));
      require(config.rows[i] <= kMaxRows && config.row_bytes[i] <= kMaxRowBytes);
    }
    state() = {true, config, {}};
  }

  static void release() { state() = {}; }

  static void zero(int tile) {
    require_shape(tile);
    for (auto& row : state().bytes[tile]) clear(row, 0);
  }

  // Rows `stride` bytes apart.
  static void load(int tile, const void* from, int64_t stride) {
    const Shape shape = require_shape(tile);
    for (int r = 0; r < kMaxRows; ++r) {
      uint8_t* row = state().bytes[tile][r];
      if (r < shape.rows) __builtin_memcpy(row, (const uint8_t*)from + r * stride, shape.row_bytes);
      clear(row, r < shape.rows ? shape.row_bytes : 0);
    }
  }

  static void store(int tile, void* to, int64_t stride) {
    const Shape shape = require_shape(tile);
    for (int r = 0; r < shape.rows; ++r)
      __builtin_memcpy((uint8_t*)to + r * stride, state().bytes[tile][r], shape.row_bytes);
  }

  // sums[m, n] += rows[m, 4 k + j] * weights[k, 4 n + j], signed bytes, over all k and j.
  static void dot(int sums_tile, int rows_tile, int weights_tile) {
    require(sums_tile != rows_tile && sums_tile != weights_tile && rows_tile != weights_tile);
    const Shape sums = require_shape(sums_tile), rows = require_shape(rows_tile), weights = require_shape(weights_tile);
    require(sums.row_bytes % 4 == 0 && rows.row_bytes % 4 == 0 && weights.row_bytes % 4 == 0);
    require(sums.rows == rows.rows && rows.row_bytes / 4 == weights.rows && sums.row_bytes == weights.row_bytes);
    auto& bytes = state().bytes;
    for (int m = 0; m < kMaxRows; ++m) {
      for (int n = 0; m < sums.rows && n < sums.row_bytes / 4; ++n) {
        int32_t sum;
        __builtin_memcpy(&sum, bytes[sums_tile][m] + 4 * n, 4);
        for (int k = 0; k < rows.row_bytes / 4; ++k)
          for (int j = 0; j < 4; ++j)
            sum += int32_t(int8_t(bytes[rows_tile][m][4 * k + j])) * int8_t(bytes[weights_tile][k][4 * n + j]);
        __builtin_memcpy(bytes[sums_tile][m] + 4 * n, &sum, 4);
      }
      clear(bytes[sums_tile][m], m < sums.rows ? sums.row_bytes : 0);
    }
  }

 private:
  static constexpr int kTiles = 8, kMaxRows = 16, kMaxRowBytes = 64;

  struct Shape {
    int rows, row_bytes;
  };

  struct State {
    bool is_configured;
    TileConfig config;
    uint8_t bytes[kTiles][kMaxRows][kMaxRowBytes];
  };

  static State& state() {
    static thread_local State state = {};
    return state;
  }

  static void require(bool condition) {
    if (!condition) __builtin_trap();
  }

  static Shape require_shape(int tile) {
    require(state().is_configured && state().config.rows[tile] != 0);
    return {state().config.rows[tile], state().config.row_bytes[tile]};
  }

  static void clear(uint8_t* row, int first) {
    for (int i = first; i < kMaxRowBytes; ++i) row[i] = 0;
  }
};

struct Tiles {
  static void configure(const TileConfig& config) { PlainTiles::configure(config); }
  static void release() { PlainTiles::release(); }
  template <int kTile>
  static void zero() {
    PlainTiles::zero(kTile);
  }
  template <int kTile>
  static void load(const void* from, int64_t stride) {
    PlainTiles::load(kTile, from, stride);
  }
  template <int kTile>
  static void store(void* to, int64_t stride) {
    PlainTiles::store(kTile, to, stride);
  }
  template <int kSums, int kRows, int kWeights>
  static void dot() {
    PlainTiles::dot(kSums, kRows, kWeights);
  }
};
