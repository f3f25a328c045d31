// From packed codes to bytes, and from packed scales to fp32. See matrix.h for the packed form. Included inside a
// kernel's own namespace.

// A vector of 64 bytes is processed in pieces of one register.
#if defined(__AVX512BW__)
constexpr int kPieceBytes = 64;
#elif defined(__AVX2__)
constexpr int kPieceBytes = 32;
#else
constexpr int kPieceBytes = 16;
#endif
typedef uint8_t Bytes __attribute__((vector_size(kPieceBytes)));

inline Bytes load_bytes(const uint8_t* from) {
  Bytes value;
  __builtin_memcpy(&value, from, sizeof(value));
  return value;
}

inline void store_bytes(uint8_t* to, Bytes value) { __builtin_memcpy(to, &value, sizeof(value)); }

// The values of NF4. Source: QLoRA, arXiv 2305.14314, appendix E, as bitsandbytes rounds them to fp32
alignas(64) constexpr float kNf4Values[16] = {
    -1.0f,         -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
    0.0795803f,    0.1609302f,  0.2461123f,   0.33791524f, 0.44070983f,  0.562617f,    0.72295684f,   1.0f};
// Source: GGML, kvalues_iq4nl; OCP Microscaling Formats 1.0, E2M1, times two.
alignas(16) constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
alignas(16) constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

// table[code] of codes below 16.
inline Bytes look_up(const int8_t* table, Bytes codes) {
#if defined(__AVX512BW__)
  return (Bytes)_mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_load_si128((const __m128i*)table)), (__m512i)codes);
#elif defined(__AVX2__)
  return (Bytes)_mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_load_si128((const __m128i*)table)), (__m256i)codes);
#elif defined(__aarch64__)
  return (Bytes)vqtbl1q_s8(vld1q_s8(table), (uint8x16_t)codes);
#else
  Bytes values;
  for (int i = 0; i < kPieceBytes; ++i) values[i] = uint8_t(table[codes[i]]);
  return values;
#endif
}

// A piece of the codes of group g of a block.
template <Codes kind>
inline Bytes group_codes(const uint8_t* from, int g) {
  const Bytes low4 = Bytes{} + 15, low2 = Bytes{} + 3, one = Bytes{} + 1;
  if constexpr (kind == Codes::kBytes) return load_bytes(from + g * kVectorBytes);
  if constexpr (kind == Codes::kBits2 || kind == Codes::kBits3) {
    Bytes codes = (load_bytes(from + g / 4 * kVectorBytes) >> (2 * (g % 4))) & low2;
    if constexpr (kind == Codes::kBits3) codes |= ((load_bytes(from + 2 * kVectorBytes) >> g) & one) << 2;
    return codes;
  }
  const Bytes pairs = load_bytes(from + g / 2 * kVectorBytes);
  Bytes codes = g % 2 == 0 ? pairs & low4 : (pairs >> 4) & low4;
  if constexpr (kind == Codes::kBits5) codes |= ((load_bytes(from + 4 * kVectorBytes) >> g) & one) << 4;
  if constexpr (kind == Codes::kBits6)
    codes |= ((load_bytes(from + (4 + g / 4) * kVectorBytes) >> (2 * (g % 4))) & low2) << 4;
  if constexpr (kind == Codes::kTableIq4) return look_up(kIq4Values, codes);
  if constexpr (kind == Codes::kTableMxfp4) return look_up(kMxfp4Values, codes);
  return codes;
}

// The codes of one block of a tile, group by group, plus `shift` modulo 256.
template <Codes kind>
inline void unpack_block(const uint8_t* from, uint8_t shift, uint8_t* to) {
  for (int piece = 0; piece < kVectorBytes; piece += kPieceBytes) {
    Bytes codes[kBlockGroups];
#pragma GCC unroll 8
    for (int g = 0; g < kBlockGroups; ++g) codes[g] = group_codes<kind>(from + piece, g);
#pragma GCC unroll 8
    for (int g = 0; g < kBlockGroups; ++g)
      store_bytes(to + piece + g * kVectorBytes, shift == 0 ? codes[g] : codes[g] + shift);
  }
}

