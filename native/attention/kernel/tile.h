// The rows that one item computes.

// The rows of one item, and what they have in common. Row (token i, head g) is at i * group + g.
struct Tile {
  const LayerView& layer;
  const int32_t* table;
  int kv_head;
  int group;
  int num_rows;
  int first_position;
  int context;   // keys that every row sees; 0: those up to its own position
  const int32_t* ends_seen;  // for each token, the key before which its rows see; nullptr: as `context` says
  int width;     // columns of the sums
  float* q;      // [num_rows, head_dim], rotated and scaled
  float* scores; // [num_rows, kChunkKeys]
  float* copies; // [kCopiedGroups * kGroupKeys, head_dim]; not there if keys and values are codes

  int position(int row) const { return first_position + row / group; }
  int end_seen(int row) const {
    if (ends_seen != nullptr) return ends_seen[row / group];
    return context > 0 ? context : position(row) + 1;
  }
  int end() const { return end_seen(num_rows - 1); }
  int first_seen(int row) const {
    if (layer.window == 0) return 0;
    return layer.in_chunks ? position(row) / layer.window * layer.window : position(row) + 1 - layer.window;
  }

  // Keys that a row sees in the chunk that begins at a key.
  Keys seen(int row, int first_key) const {
    return {clamp(first_seen(row) - first_key, 0, kChunkKeys), clamp(end_seen(row) - first_key, 0, kChunkKeys)};
  }
};

void load_queries(const StepView& step, const CallView& call, const RowRange& rows, const Tile& tile) {
  const int dim = tile.layer.head_dim;
  for (int r = 0; r < tile.num_rows; ++r) {
    const float* row = call.qkv + (rows.first_row + r / tile.group) * call.qkv_stride;
    const int64_t head = int64_t(tile.kv_head) * tile.group + r % tile.group;
    const int position = tile.position(r);
    const float more = tile.layer.query_scales == nullptr ? 1.0f : tile.layer.query_scales[position];
    const Angles angles = angles_of(tile.layer, step, rows.first_row + r / tile.group, position);
    turn(tile.layer, row + head * dim, tile.layer.q_norm, angles, tile.layer.scale * more, tile.q + r * dim);
  }
}
