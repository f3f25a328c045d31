// The tile instructions that micro_amx.h is made of. Included inside the kernel's own namespace. Tests have a form in
// plain C++ as well: tests/native/plain_tiles.h.
//
// Written out, since GCC's intrinsics (12) take no template parameter for a tile's number and do not name the memory that
// they read, so that it may be written after they have read it.

// Shapes of the eight tiles, as LDTILECFG reads them. Source: Intel SDM, LDTILECFG.
struct TileConfig {
  uint8_t palette;
  uint8_t start_row;
  uint8_t reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

struct Tiles {
  static void configure(const TileConfig& config) { __asm__ volatile("ldtilecfg %0" ::"m"(config)); }
  static void release() { __asm__ volatile("tilerelease"); }

  template <int kTile>
  static void zero() {
    __asm__ volatile("tilezero %%tmm%c0" ::"i"(kTile));
  }
  // Rows `stride` bytes apart.
  template <int kTile>
  static void load(const void* from, int64_t stride) {
    __asm__ volatile("tileloadd (%1,%2,1), %%tmm%c0" ::"i"(kTile), "r"(from), "r"(stride) : "memory");
  }
  template <int kTile>
  static void store(void* to, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c0, (%1,%2,1)" ::"i"(kTile), "r"(to), "r"(stride) : "memory");
  }
  // sums[m, n] += rows[m, 4 k + j] * weights[k, 4 n + j], signed bytes, over all k and j.
  template <int kSums, int kRows, int kWeights>
  static void dot() {
    __asm__ volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(kSums), "i"(kRows), "i"(kWeights));
  }
};
