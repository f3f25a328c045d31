// Codes of rows, the inputs of products with block-quantized matrices. Included inside the namespace of an instruction
// set, after lanes.h.

constexpr int kBlocksTogether = 16;  // quantized together, step by step: none waits for its previous step

// Codes and sums of `count` blocks; see ActivationRows.
inline void quantize_blocks(const float* values, int count, int8_t* codes, int8_t* low_codes, float* scales,
                            int32_t* half_sums) {
  const float steps = low_codes == nullptr ? 127.0f : 127.0f * 128.0f;
  float largest[kBlocksTogether], inverses[kBlocksTogether];
  const auto largest_of = [values](int b) {
    const float* from = values + b * kBlockInputs;
    return larger(magnitude(load(from)), magnitude(load(from + kLanes)));
  };
  if (count == kLanes) {
    store(largest, largest_lanes(largest_of));
  } else {
    for (int b = 0; b < count; ++b) largest[b] = largest_lane(largest_of(b));
  }
  for (int b = 0; b < count; ++b) {
    const bool is_zero = !(largest[b] > 1e-30f);  // below, the inverse of the scale could be infinite
    scales[b] = is_zero ? 0.0f : largest[b] / steps;
    inverses[b] = is_zero ? 0.0f : steps / largest[b];
  }
  const auto scaled_at = [&](int i) { return mul(load(values + i * kLanes), broadcast(inverses[i / 2])); };
  int i = 0;
  for (; low_codes == nullptr && i + kLanes <= 2 * count; i += kLanes)
    store_rounded(codes + i * kLanes, [&](int k) { return scaled_at(i + k); }, half_sums + i);
  for (; i < 2 * count; ++i) {
    const Lanes scaled = scaled_at(i);
    if (low_codes == nullptr) {
      half_sums[i] = store_rounded(codes + i * kLanes, scaled);
      continue;
    }
    const Lanes round = broadcast(12582912.0f);  // 1.5 * 2**23: adding it rounds to a whole number
    const Lanes whole = sub(add(scaled, round), round);
    const Lanes high = sub(add(mul(whole, broadcast(1.0f / 128.0f)), round), round);
    half_sums[i] = 128 * store_rounded(codes + i * kLanes, high);
    half_sums[i] += store_rounded(low_codes + i * kLanes, fma(high, broadcast(-128.0f), whole));
  }
}

inline bool is_finite(const float* values, int count) {
  constexpr int kChains = 4;
  const Lanes zero = broadcast(0.0f);
  Lanes zeros[kChains] = {zero, zero, zero, zero};
  int i = 0;
  for (; i + kChains * kLanes <= count; i += kChains * kLanes)
    for (int c = 0; c < kChains; ++c) zeros[c] = fma(load(values + i + c * kLanes), zero, zeros[c]);
  float sum = sum_lanes(add(add(zeros[0], zeros[1]), add(zeros[2], zeros[3])));
  for (; i < count; ++i) sum += values[i] * 0.0f;
  return sum == 0.0f;
}

// A row with an infinite number or NaN has no codes: everything that is computed from it is NaN, with every instruction
// set.
void spoil(const ActivationRows& rows, int64_t row) {
  const int64_t first = row * rows.num_blocks, end = first + rows.num_blocks;
  for (int64_t i = first * kBlockInputs; i < end * kBlockInputs; ++i) {
    rows.codes[i] = 0;
    if (rows.low_codes != nullptr) rows.low_codes[i] = 0;
  }
  for (int64_t i = first; i < end; ++i) rows.scales[i] = __builtin_nanf("");
  for (int parts = 1; parts <= 2; ++parts)
    for (int64_t i = first * parts; i < end * parts; ++i) {
      rows.sums[parts - 1][i] = 0;
      rows.scaled_sums[parts - 1][i] = __builtin_nanf("");
    }
}

// Sums of whole blocks, and all of them times their scales.
inline void scale_sums(const ActivationRows& rows, int64_t first, int count) {
  const float* scales = rows.scales + first;
  const int32_t* halves = rows.sums[1] + 2 * first;
  int32_t* sums = rows.sums[0] + first;
  float *scaled = rows.scaled_sums[0] + first, *scaled_halves = rows.scaled_sums[1] + 2 * first;
#pragma GCC ivdep
  for (int b = 0; b < count; ++b) {
    sums[b] = halves[2 * b] + halves[2 * b + 1];
    scaled[b] = float(sums[b]) * scales[b];
    for (int i = 0; i < 2; ++i) scaled_halves[2 * b + i] = float(halves[2 * b + i]) * scales[b];
  }
}

void quantize(const ActivationRows& rows, int first_row, int num_rows) {
  const int whole_blocks = rows.num_inputs / kBlockInputs, rest = rows.num_inputs % kBlockInputs;
  for (int64_t row = first_row; row < first_row + num_rows; ++row) {
    const float* values = rows.values + row * rows.value_stride;
    if (!is_finite(values, rows.num_inputs)) {
      spoil(rows, row);
      continue;
    }
    const int64_t first = row * rows.num_blocks;
    const auto quantize_some = [&rows, first](const float* from, int block, int count) {
      const int64_t at = first + block;
      quantize_blocks(from, count, rows.codes + at * kBlockInputs,
                      rows.low_codes == nullptr ? nullptr : rows.low_codes + at * kBlockInputs, rows.scales + at,
                      rows.sums[1] + at * 2);
    };
    for (int block = 0; block < whole_blocks; block += kBlocksTogether)
      quantize_some(values + block * kBlockInputs, block,
                    whole_blocks - block < kBlocksTogether ? whole_blocks - block : kBlocksTogether);
    if (rest > 0) {
      float padded[kBlockInputs] = {};
      for (int i = 0; i < rest; ++i) padded[i] = values[whole_blocks * kBlockInputs + i];
      quantize_some(padded, whole_blocks, 1);
    }
    scale_sums(rows, first, rows.num_blocks);
  }
}
