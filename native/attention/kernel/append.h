// Rotary embedding, and storing keys and values in the cache.

// Cosine and sine of the angles by which a row is rotated.
struct Angles {
  const float* cos;
  const float* sin;
};

inline Angles angles_of(const LayerView& layer, const StepView& step, int row, int position) {
  const int half = layer.rotary_dim / 2;
  if (step.cos != nullptr) return {step.cos + int64_t(row) * half, step.sin + int64_t(row) * half};
  return {layer.cos + int64_t(position) * half, layer.sin + int64_t(position) * half};
}

// Half-split rotation of one head, times `scale`; pair i is dimensions i and i + half.
inline void rotate(const LayerView& layer, const float* x, const Angles& angles, float scale, float* to) {
  const int half = layer.rotary_dim / 2;
  const float *cos = angles.cos, *sin = angles.sin;
  for (int i = 0; i < half; ++i) {
    const float first = x[i] * scale, second = x[i + half] * scale;
    to[i] = first * cos[i] - second * sin[i];
    to[i + half] = second * cos[i] + first * sin[i];
  }
  for (int i = layer.rotary_dim; i < layer.head_dim; ++i) to[i] = x[i] * scale;
}

// x = x / rms(x) * weight * scale. Source: arXiv 1910.07467.
inline void norm_head(float* x, const float* weight, float epsilon, int dim, float scale) {
  Lanes squares = broadcast(0.0f);
  for (int i = 0; i < dim; i += kLanes) {
    const Lanes v = dim - i < kLanes ? load_first(x + i, dim - i) : load(x + i);
    squares = fma(v, v, squares);
  }
  const float inverse = 1.0f / __builtin_sqrtf(sum_lanes(squares) / float(dim) + epsilon);
  for (int i = 0; i < dim; ++i) x[i] = x[i] * inverse * weight[i] * scale;
}

// The rotated head, with its norm if the layer has one, times `scale`.
inline void turn(const LayerView& layer, const float* x, const float* norm, const Angles& angles, float scale,
                 float* to) {
  rotate(layer, x, angles, norm == nullptr ? scale : 1.0f, to);
  if (norm != nullptr) norm_head(to, norm, layer.norm_epsilon, layer.head_dim, scale);
}

// Sixteen neighboring dimensions at a time, in the cache's layout; `put` gets each dimension and its value.
template <typename T, typename Put>
inline void convert(const float* x, int dim, const Put& put) {
  for (int first = 0; first < dim; first += kLanes) {
    const int count = dim - first < kLanes ? dim - first : kLanes;
    T converted[kLanes];
    store_kv(converted, count == kLanes ? load(x + first) : load_first(x + first, count));
    for (int i = 0; i < count; ++i) put(first + i, converted[i]);
  }
}

template <typename T>
void append_row(const LayerView& layer, const int32_t* table, const float* k, const float* v, int position,
                const Angles& angles, float* rotated) {
  const int dim = layer.head_dim, size = layer.block_size, slot = position % size;
  for (int h = 0; h < layer.num_kv_heads; ++h) {
    const int64_t offset = block_offset(layer, table, h, position);
    T* keys = static_cast<T*>(layer.keys) + offset + slot;
    T* values = static_cast<T*>(layer.values) + offset + int64_t(slot) * dim;
    turn(layer, k + h * dim, layer.k_norm, angles, 1.0f, rotated);
    convert<T>(rotated, dim, [&](int d, T x) { keys[int64_t(d) * size] = x; });
    convert<T>(v + h * dim, dim, [&](int d, T x) { values[d] = x; });
  }
}

// Calls `append_one` for each row with the sequence's table, key heads, value heads, position and angles.
template <typename AppendOne>
void append_rows(const LayerView& layer, const StepView& step, const CallView& call, const RowRange& rows,
                 const AppendOne& append_one) {
  for (int row = rows.first_row; row < rows.first_row + rows.num_rows; ++row) {
    const float* k = call.qkv + row * call.qkv_stride + int64_t(layer.num_heads) * layer.head_dim;
    const float* v = k + int64_t(layer.num_kv_heads) * layer.head_dim;
    const int position = step.positions[row];
    append_one(table_of(step, rows), k, v, position, angles_of(layer, step, row, position));
  }
}