// The packed codes of a tile, starting with a block.
inline const uint8_t* codes_at(const Matrix& m, int tile, int block) {
  return m.code_bytes + (int64_t(tile) * num_blocks(m) + block) * code_unit_bytes(m.codes);
}

template <Codes kind>
inline void unpack_kind(const Matrix& matrix, int tile, int first_block, int count, uint8_t shift, uint8_t* to) {
  const int64_t unit = code_unit_bytes(kind);
  const uint8_t* from = codes_at(matrix, tile, first_block);
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

// For each of `count` parts from part `first` of a tile: to = coarse(super-block) * fine(part), exact in fp32.
template <typename Fine>
inline void decode_super(const Matrix& m, const uint8_t* coarse_bytes, int tile, int first, int count, float sign,
                         float* to, const Fine& fine) {
  const int per_block = parts_per_block(m), parts = num_blocks(m) * per_block, per_super = kSuperBlocks * per_block;
  const uint16_t* coarse = (const uint16_t*)coarse_bytes + values_at(tile, num_supers(m), 0);
  const int64_t own = values_at(tile, parts, first);
  int at = m.first_block * per_block + first;  // counted from the start of the first super-block
  for (int p = 0; p < count;) {
    const Lanes super = mul(load_half(coarse + at / per_super * kTileOutputs), broadcast(sign));
    for (const int end = p + per_super - at % per_super; p < end && p < count; ++p, ++at)
      store(to + p * kTileOutputs, mul(super, fine(own + p * kTileOutputs)));
  }
}

// The scales or offsets of `count` parts of a tile as fp32 [count, 16]. All products are exact.
inline void decode_scales(const Matrix& m, Scales kind, bool is_offset, int tile, int first, int count, float* to) {
  const int64_t own = values_at(tile, num_parts(m), first);
  const uint8_t* bytes = is_offset ? m.offset_bytes : m.scale_bytes;
  const int size = count * kTileOutputs;
  switch (kind) {
    case Scales::kNone:
      for (int i = 0; i < size; i += kLanes) store(to + i, broadcast(0.0f));
      return;
    case Scales::kHalf:
      for (int i = 0; i < size; i += kLanes) store(to + i, load_half((const uint16_t*)bytes + own + i));
      return;
    case Scales::kFloat:
      for (int i = 0; i < size; i += kLanes) store(to + i, load((const float*)bytes + own + i));
      return;
    case Scales::kBrain:
      for (int i = 0; i < size; i += kLanes) store(to + i, load_bfloat((const uint16_t*)bytes + own + i));
      return;
    case Scales::kZeroPoints:
      decode_scales(m, m.scales, false, tile, first, count, to);
      for (int i = 0; i < size; i += kLanes) {
        const Lanes below = sub(broadcast(float(middle_code(m))), from_unsigned_bytes(bytes + own + i));
        store(to + i, mul(load(to + i), below));
      }
      return;
    case Scales::kExponent:
      for (int i = 0; i < size; i += kLanes) store(to + i, exponents(bytes + own + i));
      return;
    case Scales::kSuper:
      if (is_offset)
        return decode_super(m, bytes, tile, first, count, -1.0f, to,
                            [&m](int64_t at) { return from_unsigned_bytes(m.fine_offset_bytes + at); });
      return decode_super(m, bytes, tile, first, count, 1.0f, to,
                          [&m](int64_t at) { return from_bytes((const int8_t*)m.fine_scale_bytes + at); });
    case Scales::kNibbles:
      return decode_super(m, bytes, tile, first, count, is_offset ? -1.0f : 1.0f, to, [&m, is_offset](int64_t at) {
        return from_nibbles(m.fine_scale_bytes + at, is_offset ? 4 : 0);
      });
  }
}

// Sixteen codes of 4 bits: of outputs 0 to 7 in the low nibbles of eight bytes, of 8 to 15 in the high ones.
inline void split_nibbles(const uint8_t* from, uint8_t* codes) {
#if defined(__AVX2__)  // one store, from which one load can be forwarded
  const __m128i low4 = _mm_set1_epi8(15), pairs = _mm_loadl_epi64((const __m128i*)from);
  const __m128i low = _mm_and_si128(pairs, low4), high = _mm_and_si128(_mm_srli_epi16(pairs, 4), low4);
  _mm_storeu_si128((__m128i*)codes, _mm_unpacklo_epi64(low, high));
#else
  uint64_t pairs;
  __builtin_memcpy(&pairs, from, sizeof(pairs));
  const uint64_t halves[2] = {pairs & 0x0f0f0f0f0f0f0f0fu, pairs >> 4 & 0x0f0f0f0f0f0f0f0fu};
  __builtin_memcpy(codes, halves, sizeof(halves));
#endif
}

inline Lanes nf4_values(const uint8_t* from) {
  alignas(16) uint8_t codes[kTileOutputs];
  split_nibbles(from, codes);
#if defined(__AVX512F__)
  return _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(_mm_load_si128((const __m128i*)codes)), _mm512_load_ps(kNf4Values));
#else
  float values[kTileOutputs];
  for (int i = 0; i < kTileOutputs; ++i) values[i] = kNf4Values[codes[i]];
  return load(values);
#endif
}

