// Copies of half-precision keys and values in fp32. Many rows read them from the nearest cache instead of converting them
// once for each register tile.

inline Chunk<float> copy_of(const Chunk<uint16_t>& chunk, int first, int end) {
  Chunk<float> copy;
  copy.first_key = chunk.first_key;
  copy.first_group = first;
  copy.end_group = end;
  copy.key_stride = kGroupKeys;
  return copy;
}

// Keys of groups [first, end), [group, dim, 16].
inline Chunk<float> copy_keys(const Chunk<uint16_t>& chunk, int first, int end, int dim, float* to) {
  Chunk<float> copy = copy_of(chunk, first, end);
  for (int g = first; g < end; ++g) {
    copy.keys[g] = to;
    for (int d = 0; d < dim; ++d, to += kGroupKeys)
      store(to, load_kv(chunk.keys[g] + int64_t(d) * chunk.key_stride));
  }
  return copy;
}

// Values of groups [first, end), [group, 16, dim].
inline Chunk<float> copy_values(const Chunk<uint16_t>& chunk, int first, int end, int dim, float* to) {
  Chunk<float> copy = copy_of(chunk, first, end);
  for (int g = first; g < end; ++g) {
    copy.values[g] = to;
    for (int i = 0; i < kGroupKeys * dim; i += kLanes, to += kLanes) store(to, load_kv(chunk.values[g] + i));
  }
  return copy;
}
