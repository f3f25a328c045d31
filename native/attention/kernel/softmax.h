// The running softmax of a row: how chunks are added to their segment, and segments to each other.

constexpr float kMasked = -1e30f;

inline void fill(float* to, int count, float value) {
  for (int i = 0; i < count; ++i) to[i] = value;
}

// The sums of some rows so far: weighted values and weights, relative to the largest score. The total is 0 for a row
// that has seen nothing.
struct Sums {
  float* out;  // [rows, round_up(head_dim)]
  float* largest;
  float* total;  // of the weights
};

inline Sums sums_at(float* memory, int rows, int width) {
  return {memory, memory + int64_t(rows) * width, memory + int64_t(rows) * (width + 1)};
}

inline int64_t sums_floats(int rows, int width) { return int64_t(rows) * (width + kExtraFloats); }

inline void clear(const Sums& sums, int rows, int width) {
  fill(sums.out, rows * width, 0.0f);
  fill(sums.largest, rows, kMasked);
  fill(sums.total, rows, 0.0f);
}

inline float exponential_of(float x) {
  float y[kLanes];
  store(y, exponential(broadcast(x)));
  return y[0];
}

inline void scale_row(const Sums& sums, int row, int width, float factor) {
  float* out = sums.out + row * width;
  for (int i = 0; i < width; i += kLanes) store(out + i, mul(load(out + i), broadcast(factor)));
  sums.total[row] *= factor;
}

inline void apply_softcap(float* scores, Keys groups, float cap) {
  const Lanes inverse = broadcast(1.0f / cap), limit = broadcast(cap);
  for (int i = groups.first; i < groups.end; i += kLanes)
    store(scores + i, mul(hyperbolic_tangent(mul(load(scores + i), inverse)), limit));
}

inline float largest_score(const float* scores, Keys groups) {
  Lanes best = broadcast(kMasked);
  for (int i = groups.first; i < groups.end; i += kLanes) best = larger(best, load(scores + i));
  return largest_lane(best);
}

// scores = e**(scores - largest)
inline void weigh(float* scores, Keys groups, float largest) {
  const Lanes offset = broadcast(largest);
  for (int i = groups.first; i < groups.end; i += kLanes) store(scores + i, exponential(sub(load(scores + i), offset)));
}

inline float sum_of(const float* weights, Keys groups) {
  Lanes sum = broadcast(0.0f);
  for (int i = groups.first; i < groups.end; i += kLanes) sum = add(sum, load(weights + i));
  return sum_lanes(sum);
}

// Fills the places in a chunk's groups that are not keys which a row sees.
inline void fill_unseen(float* scores, Keys groups, Keys seen, float value) {
  fill(scores + groups.first, seen.first - groups.first, value);
  fill(scores + seen.end, groups.end - seen.end, value);
}

// Rescales a row's sums if these scores contain a new largest one.
inline void raise_largest(const float* scores, Keys groups, int row, int width, const Sums& sums) {
  const float before = sums.largest[row], best = largest_score(scores, groups);
  if (!(best > before)) return;
  if (sums.total[row] != 0.0f) scale_row(sums, row, width, exponential_of(before - best));
  sums.largest[row] = best;
}

// Turns the scores of one row into weights, and scales the row's sums to match them. Only groups with keys that the row
// sees are touched, and other keys in these have no effect.
inline void soften_row(const LayerView& layer, float* scores, Keys seen, int row, int width, const Sums& sums) {
  if (seen.first >= seen.end) return;
  const Keys groups{seen.first / kLanes * kLanes, round_up(seen.end)};
  if (layer.softcap > 0.0f) apply_softcap(scores, groups, layer.softcap);
  fill_unseen(scores, groups, seen, kMasked);
  raise_largest(scores, groups, row, width, sums);
  weigh(scores, groups, sums.largest[row]);
  fill_unseen(scores, groups, seen, 0.0f);
  sums.total[row] += sum_of(scores, groups);
}

inline void copy_row(const Sums& to, const Sums& from, int row, int width) {
  for (int i = row * width; i < (row + 1) * width; ++i) to.out[i] = from.out[i];
  to.largest[row] = from.largest[row];
  to.total[row] = from.total[row];
}

// Joins a row's next segment to those before it.
inline void merge_row(const Sums& sums, const Sums& next, int row, int width) {
  if (next.total[row] == 0.0f) return;
  if (sums.total[row] == 0.0f) return copy_row(sums, next, row, width);
  const float best = next.largest[row] > sums.largest[row] ? next.largest[row] : sums.largest[row];
  const float kept = exponential_of(sums.largest[row] - best), added = exponential_of(next.largest[row] - best);
  float* out = sums.out + row * width;
  const float* more = next.out + row * width;
  for (int i = 0; i < width; i += kLanes)
    store(out + i, fma(load(more + i), broadcast(added), mul(load(out + i), broadcast(kept))));
  sums.total[row] = sums.total[row] * kept + next.total[row] * added;
  sums.largest[row] = best;
}