// fp16 has the same bits and a bias greater by 8.
inline Lanes e4m3_values(const uint8_t* from) {
  uint16_t halves[kTileOutputs];
  for (int i = 0; i < kTileOutputs; ++i) halves[i] = uint16_t((from[i] & 0x80) << 8 | (from[i] & 0x7f) << 7);
  return mul(load_half(halves), broadcast(256.0f));
}

// What the codes of one input stand for, exactly. `zeros`: the zero points of its part.
template <Codes kind>
inline Lanes coded_values(const uint8_t* from, Lanes zeros) {
  if constexpr (kind == Codes::kE4m3) return e4m3_values(from);
  if constexpr (kind == Codes::kTableNf4) return nf4_values(from);
  if constexpr (kind == Codes::kGrouped8) return sub(from_unsigned_bytes(from), zeros);
  uint8_t codes[kTileOutputs];
  split_nibbles(from, codes);
  return sub(from_unsigned_bytes(codes), zeros);
}

template <Codes kind>
inline void unpack_coded(const Matrix& m, int tile, int first, int count, float* to) {
  const int unit = code_unit_bytes(kind);
  const uint8_t* from = m.code_bytes + (int64_t(tile) * m.num_inputs + first) * unit;
  float scales[kTileOutputs];
  Lanes scale = broadcast(0.0f), zeros = broadcast(float(m.zero_point));
  int held = -1;
  for (int k = 0; k < count; ++k, from += unit) {
    const int part =
        is_grouped(m) ? ((const int32_t*)m.fine_scale_bytes)[first + k] : (m.first_block + first + k) / m.part_inputs;
    if (part != held) {
      held = part;
      decode_scales(m, m.scales, false, tile, part, 1, scales);
      scale = load(scales);
      if (m.offsets == Scales::kZeroPoints)
        zeros = from_unsigned_bytes(m.offset_bytes + values_at(tile, num_parts(m), part));
    }
    store(to + k * kTileOutputs, mul(scale, coded_values<kind>(from, zeros)));
  }
}

// Inputs [first, first + count) of a dense tile as fp32 [count, 16]: a pointer to where they are, or to `to`.
inline const float* unpack_dense(const Matrix& m, int tile, int first, int count, float* to) {
  switch (m.codes) {
    case Codes::kE4m3: unpack_coded<Codes::kE4m3>(m, tile, first, count, to); return to;
    case Codes::kTableNf4: unpack_coded<Codes::kTableNf4>(m, tile, first, count, to); return to;
    case Codes::kGrouped4: unpack_coded<Codes::kGrouped4>(m, tile, first, count, to); return to;
    case Codes::kGrouped8: unpack_coded<Codes::kGrouped8>(m, tile, first, count, to); return to;
    default: break;
  }
  const int64_t start = (int64_t(tile) * m.num_inputs + first) * kTileOutputs;
  if (m.codes == Codes::kFloat) return (const float*)m.code_bytes + start;
  const uint16_t* from = (const uint16_t*)m.code_bytes + start;
  for (int i = 0; i < count * kTileOutputs; i += kTileOutputs)
    store(to + i, m.codes == Codes::kHalf ? load_half(from + i) : load_bfloat(from + i));
  return to;
}
