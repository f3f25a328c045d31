// From packed codes to a byte a weight, and from packed scales to fp32. See matrix.h for the packed form.
// Included inside a kernel's own namespace.

typedef uint8_t Bytes __attribute__((vector_size(kVectorBytes)));

inline Bytes load_bytes(const uint8_t* from) {
  Bytes value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

inline void store_bytes(uint8_t* to, Bytes value) { __builtin_memcpy(to, &value, sizeof(value)); }

// Source: GGML, kvalues_iq4nl; OCP Microscaling Formats 1.0, E2M1, times two.
alignas(16) constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
alignas(16) constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// table[code] of codes below 16.
inline Bytes look_up(const int8_t* table, Bytes codes) {
  Bytes values;
#if defined(__AVX512BW__)
  const __m512i wide = _mm512_broadcast_i32x4(_mm_load_si128((const __m128i*)table));
  values = (Bytes)_mm512_shuffle_epi8(wide, (__m512i)codes);
#elif defined(__AVX2__)
  const __m256i wide = _mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)table));
  __m256i halves[2];
  __builtin_memcpy(halves, &codes, sizeof(codes));
  for (__m256i& half : halves) half = _mm256_shuffle_epi8(wide, half);
  __builtin_memcpy(&values, halves, sizeof(values));
#elif defined(__aarch64__)
  const int8x16_t wide = vld1q_s8(table);
  uint8x16_t quarters[4];
  __builtin_memcpy(quarters, &codes, sizeof(codes));
  for (uint8x16_t& quarter : quarters) quarter = vreinterpretq_u8_s8(vqtbl1q_s8(wide, quarter));
  __builtin_memcpy(&values, quarters, sizeof(values));
#else
  for (int i = 0; i < kVectorBytes; ++i) values[i] = uint8_t(table[codes[i]]);
#endif
  return values;
}

// The codes of one block of a tile, group by group, plus `shift` modulo 256.
template <Codes kind>
inline void unpack_block(const uint8_t* from, uint8_t shift, uint8_t* to) {
  const Bytes low4 = Bytes{} + 15, low2 = Bytes{} + 3, one = Bytes{} + 1;
  if constexpr (kind == Codes::kBytes) {
    for (int g = 0; g < kBlockGroups; ++g) store_bytes(to + g * kVectorBytes, load_bytes(from + g * kVectorBytes) + shift);
  } else if constexpr (kind == Codes::kBits2 || kind == Codes::kBits3) {
    const Bytes high = kind == Codes::kBits3 ? load_bytes(from + 2 * kVectorBytes) : Bytes{};
#pragma GCC unroll 8
    for (int g = 0; g < kBlockGroups; ++g) {
      Bytes codes = (load_bytes(from + g / 4 * kVectorBytes) >> (2 * (g % 4))) & low2;
      if constexpr (kind == Codes::kBits3) codes |= ((high >> g) & one) << 2;
      store_bytes(to + g * kVectorBytes, codes + shift);
    }
  } else {
    const Bytes high5 = kind == Codes::kBits5 ? load_bytes(from + 4 * kVectorBytes) : Bytes{};
#pragma GCC unroll 8
    for (int g = 0; g < kBlockGroups; ++g) {
      const Bytes pairs = load_bytes(from + g / 2 * kVectorBytes);
      Bytes codes = g % 2 == 0 ? pairs & low4 : pairs >> 4;
      if constexpr (kind == Codes::kBits5) codes |= ((high5 >> g) & one) << 4;
      if constexpr (kind == Codes::kBits6)
        codes |= ((load_bytes(from + (4 + g / 4) * kVectorBytes) >> (2 * (g % 4))) & low2) << 4;
      if constexpr (kind == Codes::kTableIq4) codes = look_up(kIq4Values, codes);
      if constexpr (kind == Codes::kTableMxfp4) codes = look_up(kMxfp4Values, codes);
      store_bytes(to + g * kVectorBytes, codes + shift);
    }
  }
}

template <Codes kind>
inline void unpack_kind(const Matrix& matrix, int tile, int first_block, int count, uint8_t shift, uint8_t* to) {
  const int64_t unit = code_unit_bytes(kind);
  const uint8_t* from = matrix.code_bytes + (int64_t(tile) * num_blocks(matrix) + first_block) * unit;
  for (int b = 0; b < count; ++b)
    unpack_block<kind>(from + b * unit, shift, to + b * kBlockGroups * kVectorBytes);
}

