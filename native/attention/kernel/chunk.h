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

// The keys and values of one chunk. It begins at a multiple of kChunkKeys, whatever part of it a row sees.
template <typename T>
struct Chunk {
  int first_key;
  int first_group;  // no row of the tile sees groups before this one
  int end_group;
  int key_stride;
  const T* keys[kMaxGroups];    // [dim, stride key_stride]
  const T* values[kMaxGroups];  // [slot, stride head_dim]
};

constexpr int kAheadGroups = 4;  // twice as many would not stay in L1 beside what another thread of the core needs

// What is fetched while the groups of a chunk are scored: their values, and the keys some groups further on.
struct Ahead {
  int key_step;  // bytes from one dimension's keys to the next one's
  int value_step;
  const char* keys[kMaxGroups];
  const char* values[kMaxGroups];
};

// Goes through a sequence's groups without a division for each of them.
class GroupPlaces {
 public:
  GroupPlaces(const LayerView& layer, const int32_t* table, int kv_head, int position)
      : layer_(layer),
        block_(table + position / layer.block_size),
        slot_(position % layer.block_size),
        kv_head_(kv_head),
        head_size_(int64_t(layer.head_dim) * layer.block_size) {}

  int slot() const { return slot_; }
  // Of the group's head in its block.
  int64_t offset() const { return (*block_ * int64_t(layer_.num_kv_heads) + kv_head_) * head_size_; }
  void advance() {
    slot_ += kGroupKeys;
    if (slot_ < layer_.block_size) return;
    slot_ = 0;
    ++block_;
  }

 private:
  const LayerView& layer_;
  const int32_t* block_;
  int slot_;
  int kv_head_;
  int64_t head_size_;
};

// The groups of a chunk that hold keys [first, end) of the sequence, and those before `last` that follow them.
template <typename T>
inline void find_chunk(const LayerView& layer, const int32_t* table, int kv_head, int first_key, int first, int end,
                       int last, Chunk<T>* chunk, Ahead* ahead) {
  const T* keys = static_cast<const T*>(layer.keys);
  const T* values = static_cast<const T*>(layer.values);
  chunk->first_key = first_key;
  chunk->first_group = clamp(first - first_key, 0, kChunkKeys) / kGroupKeys;
  chunk->end_group = (clamp(end - first_key, 0, kChunkKeys) + kGroupKeys - 1) / kGroupKeys;
  chunk->key_stride = layer.block_size;
  ahead->key_step = layer.block_size * int(sizeof(T));
  ahead->value_step = kGroupKeys * int(sizeof(T));
  GroupPlaces place(layer, table, kv_head, first_key + chunk->first_group * kGroupKeys);
  for (int g = chunk->first_group; g < chunk->end_group; ++g, place.advance()) {
    chunk->keys[g] = keys + place.offset() + place.slot();
    chunk->values[g] = values + place.offset() + int64_t(place.slot()) * layer.head_dim;
    ahead->values[g] = reinterpret_cast<const char*>(chunk->values[g]);
  }
  const int following = (last - first_key + kGroupKeys - 1) / kGroupKeys;
  for (int g = chunk->first_group; g < chunk->end_group; ++g) {
    const int next = g + kAheadGroups;
    const bool is_beyond = next >= chunk->end_group && next < following;
    const T* from = next < chunk->end_group ? chunk->keys[next] : chunk->keys[g];
    if (is_beyond) {
      from = keys + place.offset() + place.slot();
      place.advance();
    }
    ahead->keys[g] = reinterpret_cast<const char*>(from);
  }
}
