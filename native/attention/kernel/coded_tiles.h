// Both products of attention over codes, blocked as in tiles.h. Integer sums are exact in any order, and become floats
// once: those of a score, and those that a chunk adds to a column. A score has at most 8192 products of 255 and 127, a
// column kChunkKeys products of 32767 and 127: both fit 32 bits. Loops over a group's keys and over sixteen dimensions
// are unrolled, because GCC 12 writes loop-carried sums to memory in each iteration.

// The queries of a tile.
struct CodedQueries {
  int8_t* codes;    // [rows, head_dim]
  float* scales;    // [rows]
  int32_t* starts;  // [rows] initial values of the sums of products with keys
};

// scores[M, G * 16] of M rows from `row` on and the G groups from `first` on. See score_tile about fetching.
template <int M, int G>
void score_coded_tile(const CodedQueries& queries, int row, int dim, const CodedChunk& chunk, int first,
                      bool is_first_touch, float* scores) {
  const uint8_t* const* keys = chunk.keys + first;
  const int8_t* codes = queries.codes + int64_t(row) * dim;
  Ints sums[M][G];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) sums[m][g] = all_ints(queries.starts[row + m]);
  for (int first_dim = 0; first_dim < dim; first_dim += kLanes)
#pragma GCC unroll 4
    for (int d = first_dim; d < first_dim + kLanes; d += 4) {
      if (is_first_touch) {
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) {
          __builtin_prefetch(keys[g + G] + d * kGroupKeys);
          __builtin_prefetch(chunk.values[first + g] + d * kGroupKeys);
        }
      }
      KeyCodes k[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) k[g] = load_keys(keys[g] + d * kGroupKeys);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const int32_t four = word_at(codes + m * dim + d);
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g) sums[m][g] = add_keys(sums[m][g], k[g], four);
      }
    }
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) {
    const Lanes scale = load(chunk.key_scales[first + g]);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
      store(scores + m * kChunkKeys + (first + g) * kGroupKeys,
            mul(floats_of(sums[m][g]), mul(scale, broadcast(queries.scales[row + m]))));
  }
}

// out[M, N Lanes] += weights[M, keys] . values, from column `column` of the values on.
template <int M, int N>
void value_coded_tile(const int16_t* weights, const CodedChunk& chunk, int dim, int column, float* out) {
  Ints sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[m][n] = all_ints(0);
  for (int g = 0; g < chunk.num_groups; ++g) {
    const int8_t* values = chunk.values[g] + 2 * column;
#pragma GCC unroll 8
    for (int j = 0; j < kGroupKeys; j += 2) {
      ValueCodes v[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) v[n] = load_values(values + j * dim + n * 2 * kLanes);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        const int32_t two = word_at(weights + m * kChunkKeys + g * kGroupKeys + j);
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sums[m][n] = add_values(sums[m][n], v[n], two);
      }
    }
  }
  const Lanes scale = broadcast(chunk.value_scale);
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) {
      float* to = out + m * dim + n * kLanes;
      store(to, fma(floats_of(sums[m][n]), scale, load(to)));
    }
}

template <int M, int G = tile_width(M)>
void score_coded_rows(const CodedQueries& queries, int row, int dim, const CodedChunk& chunk, int group,
                      bool is_first_touch, float* scores) {
  for (; group + G <= chunk.num_groups; group += G)
    score_coded_tile<M, G>(queries, row, dim, chunk, group, is_first_touch, scores);
  if constexpr (G > 1) score_coded_rows<M, G / 2>(queries, row, dim, chunk, group, is_first_touch, scores);
}

template <int M, int N = tile_width(M)>
void value_coded_rows(const int16_t* weights, const CodedChunk& chunk, int dim, int column, float* out) {
  for (; column + N * kLanes <= dim; column += N * kLanes)
    value_coded_tile<M, N>(weights, chunk, dim, column, out + column);
  if constexpr (N > 1) value_coded_rows<M, N / 2>(weights, chunk, dim, column, out);
}

// These call the instance for the actual number of rows.
template <int M = kTileRows>
void score_coded(int rows, const CodedQueries& queries, int row, int dim, const CodedChunk& chunk, bool is_first_touch,
                 float* scores) {
  if (rows == M) return score_coded_rows<M>(queries, row, dim, chunk, 0, is_first_touch, scores);
  if constexpr (M > 1) score_coded<M - 1>(rows, queries, row, dim, chunk, is_first_touch, scores);
}

template <int M = kTileRows>
void add_coded_values(int rows, const int16_t* weights, const CodedChunk& chunk, int dim, float* out) {
  if (rows == M) return value_coded_rows<M>(weights, chunk, dim, 0, out);
  if constexpr (M > 1) add_coded_values<M - 1>(rows, weights, chunk, dim, out);
}
