// Paged attention for one instruction set. Compiled once per set with SHOAL_ISA naming it: every function here lives in
// a namespace of that name and calls nothing outside it, so that no wide instruction can reach a narrow machine.
//
// A tile is some rows of one sequence times the query heads that share one kv head: all of them read the same keys and
// values. Its scores are made in chunks of kChunkKeys keys with a running softmax (FlashAttention, arXiv 2205.14135,
// algorithm 1); within a chunk both products are register-blocked over tile rows and 16 or more columns.

#include "args.h"

namespace shoal {
namespace SHOAL_ISA {
namespace {

#include "vector.h"

constexpr int kMaxGroups = kChunkKeys / kGroupKeys;
constexpr int kGroupVecs = kGroupKeys / kLanes;
constexpr int kTileGroups = kTileVecs / kGroupVecs > 1 ? kTileVecs / kGroupVecs : 1;
constexpr float kMasked = -1e30f;

// Half-split rotation of one head, times `scale`; pair i is dimensions i and i + half.
inline void rotate(const LayerView& layer, const float* x, int position, float scale, float* to) {
  const int half = layer.rotary_dim / 2;
  const float* cos = layer.cos + int64_t(position) * half;
  const float* sin = layer.sin + int64_t(position) * half;
  for (int i = 0; i < half; ++i) {
    const float first = x[i] * scale, second = x[i + half] * scale;
    to[i] = first * cos[i] - second * sin[i];
    to[i + half] = second * cos[i] + first * sin[i];
  }
  for (int i = layer.rotary_dim; i < layer.head_dim; ++i) to[i] = x[i] * scale;
}

inline int64_t slot_offset(const LayerView& layer, const int32_t* table, int kv_head, int position) {
  const int64_t block = table[position / layer.block_size];
  return (block * layer.num_kv_heads + kv_head) * layer.head_dim * layer.block_size;
}

// The keys and values of one chunk: where each group of 16 keys starts, and how many keys count.
struct Chunk {
  int first_key;
  int num_keys;
  int num_groups;
  const float* keys[kMaxGroups + kTileGroups];  // [dim, stride block_size]; the last ones are the next chunk's first
  const float* values[kMaxGroups];              // [slot, stride head_dim]
};

inline void find_chunk(const LayerView& layer, const int32_t* table, int kv_head, int first, int end, Chunk* chunk) {
  chunk->first_key = first;
  chunk->num_keys = end - first < kChunkKeys ? end - first : kChunkKeys;
  chunk->num_groups = (chunk->num_keys + kGroupKeys - 1) / kGroupKeys;
  for (int g = 0; g < chunk->num_groups; ++g) {
    const int position = first + g * kGroupKeys;
    const int64_t offset = slot_offset(layer, table, kv_head, position);
    const int slot = position % layer.block_size;
    chunk->keys[g] = layer.keys + offset + slot;
    chunk->values[g] = layer.values + offset + int64_t(slot) * layer.head_dim;
  }
  for (int g = chunk->num_groups; g < chunk->num_groups + kTileGroups; ++g) {
    const int position = first + g * kGroupKeys;
    chunk->keys[g] = chunk->keys[0];
    if (position < end)
      chunk->keys[g] = layer.keys + slot_offset(layer, table, kv_head, position) + position % layer.block_size;
  }
}

// scores[M, G * 16] = q[M, dim] . keys, for M rows and the G groups from group `first` of the chunk. With
// `is_first_touch` the same groups' values and the next groups' keys are fetched meanwhile: a group is a page of memory
// or less, and the processor's own prefetching starts anew at each.
template <int M, int G>
void score_tile(const float* q, int dim, const Chunk& chunk, int first, int key_stride, bool is_first_touch,
                float* scores) {
  const float* const* keys = chunk.keys + first;
  Vec sums[M][G][kGroupVecs] = {};
  for (int d = 0; d < dim; ++d) {
    if (is_first_touch) {
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) {
        __builtin_prefetch(keys[g + G] + int64_t(d) * key_stride);
        __builtin_prefetch(chunk.values[first + g] + d * kGroupKeys);
      }
    }
    Vec k[G][kGroupVecs];
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 8
      for (int v = 0; v < kGroupVecs; ++v) k[g][v] = load<Vec>(keys[g] + int64_t(d) * key_stride + v * kLanes);
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g)
#pragma GCC unroll 8
        for (int v = 0; v < kGroupVecs; ++v) sums[m][g][v] += q[m * dim + d] * k[g][v];
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g)
#pragma GCC unroll 8
      for (int v = 0; v < kGroupVecs; ++v)
        store(scores + m * kChunkKeys + g * kGroupKeys + v * kLanes, sums[m][g][v]);
}

// out[M, N vectors] = out * decay[M] + weights[M, keys] . values, over all keys of a chunk, from column `column`.
template <typename V, int M, int N>
void value_tile(const float* weights, const Chunk& chunk, int dim, int column, const float* decay, float* out) {
  constexpr int lanes = sizeof(V) / sizeof(float);
  V sums[M][N];
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) sums[m][n] = load<V>(out + m * dim + column + n * lanes) * decay[m];
  for (int g = 0; g < chunk.num_groups; ++g) {
    const int left = chunk.num_keys - g * kGroupKeys;
    const int num_keys = left < kGroupKeys ? left : kGroupKeys;
    const float* values = chunk.values[g] + column;
    const float* w = weights + g * kGroupKeys;
    for (int j = 0; j < num_keys; ++j) {
      V v[N];
#pragma GCC unroll 8
      for (int n = 0; n < N; ++n) v[n] = load<V>(values + int64_t(j) * dim + n * lanes);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) sums[m][n] += w[m * kChunkKeys + j] * v[n];
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 8
    for (int n = 0; n < N; ++n) store(out + m * dim + column + n * lanes, sums[m][n]);
}

// All scores of M rows and a chunk.
template <int M>
void score_rows(const float* q, int dim, const Chunk& chunk, int key_stride, bool is_first_touch, float* scores) {
  int g = 0;
  for (; g + kTileGroups <= chunk.num_groups; g += kTileGroups)
    score_tile<M, kTileGroups>(q, dim, chunk, g, key_stride, is_first_touch, scores + g * kGroupKeys);
  for (; g < chunk.num_groups; ++g)
    score_tile<M, 1>(q, dim, chunk, g, key_stride, is_first_touch, scores + g * kGroupKeys);
}

// All columns of M rows: wide strips, then ever narrower vectors for what a head_dim leaves, down to single columns.
template <int M>
void value_rows(const float* weights, const Chunk& chunk, int dim, const float* decay, float* out) {
  constexpr int strip = kTileVecs * kLanes;
  int column = 0;
  for (; column + strip <= dim; column += strip)
    value_tile<Vec, M, kTileVecs>(weights, chunk, dim, column, decay, out);
  for (; column + kLanes <= dim; column += kLanes) value_tile<Vec, M, 1>(weights, chunk, dim, column, decay, out);
#if defined(__AVX2__)
  for (; column + 8 <= dim; column += 8) value_tile<F8, M, 1>(weights, chunk, dim, column, decay, out);
#endif
  for (; column + 4 <= dim; column += 4) value_tile<F4, M, 1>(weights, chunk, dim, column, decay, out);
  for (; column < dim; ++column) value_tile<F1, M, 1>(weights, chunk, dim, column, decay, out);
}

// Calls the instance for the number of rows at hand: RowsUpTo<kTileRows> compares downwards.
template <int M>
struct RowsUpTo {
  static void score(int rows, const float* q, int dim, const Chunk& chunk, int key_stride, bool is_first_touch,
                    float* scores) {
    if (rows == M) return score_rows<M>(q, dim, chunk, key_stride, is_first_touch, scores);
    RowsUpTo<M - 1>::score(rows, q, dim, chunk, key_stride, is_first_touch, scores);
  }
  static void value(int rows, const float* weights, const Chunk& chunk, int dim, const float* decay, float* out) {
    if (rows == M) return value_rows<M>(weights, chunk, dim, decay, out);
    RowsUpTo<M - 1>::value(rows, weights, chunk, dim, decay, out);
  }
};

template <>
struct RowsUpTo<0> {
  static void score(int, const float*, int, const Chunk&, int, bool, float*) {}
  static void value(int, const float*, const Chunk&, int, const float*, float*) {}
};

// The running softmax of one tile row.
struct RowState {
  float* largest;
  float* sum;
  float* decay;  // factor on what was summed before this chunk
};

inline void apply_softcap(float* scores, int count, float cap) {
  const float inverse = 1.0f / cap;
  for (int i = 0; i < count; i += kLanes)
    store(scores + i, hyperbolic_tangent(load<Vec>(scores + i) * inverse) * cap);
}

inline void fill(float* to, int count, float value) {
  for (int i = 0; i < count; ++i) to[i] = value;
}

// Turns the scores of one row into weights. The row sees keys [first, end) of the chunk; the others become 0.
inline void soften_row(const LayerView& layer, float* scores, int count, int first, int end, int row, RowState state) {
  if (first >= end) {
    fill(scores, count, 0.0f);
    state.decay[row] = 1.0f;
    return;
  }
  if (layer.softcap > 0.0f) apply_softcap(scores, count, layer.softcap);
  fill(scores, first, kMasked);
  fill(scores + end, count - end, kMasked);
  Vec best = load<Vec>(scores);
  for (int i = kLanes; i < count; i += kLanes) best = larger(best, load<Vec>(scores + i));
  const float before = state.largest[row], chunk_best = largest_lane(best);
  const float now = chunk_best > before ? chunk_best : before;
  const Vec decay = exponential(Vec{} + (before - now));
  Vec sum = {};
  for (int i = 0; i < count; i += kLanes) {
    const Vec weight = exponential(load<Vec>(scores + i) - now);
    store(scores + i, weight);
    sum += weight;
  }
  fill(scores, first, 0.0f);
  fill(scores + end, count - end, 0.0f);
  state.decay[row] = before == kMasked ? 0.0f : decay[0];
  state.sum[row] = state.sum[row] * state.decay[row] + sum_lanes(sum);
  state.largest[row] = now;
}

inline int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

// Rotated and scaled queries of a tile, row (token i, head g) at i * group + g.
void load_queries(const LayerView& layer, const StepView& step, const CallView& call, const RowRange& rows, int kv_head,
                  float* q) {
  const int group = layer.num_heads / layer.num_kv_heads, dim = layer.head_dim;
  const int64_t width = int64_t(layer.num_heads + 2 * layer.num_kv_heads) * dim;
  for (int i = 0; i < rows.num_rows; ++i) {
    const float* row = call.qkv + (rows.first_row + i) * width + int64_t(kv_head) * group * dim;
    const int position = step.positions[rows.first_row + i];
    for (int g = 0; g < group; ++g) rotate(layer, row + g * dim, position, layer.scale, q + (i * group + g) * dim);
  }
}

void store_outputs(const LayerView& layer, const CallView& call, const RowRange& rows, int kv_head, const float* out,
                   const float* sums) {
  const int group = layer.num_heads / layer.num_kv_heads, dim = layer.head_dim;
  const int64_t width = int64_t(layer.num_heads) * dim;
  for (int i = 0; i < rows.num_rows; ++i) {
    float* to = call.out + (rows.first_row + i) * width + int64_t(kv_head) * group * dim;
    const float* from = out + i * group * dim;
    for (int g = 0; g < group; ++g) {
      const float inverse = 1.0f / sums[i * group + g];
      for (int d = 0; d < dim; ++d) to[g * dim + d] = from[g * dim + d] * inverse;
    }
  }
}

void attend(const LayerView& layer, const StepView& step, const CallView& call, const RowRange& rows, int kv_head,
            float* scratch) {
  const int group = layer.num_heads / layer.num_kv_heads, dim = layer.head_dim;
  const int count = rows.num_rows * group;
  float* q = scratch;
  float* out = q + count * dim;
  float* scores = out + count * dim;
  const RowState state{scores + count * kChunkKeys, scores + count * (kChunkKeys + 1),
                       scores + count * (kChunkKeys + 2)};
  load_queries(layer, step, call, rows, kv_head, q);
  fill(out, count * dim, 0.0f);
  fill(state.largest, count, kMasked);
  fill(state.sum, count, 0.0f);

  const int32_t* table = step.block_tables + int64_t(rows.sequence) * step.table_width;
  const int first_position = step.positions[rows.first_row];
  const int end = first_position + rows.num_rows;
  const int window = layer.window > 0 ? layer.window : end;
  const int first_seen = first_position - window + 1 > 0 ? first_position - window + 1 : 0;
  Chunk chunk;
  for (int key = first_seen / kGroupKeys * kGroupKeys; key < end; key += kChunkKeys) {
    find_chunk(layer, table, kv_head, key, end, &chunk);
    for (int r = 0; r < count; r += kTileRows)
      RowsUpTo<kTileRows>::score(count - r < kTileRows ? count - r : kTileRows, q + r * dim, dim, chunk,
                                 layer.block_size, r == 0, scores + r * kChunkKeys);
    for (int r = 0; r < count; ++r) {
      const int position = first_position + r / group;
      const int from = clamp(position - window + 1 - key, 0, chunk.num_keys);
      const int to = clamp(position + 1 - key, 0, chunk.num_keys);
      soften_row(layer, scores + r * kChunkKeys, chunk.num_groups * kGroupKeys, from, to, r, state);
    }
    for (int r = 0; r < count; r += kTileRows)
      RowsUpTo<kTileRows>::value(count - r < kTileRows ? count - r : kTileRows, scores + r * kChunkKeys, chunk, dim,
                                 state.decay + r, out + r * dim);
  }
  store_outputs(layer, call, rows, kv_head, out, state.sum);
}

// Stores one rotated key head with the slot axis innermost.
inline void append_key(const LayerView& layer, const float* x, int position, float* to) {
  const int half = layer.rotary_dim / 2, stride = layer.block_size;
  const float* cos = layer.cos + int64_t(position) * half;
  const float* sin = layer.sin + int64_t(position) * half;
  for (int i = 0; i < half; ++i) {
    to[i * stride] = x[i] * cos[i] - x[i + half] * sin[i];
    to[(i + half) * stride] = x[i + half] * cos[i] + x[i] * sin[i];
  }
  for (int i = layer.rotary_dim; i < layer.head_dim; ++i) to[i * stride] = x[i];
}

void append(const LayerView& layer, const StepView& step, const CallView& call, const RowRange& rows) {
  const int dim = layer.head_dim;
  const int64_t width = int64_t(layer.num_heads + 2 * layer.num_kv_heads) * dim;
  const int32_t* table = step.block_tables + int64_t(rows.sequence) * step.table_width;
  for (int row = rows.first_row; row < rows.first_row + rows.num_rows; ++row) {
    const int position = step.positions[row], slot = position % layer.block_size;
    const float* k = call.qkv + row * width + int64_t(layer.num_heads) * dim;
    const float* v = k + int64_t(layer.num_kv_heads) * dim;
    for (int h = 0; h < layer.num_kv_heads; ++h) {
      const int64_t offset = slot_offset(layer, table, h, position);
      append_key(layer, k + h * dim, position, layer.keys + offset + slot);
      float* to = layer.values + offset + int64_t(slot) * dim;
      for (int d = 0; d < dim; ++d) to[d] = v[h * dim + d];
    }
  }
}

}  // namespace

// flops_per_s: about half to two thirds of a 512-token prefill, 9 heads of 64, on one thread of a Sapphire Rapids Xeon.
extern const AttentionKernel attention_kernel;
const AttentionKernel attention_kernel = {SHOAL_ISA_NAME, SHOAL_ISA_FLOPS, append, attend};

}  // namespace SHOAL_ISA
}  // namespace shoal
