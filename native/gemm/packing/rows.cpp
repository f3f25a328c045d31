// Compiled without contraction (-ffp-contract=off): a fused multiply-add would round once.
#include "rows.h"

#include <cstring>

#include "half.h"

namespace shoal {

namespace {

// Source: kvalues_iq4nl and kvalues_mxfp4 in ggml-common.h; the latter are twice the values of E2M1.
constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
// The same as in unpack.h.
constexpr float kNf4Values[16] = {
    -1.0f,         -0.6961928f, -0.52507305f, -0.3949175f, -0.28444138f, -0.18477343f, -0.091050036f, 0.0f,
    0.0795803f,    0.1609302f,  0.2461123f,   0.33791524f, 0.44070983f,  0.562617f,    0.72295684f,   1.0f};

template <int Bits>
const uint8_t* add_plane(const uint8_t* plane, int column, int place, uint8_t* codes) {
  constexpr int kTogether = 8 / Bits;
  for (int i = 0; i < kBlockInputs; ++i) {
    const int group = i / 4;
    const uint8_t byte = plane[group / kTogether * kVectorBytes + 4 * column + i % 4];
    codes[i] |= uint8_t((byte >> (Bits * (group % kTogether)) & ((1 << Bits) - 1)) << place);
  }
  return plane + kBlockGroups / kTogether * kVectorBytes;
}

void read_codes(Codes kind, const uint8_t* unit, int column, uint8_t* codes) {
  for (int i = 0; i < kBlockInputs; ++i) codes[i] = 0;
  switch (kind) {
    case Codes::kBits2: add_plane<2>(unit, column, 0, codes); break;
    case Codes::kBits3: add_plane<1>(add_plane<2>(unit, column, 0, codes), column, 2, codes); break;
    case Codes::kBits5: add_plane<1>(add_plane<4>(unit, column, 0, codes), column, 4, codes); break;
    case Codes::kBits6: add_plane<2>(add_plane<4>(unit, column, 0, codes), column, 4, codes); break;
    case Codes::kBytes: add_plane<8>(unit, column, 0, codes); break;
    default: add_plane<4>(unit, column, 0, codes);
  }
}

// What a scale is multiplied with.
int level(const Matrix& m, uint8_t code) {
  switch (m.codes) {
    case Codes::kBytes: return int8_t(code);
    case Codes::kTableIq4: return kIq4Values[code];
    case Codes::kTableMxfp4: return kMxfp4Values[code];
    default: return int(code) - m.zero_point;
  }
}

float half_at(const uint8_t* array, size_t i) { return half_value(uint16_t(array[2 * i] | array[2 * i + 1] << 8)); }

float float_at(const uint8_t* array, size_t i) {
  float value;
  std::memcpy(&value, array + 4 * i, sizeof value);
  return value;
}

// 2 ** (e - 128), of which the two smallest are subnormal.
float exponent_value(uint8_t e) { return float_of_bits(e < 2 ? 0x00200000u << e : uint32_t(e - 1) << 23); }

// Items of a tile's arrays: of a part, and of the super-block that it lies in.
struct Place {
  size_t part, super;
};

float scale_at(const Matrix& m, Place at) {
  switch (m.scales) {
    case Scales::kHalf: return half_at(m.scale_bytes, at.part);
    case Scales::kBrain: return bfloat_value(uint16_t(m.scale_bytes[2 * at.part] | m.scale_bytes[2 * at.part + 1] << 8));
    case Scales::kZeroPoints: break;
    case Scales::kFloat: return float_at(m.scale_bytes, at.part);
    case Scales::kSuper: return half_at(m.scale_bytes, at.super) * float(int8_t(m.fine_scale_bytes[at.part]));
    case Scales::kNibbles: return half_at(m.scale_bytes, at.super) * float(m.fine_scale_bytes[at.part] & 15);
    case Scales::kExponent: return exponent_value(m.scale_bytes[at.part]);
    case Scales::kNone: break;
  }
  return 1.0f;
}

float offset_at(const Matrix& m, Place at) {
  switch (m.offsets) {
    case Scales::kHalf: return half_at(m.offset_bytes, at.part);
    case Scales::kFloat: return float_at(m.offset_bytes, at.part);
    case Scales::kSuper: return -(half_at(m.offset_bytes, at.super) * float(m.fine_offset_bytes[at.part]));
    case Scales::kNibbles: return -(half_at(m.offset_bytes, at.super) * float(m.fine_scale_bytes[at.part] >> 4));
    case Scales::kZeroPoints: return scale_at(m, at) * float(middle_code(m) - int(m.offset_bytes[at.part]));
    default: return 0.0f;
  }
}

void unpack_dense_row(const Matrix& m, int output, float* values) {
  const size_t start = size_t(output / kTileOutputs) * m.num_inputs * kTileOutputs + output % kTileOutputs;
  for (int k = 0; k < m.num_inputs; ++k) {
    const size_t i = start + size_t(k) * kTileOutputs;
    const uint16_t bits = uint16_t(m.code_bytes[2 * i] | m.code_bytes[2 * i + 1] << 8);
    values[k] = m.codes == Codes::kHalf ? half_value(bits) : bfloat_value(bits);
  }
}

void unpack_float_row(const Matrix& m, int output, float* values) {
  const size_t start = size_t(output / kTileOutputs) * m.num_inputs * kTileOutputs + output % kTileOutputs;
  for (int k = 0; k < m.num_inputs; ++k) values[k] = float_at(m.code_bytes, start + size_t(k) * kTileOutputs);
}

float e4m3_value(uint8_t code) { return half_value(uint16_t((code & 0x80) << 8 | (code & 0x7f) << 7)) * 256.0f; }

// What a coded float's scale is multiplied with.
float coded_value(const Matrix& m, uint8_t code, size_t part) {
  if (m.codes == Codes::kE4m3) return e4m3_value(code);
  if (m.codes == Codes::kTableNf4) return kNf4Values[code];
  return float(int(code) - (m.offsets == Scales::kZeroPoints ? int(m.offset_bytes[part]) : m.zero_point));
}

void unpack_coded_row(const Matrix& m, int output, float* values) {
  const size_t tile = output / kTileOutputs, column = output % kTileOutputs, unit = code_unit_bytes(m.codes);
  const bool has_nibbles = unit < kTileOutputs;
  for (int k = 0; k < m.num_inputs; ++k) {
    const uint8_t* codes = m.code_bytes + (tile * m.num_inputs + k) * unit;
    const uint8_t code = has_nibbles ? codes[column % 8] >> (column / 8 * 4) & 15 : codes[column];
    int32_t part = (m.first_block + k) / m.part_inputs;
    if (is_grouped(m)) std::memcpy(&part, m.fine_scale_bytes + 4 * size_t(k), sizeof part);
    const size_t at = (tile * num_parts(m) + part) * kTileOutputs + column;
    values[k] = scale_at(m, {at, 0}) * coded_value(m, code, at);
  }
}

}  // namespace

void unpack_row(const Matrix& m, int output, float* values) {
  if (is_coded_float(m)) return unpack_coded_row(m, output, values);
  if (m.codes == Codes::kFloat) return unpack_float_row(m, output, values);
  if (is_dense(m)) return unpack_dense_row(m, output, values);
  const size_t tile = output / kTileOutputs, blocks = num_blocks(m), parts = parts_per_block(m);
  const int column = output % kTileOutputs;
  for (size_t block = 0; block < blocks; ++block, values += kBlockInputs) {
    uint8_t codes[kBlockInputs];
    read_codes(m.codes, m.code_bytes + (tile * blocks + block) * code_unit_bytes(m.codes), column, codes);
    const size_t super = tile * num_supers(m) + (m.first_block + block) / kSuperBlocks;
    for (size_t p = 0; p < parts; ++p) {
      const size_t part = (tile * blocks + block) * parts + p;
      const Place at{part * kTileOutputs + column, super * kTileOutputs + column};
      const float scale = scale_at(m, at), offset = offset_at(m, at);
      for (int i = int(p) * m.part_inputs; i < int(p + 1) * m.part_inputs; ++i) {
        values[i] = scale * float(level(m, codes[i]));
        if (m.offsets != Scales::kNone) values[i] += offset;
      }
    }
  }
}

}  // namespace shoal