inline void unpack_codes(const Matrix& matrix, int tile, int first_block, int count, uint8_t shift, uint8_t* to) {
  switch (matrix.codes) {
    case Codes::kBits2: return unpack_kind<Codes::kBits2>(matrix, tile, first_block, count, shift, to);
    case Codes::kBits3: return unpack_kind<Codes::kBits3>(matrix, tile, first_block, count, shift, to);
    case Codes::kBits4: return unpack_kind<Codes::kBits4>(matrix, tile, first_block, count, shift, to);
    case Codes::kBits5: return unpack_kind<Codes::kBits5>(matrix, tile, first_block, count, shift, to);
    case Codes::kBits6: return unpack_kind<Codes::kBits6>(matrix, tile, first_block, count, shift, to);
    case Codes::kBytes: return unpack_kind<Codes::kBytes>(matrix, tile, first_block, count, shift, to);
    case Codes::kTableIq4: return unpack_kind<Codes::kTableIq4>(matrix, tile, first_block, count, shift, to);
    case Codes::kTableMxfp4: return unpack_kind<Codes::kTableMxfp4>(matrix, tile, first_block, count, shift, to);
    default: return;
  }
}

// Where values [16] of one tile begin in an array of [tile, per_tile, 16].
inline int64_t values_at(int tile, int per_tile, int index) {
  return (int64_t(tile) * per_tile + index) * kTileOutputs;
}

inline Lanes exponents(const uint8_t* from) {
  float powers[kTileOutputs];
  for (int i = 0; i < kTileOutputs; ++i) {
    const uint32_t bits = from[i] < 2 ? 0x00200000u << from[i] : uint32_t(from[i] - 1) << 23;
    __builtin_memcpy(powers + i, &bits, sizeof(bits));
  }
  return load(powers);
}

// The low or high nibbles of 16 bytes.
inline Lanes from_nibbles(const uint8_t* from, int shift) {
  uint8_t nibbles[kTileOutputs];
  for (int i = 0; i < kTileOutputs; ++i) nibbles[i] = (from[i] >> shift) & 15;
  return from_unsigned_bytes(nibbles);
}

// One part's scales. All products are exact in fp32.
inline Lanes part_scales(const Matrix& m, int tile, int part) {
  const int per_block = parts_per_block(m), parts = num_blocks(m) * per_block;
  const int64_t own = values_at(tile, parts, part);
  const int64_t super = values_at(tile, num_supers(m), (m.first_block + part / per_block) / kSuperBlocks);
  const uint16_t* halves = (const uint16_t*)m.scale_bytes;
  switch (m.scales) {
    case Scales::kHalf: return load_half(halves + own);
    case Scales::kFloat: return load((const float*)m.scale_bytes + own);
    case Scales::kSuper: return mul(load_half(halves + super), from_bytes((const int8_t*)m.fine_scale_bytes + own));
    case Scales::kNibbles: return mul(load_half(halves + super), from_nibbles(m.fine_scale_bytes + own, 0));
    case Scales::kExponent: return exponents(m.scale_bytes + own);
    default: return broadcast(0.0f);
  }
}

inline Lanes part_offsets(const Matrix& m, int tile, int part) {
  const int per_block = parts_per_block(m), parts = num_blocks(m) * per_block;
  const int64_t own = values_at(tile, parts, part);
  const int64_t super = values_at(tile, num_supers(m), (m.first_block + part / per_block) / kSuperBlocks);
  const uint16_t* halves = (const uint16_t*)m.offset_bytes;
  const Lanes zero = broadcast(0.0f);
  switch (m.offsets) {
    case Scales::kHalf: return load_half(halves + own);
    case Scales::kFloat: return load((const float*)m.offset_bytes + own);
    case Scales::kSuper: return sub(zero, mul(load_half(halves + super), from_unsigned_bytes(m.fine_offset_bytes + own)));
    case Scales::kNibbles: return sub(zero, mul(load_half(halves + super), from_nibbles(m.fine_scale_bytes + own, 4)));
    default: return zero;
  }
}

// Inputs [first, first + count) of a dense tile as fp32 [count, 16]: where they are, or in `to`.
inline const float* unpack_dense(const Matrix& m, int tile, int first, int count, float* to) {
  const int64_t start = (int64_t(tile) * m.num_inputs + first) * kTileOutputs;
  if (m.codes == Codes::kFloat) return (const float*)m.code_bytes + start;
  const uint16_t* from = (const uint16_t*)m.code_bytes + start;
  for (int i = 0; i < count * kTileOutputs; i += kTileOutputs)
    store(to + i, m.codes == Codes::kHalf ? load_half(from + i) : load_bfloat(from + i));
  return to;
}
