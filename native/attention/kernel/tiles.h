// Both products of attention, register-blocked: rows of a tile times Lanes of neighboring keys or columns. Every sum is
// one chain of fused multiply-adds in the order of dimensions or keys, so the blocking changes no bits.

#if defined(__AVX512F__)
constexpr int kTileRows = 6;    // of many
constexpr int kMostRows = 8;    // that are not computed in two tiles
constexpr int kTileLanes = 24;  // accumulators; 32 registers hold one Lanes each
constexpr bool kCopiesHalves = true;  // for many rows: conversions take turns from multiply-adds
#elif defined(__AVX2__)
constexpr int kTileRows = 6;
constexpr int kMostRows = 6;
constexpr int kTileLanes = 6;  // 16 registers hold half a Lanes each
constexpr bool kCopiesHalves = false;  // loads are the bottleneck, and a copy has twice the bytes: 2 to 10 % slower
#elif defined(__aarch64__)
constexpr int kTileRows = 5;
constexpr int kMostRows = 5;
constexpr int kTileLanes = 5;  // 32 registers hold a quarter of a Lanes each
constexpr bool kCopiesHalves = false;  // not measured
#else
constexpr int kTileRows = 2;
constexpr int kMostRows = 2;
constexpr int kTileLanes = 2;
constexpr bool kCopiesHalves = true;  // conversions are done in integers
#endif

// Lanes beside each other in a tile of some rows.
constexpr int tile_width(int rows) {
  return rows * 4 <= kTileLanes ? 4 : rows * 2 <= kTileLanes ? 2 : 1;
}

constexpr int kMaxTileGroups = 4;
static_assert(tile_width(1) <= kMaxTileGroups && tile_width(kMostRows) * kMostRows <= kTileLanes);

// scores[M, G * 16] = q[M, dim] . keys, for M rows and the G groups from group `first` of the chunk. What `ahead` names
// is fetched meanwhile: a group is a page of memory or less, and the processor's own prefetching starts again at each
// page.
template <int M, int G, typename T>
void score_tile(const float* q, int dim, const Chunk<T>& chunk, int first, const Ahead* ahead, float* scores) {
  const T* const* keys = chunk.keys + first;
  const int key_stride = chunk.key_stride;
  Lanes sums[M][G];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) sums[m][g] = broadcast(0.0f);
  for (int d = 0; d < dim; ++d) {
    if (ahead != nullptr) {
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        __builtin_prefetch(ahead->keys[first + g] + int64_t(d) * ahead->key_step);
        __builtin_prefetch(ahead->values[first + g] + int64_t(d) * ahead->value_step);
      }
    }
    Lanes k[G];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) k[g] = load_kv(keys[g] + int64_t(d) * key_stride);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      const Lanes x = broadcast(q[m * dim + d]);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) sums[m][g] = fma(x, k[g], sums[m][g]);
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) store(scores + m * kChunkKeys + g * kGroupKeys, sums[m][g]);
}

// Keys [first, end) of a chunk, counted from its beginning.
struct Keys {
  int first;
  int end;
};

// out[M, N Lanes] += weights[M, keys] . values, from column `column` of the values on. Heads narrower than a Lanes are
// padded.
template <int M, int N, bool kIsNarrow, typename T>
void value_tile(const float* weights, const Chunk<T>& chunk, Keys keys, int dim, int column, float* out) {
  const int stride = round_up(dim);
  Lanes sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[m][n] = load(out + m * stride + n * kLanes);
  for (int group_key = keys.first / kGroupKeys * kGroupKeys; group_key < keys.end; group_key += kGroupKeys) {
    const T* values = chunk.values[group_key / kGroupKeys] + column;
    const float* w = weights + group_key;
    const int end = clamp(keys.end - group_key, 0, kGroupKeys);
    for (int j = clamp(keys.first - group_key, 0, kGroupKeys); j < end; ++j) {
      Lanes v[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) {
        const T* from = values + int64_t(j) * dim + n * kLanes;
        v[n] = kIsNarrow ? load_first(from, dim) : load_kv(from);
      }
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const Lanes x = broadcast(w[m * kChunkKeys + j]);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sums[m][n] = fma(x, v[n], sums[m][n]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(out + m * stride + n * kLanes, sums[m][n]);
}

// All scores of M rows and a chunk's groups from `group` on.
template <int M, int G = tile_width(M), typename T>
void score_rows(const float* q, int dim, const Chunk<T>& chunk, int group, const Ahead* ahead, float* scores) {
  for (; group + G <= chunk.end_group; group += G)
    score_tile<M, G>(q, dim, chunk, group, ahead, scores + group * kGroupKeys);
  if constexpr (G > 1) score_rows<M, G / 2>(q, dim, chunk, group, ahead, scores);
}

// All columns of M rows from `column` on. If the last ones do not fill a Lanes, the last sixteen columns are computed
// there, some of them for the second time.
template <int M, int N = tile_width(M), typename T>
void value_rows(const float* weights, const Chunk<T>& chunk, Keys keys, int dim, int column, float* out) {
  for (; column + N * kLanes <= dim; column += N * kLanes)
    value_tile<M, N, false>(weights, chunk, keys, dim, column, out + column);
  if constexpr (N > 1) {
    value_rows<M, N / 2>(weights, chunk, keys, dim, column, out);
  } else if (column > 0 && column < dim) {
    value_tile<M, 1, false>(weights, chunk, keys, dim, dim - kLanes, out + column);
  } else if (column < dim) {
    value_tile<M, 1, true>(weights, chunk, keys, dim, 0, out);
  }
}

// The columns that value_rows summed, times a factor.
inline void scale_columns(const float* sums, int dim, float factor, float* to) {
  const int whole = dim > kLanes ? dim / kLanes * kLanes : dim;
  for (int d = 0; d < whole; ++d) to[d] = sums[d] * factor;
  for (int d = whole; d < dim; ++d) to[d] = sums[d + round_up(dim) - dim] * factor;
}

// These call the instance for the actual number of rows, at most kMostRows.
template <int M = kMostRows, typename T>
void score(int rows, const float* q, int dim, const Chunk<T>& chunk, const Ahead* ahead, float* scores) {
  if (rows == M) return score_rows<M>(q, dim, chunk, chunk.first_group, ahead, scores);
  if constexpr (M > 1) score<M - 1>(rows, q, dim, chunk, ahead, scores);
}

template <int M = kMostRows, typename T>
void add_values(int rows, const float* weights, const Chunk<T>& chunk, Keys keys, int dim, float* out) {
  if (rows == M) return value_rows<M>(weights, chunk, keys, dim, 0, out);
  if constexpr (M > 1) add_values<M - 1>(rows, weights, chunk, keys, dim, out);
}
