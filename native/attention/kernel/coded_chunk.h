// Keys and values as codes of 8 bits, with a scale for each token and head: how they are stored, and their layout.
//
// Within a block and head, keys are [slot / 16, dim / 4, 16, 4] and values [slot / 2, dim, 2], so that the operands of
// one instruction are contiguous, for sixteen tokens at a time.

constexpr float kCodeSteps = 127.0f;
constexpr float kWeightSteps = 32767.0f;  // for a weight times its value's scale over the chunk's largest
constexpr float kSmallest = 1e-30f;       // below, the inverse of a scale could be infinite

// Codes of a head, with their sum. Returns their scale, which is NaN if a value is NaN or infinite. The number of
// dimensions is a multiple of sixteen.
inline float code_head(const float* x, int dim, int8_t* codes, int32_t* sum) {
  Lanes most = broadcast(0.0f), zeros = broadcast(0.0f);
  for (int i = 0; i < dim; i += kLanes) {
    const Lanes v = load(x + i);
    most = larger(magnitude(v), most);
    zeros = fma(v, broadcast(0.0f), zeros);
  }
  const float largest = largest_lane(most), zero = sum_lanes(zeros);
  const float inverse = largest > kSmallest ? kCodeSteps / largest : 0.0f;
  *sum = 0;
  for (int i = 0; i < dim; i += kLanes) *sum += store_rounded(codes + i, mul(load(x + i), broadcast(inverse)));
  return (largest > kSmallest ? largest / kCodeSteps : 0.0f) + zero;
}

inline void append_coded_row(const LayerView& layer, const int32_t* table, const float* k, const float* v, int position,
                             const Angles& angles, float* scratch) {
  const int dim = layer.head_dim, slot = position % layer.block_size;
  float* rotated = scratch;
  int8_t* codes = reinterpret_cast<int8_t*>(scratch + dim);
  int32_t sum;
  for (int h = 0; h < layer.num_kv_heads; ++h) {
    const int64_t offset = block_offset(layer, table, h, position), scale = offset / dim + slot;
    uint8_t* keys = static_cast<uint8_t*>(layer.keys) + offset + int64_t(slot / kGroupKeys * kGroupKeys) * dim;
    int8_t* values = static_cast<int8_t*>(layer.values) + offset + int64_t(slot / 2 * 2) * dim;
    turn(layer, k + h * dim, layer.k_norm, angles, 1.0f, rotated);
    layer.key_scales[scale] = code_head(rotated, dim, codes, &sum);
    for (int d = 0; d < dim; d += 4) {
      const int32_t word = word_at(codes + d) ^ int32_t(0x80808080);
      __builtin_memcpy(keys + d * kGroupKeys + slot % kGroupKeys * 4, &word, sizeof(word));
    }
    layer.value_scales[scale] = code_head(v + h * dim, dim, codes, &sum);
    for (int d = 0; d < dim; ++d) values[2 * d + slot % 2] = codes[d];
  }
}

// The keys and values of a chunk, which all rows see up to the same key.
struct CodedChunk {
  int num_groups;
  int num_keys;
  const uint8_t* keys[kMaxGroups + kMaxTileGroups];  // the last ones are only prefetched
  const int8_t* values[kMaxGroups];
  const float* key_scales[kMaxGroups];
  float steps[kChunkKeys];  // factor that turns a weight into a code
  float value_scale;        // factor on sums of products of codes and values
};

// Computes the steps from the scales of values, in place.
inline void make_steps(CodedChunk* chunk) {
  Lanes most = broadcast(0.0f), zeros = broadcast(0.0f);
  for (int g = 0; g < chunk->num_groups; ++g) {
    const Lanes scales = load(chunk->steps + g * kGroupKeys);
    most = larger(scales, most);
    zeros = fma(scales, broadcast(0.0f), zeros);
  }
  const float largest = largest_lane(most);
  const Lanes inverse = broadcast(largest > kSmallest ? kWeightSteps / largest : 0.0f);
  for (int g = 0; g < chunk->num_groups; ++g)
    store(chunk->steps + g * kGroupKeys, mul(load(chunk->steps + g * kGroupKeys), inverse));
  chunk->value_scale = (largest > kSmallest ? largest / kWeightSteps : 0.0f) + sum_lanes(zeros);
}

// The chunk that begins at a key, up to `end`. Keys after that in its last group have no effect.
inline void find_coded_chunk(const LayerView& layer, const int32_t* table, int kv_head, int first_key, int end,
                             CodedChunk* chunk) {
  const int dim = layer.head_dim;
  chunk->num_keys = clamp(end - first_key, 0, kChunkKeys);
  chunk->num_groups = (chunk->num_keys + kGroupKeys - 1) / kGroupKeys;
  for (int g = 0; g < chunk->num_groups + kMaxTileGroups; ++g) {
    const int position = first_key + g * kGroupKeys, slot = position % layer.block_size;
    if (position >= end) {
      chunk->keys[g] = chunk->keys[g - 1];
      continue;
    }
    const int64_t offset = block_offset(layer, table, kv_head, position), scale = offset / dim + slot;
    chunk->keys[g] = static_cast<const uint8_t*>(layer.keys) + offset + int64_t(slot) * dim;
    if (g >= kMaxGroups) continue;
    chunk->values[g] = static_cast<const int8_t*>(layer.values) + offset + int64_t(slot) * dim;
    chunk->key_scales[g] = layer.key_scales + scale;
    const int count = end - position;
    const float* scales = layer.value_scales + scale;
    store(chunk->steps + g * kGroupKeys, count < kGroupKeys ? load_first(scales, count) : load(scales));
  }
  make_steps(chunk);
}
