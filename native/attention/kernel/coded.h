// Attention of a tile over codes: scores, weights and sums of kTileRows rows at a time, one chunk after the other.

// A tile's rows as codes, and the weights of those that are computed together.
struct CodedTile {
  CodedQueries queries;
  int16_t* weights;  // [kTileRows, kChunkKeys]
};

static_assert(kTileRows <= kMaxTileRows, "scratch memory has room for so many");

// Stored in the memory after the scores of kTileRows rows.
CodedTile code_queries(const Tile& tile) {
  const int dim = tile.layer.head_dim;
  float* scales = tile.scores + kTileRows * kChunkKeys;
  int32_t* starts = reinterpret_cast<int32_t*>(scales + tile.num_rows);
  int16_t* weights = reinterpret_cast<int16_t*>(starts + tile.num_rows);
  int8_t* codes = reinterpret_cast<int8_t*>(weights + kTileRows * kChunkKeys);
  for (int r = 0; r < tile.num_rows; ++r) {
    scales[r] = code_head(tile.q + r * dim, dim, codes + r * dim, &starts[r]);
    starts[r] *= -kKeyBias;
  }
  return {{codes, scales, starts}, weights};
}

// Turns a row's scores into codes of its weights times the scales of their values.
void soften_coded_row(const CodedChunk& chunk, float* scores, int row, int width, const Sums& sums, int16_t* weights) {
  const Keys groups{0, chunk.num_groups * kGroupKeys};
  fill_unseen(scores, groups, {0, chunk.num_keys}, kMasked);
  raise_largest(scores, groups, row, width, sums);
  const Lanes offset = broadcast(sums.largest[row]);
  Lanes total = broadcast(0.0f);
  for (int i = 0; i < groups.end; i += kLanes) {
    const Lanes weight = exponential(sub(load(scores + i), offset));
    total = add(total, weight);  // keys after the last one count e**-87, which changes nothing
    store_words(weights + i, mul(weight, load(chunk.steps + i)));
  }
  sums.total[row] += sum_lanes(total);
}

void attend_coded_segment(const Tile& tile, const CodedTile& coded, int segment, const Sums& sums) {
  const int dim = tile.layer.head_dim, first = segment * kSegmentKeys;
  const int end = clamp(tile.end(), first, first + kSegmentKeys);
  CodedChunk chunk;
  clear(sums, tile.num_rows, tile.width);
  for (int key = first; key < end; key += kChunkKeys) {
    find_coded_chunk(tile.layer, tile.table, tile.kv_head, key, end, &chunk);
    for (int r = 0; r < tile.num_rows; r += kTileRows) {
      const int rows = clamp(tile.num_rows - r, 0, kTileRows);
      score_coded(rows, coded.queries, r, dim, chunk, r == 0, tile.scores);
      for (int i = 0; i < rows; ++i)
        soften_coded_row(chunk, tile.scores + i * kChunkKeys, r + i, tile.width, sums, coded.weights + i * kChunkKeys);
      add_coded_values(rows, coded.weights, chunk, dim, sums.out + r * tile.width);
    }
  }
}
