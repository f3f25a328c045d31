// Where keys and values lie, and how they are read and written as fp32 or fp16.
//
// Included inside a kernel's own namespace, like all of this folder.

inline Lanes load_kv(const float* from) { return load(from); }
inline Lanes load_kv(const uint16_t* from) { return load_half(from); }
inline void store_kv(float* to, Lanes x) { store(to, x); }
inline void store_kv(uint16_t* to, Lanes x) { store_half(to, x); }

// The first `count` lanes; nothing beyond them is touched in memory. Copied in pieces of constant size: a call here
// would make the caller store its accumulators.
template <typename T>
inline Lanes load_first(const T* from, int count) {
  T part[kLanes] = {};
  int copied = 0;
#pragma GCC unroll 4
  for (int size = kLanes / 2; size > 0; size /= 2) {
    if ((count & size) == 0) continue;
    __builtin_memcpy(part + copied, from + copied, size * sizeof(T));
    copied += size;
  }
  return load_kv(part);
}

inline int clamp(int value, int low, int high) { return value < low ? low : value > high ? high : value; }

constexpr int round_up(int count) { return (count + kLanes - 1) / kLanes * kLanes; }

inline int group_of(const LayerView& layer) { return layer.num_heads / layer.num_kv_heads; }

inline const int32_t* table_of(const StepView& step, const RowRange& rows) {
  return step.block_tables + int64_t(rows.sequence) * step.table_width;
}

// Offset of one head in the block of a position.
inline int64_t block_offset(const LayerView& layer, const int32_t* table, int kv_head, int position) {
  const int64_t block = table[position / layer.block_size];
  return (block * layer.num_kv_heads + kv_head) * layer.head_dim * layer.block_size;
}

constexpr int kMaxGroups = kChunkKeys / kGroupKeys;
constexpr int kMaxTileGroups = 4;  // of a score tile, see tiles.h

// The keys and values of one chunk. It begins at a multiple of kChunkKeys, whatever part of it a row sees.
template <typename T>
struct Chunk {
  int first_key;
  int first_group;  // no row of the tile sees groups before this one
  int end_group;
  const T* keys[kMaxGroups + kMaxTileGroups];  // [dim, stride block_size]; the last ones are only prefetched
  const T* values[kMaxGroups];                 // [slot, stride head_dim]
};

// The groups of a chunk that hold keys [first, end) of the sequence.
template <typename T>
inline void find_chunk(const LayerView& layer, const int32_t* table, int kv_head, int first_key, int first, int end,
                       Chunk<T>* chunk) {
  const T* keys = static_cast<const T*>(layer.keys);
  const T* values = static_cast<const T*>(layer.values);
  chunk->first_key = first_key;
  chunk->first_group = clamp(first - first_key, 0, kChunkKeys) / kGroupKeys;
  chunk->end_group = (clamp(end - first_key, 0, kChunkKeys) + kGroupKeys - 1) / kGroupKeys;
  for (int g = chunk->first_group; g < chunk->end_group + kMaxTileGroups; ++g) {
    const int position = first_key + g * kGroupKeys, slot = position % layer.block_size;
    if (position >= end) {
      chunk->keys[g] = chunk->keys[g - 1];
      continue;
    }
    const int64_t offset = block_offset(layer, table, kv_head, position);
    chunk->keys[g] = keys + offset + slot;
    if (g < kMaxGroups) chunk->values[g] = values + offset + int64_t(slot) * layer.head_dim;
  }
}
