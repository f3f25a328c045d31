// Source of the block layouts: GGML, ggml-common.h (block_q4_0, ...) and ggml-quants.c (dequantize_row_*).
#include "gguf_kinds.h"

#include <cstring>
#include <stdexcept>
#include <string>

namespace shoal {

namespace {

constexpr int kSuperInputs = kSuperBlocks * kBlockInputs;

uint32_t word16(const uint8_t* bytes) { return uint32_t(bytes[0]) | uint32_t(bytes[1]) << 8; }

// A byte's copy in every byte of a word.
constexpr uint64_t everywhere(int byte) { return uint64_t(byte) * 0x0101010101010101u; }

// Bits [shift, ...) of so many bytes, under a mask, eight bytes at a time.
template <int Count>
void read_bits(const uint8_t* bytes, int shift, int mask, uint8_t* codes) {
  for (int i = 0; i < Count; i += 8) {
    uint64_t word;
    std::memcpy(&word, bytes + i, sizeof word);
    word = word >> shift & everywhere(mask);
    std::memcpy(codes + i, &word, sizeof word);
  }
}

// The same for 32 bytes, added to codes that have no such bits yet.
void add_bits(const uint8_t* bytes, int shift, int mask, int place, uint8_t* codes) {
  for (int i = 0; i < kBlockInputs; i += 8) {
    uint64_t word, code;
    std::memcpy(&word, bytes + i, sizeof word);
    std::memcpy(&code, codes + i, sizeof code);
    code |= (word >> shift & everywhere(mask)) << place;
    std::memcpy(codes + i, &code, sizeof code);
  }
}

// Blocks of 32: the low nibbles are the first half, the high ones the second.
void read_halved_nibbles(const uint8_t* nibbles, uint8_t* codes) {
  read_bits<16>(nibbles, 0, 15, codes);
  read_bits<16>(nibbles, 4, 15, codes + 16);
}

// 32 bits, the lowest first: each bit of a byte is isolated in a copy of it and moved to bit 4.
void add_fifth_bits(const uint8_t* bits, uint8_t* codes) {
  for (int i = 0; i < 4; ++i) {
    const uint64_t alone = everywhere(bits[i]) & 0x8040201008040201u;
    uint64_t code;
    std::memcpy(&code, codes + 8 * i, sizeof code);
    code |= (alone + everywhere(0x7f)) >> 3 & everywhere(0x10);
    std::memcpy(codes + 8 * i, &code, sizeof code);
  }
}

void read_q4_0(const uint8_t* block, int, BlockFields& fields) {
  fields.scale = word16(block);
  read_halved_nibbles(block + 2, fields.codes);
}

void read_q4_1(const uint8_t* block, int, BlockFields& fields) {
  fields.scale = word16(block);
  fields.offset = word16(block + 2);
  read_halved_nibbles(block + 4, fields.codes);
}

void read_q5_0(const uint8_t* block, int, BlockFields& fields) {
  fields.scale = word16(block);
  read_halved_nibbles(block + 6, fields.codes);
  add_fifth_bits(block + 2, fields.codes);
}

void read_q5_1(const uint8_t* block, int, BlockFields& fields) {
  fields.scale = word16(block);
  fields.offset = word16(block + 2);
  read_halved_nibbles(block + 8, fields.codes);
  add_fifth_bits(block + 4, fields.codes);
}

void read_q8_0(const uint8_t* block, int, BlockFields& fields) {
  fields.scale = word16(block);
  std::memcpy(fields.codes, block + 2, kBlockInputs);
}

void read_mxfp4(const uint8_t* block, int, BlockFields& fields) {
  fields.scale = block[0];
  read_halved_nibbles(block + 1, fields.codes);
}

void read_q2_k(const uint8_t* block, int sub, BlockFields& fields) {
  fields.scale = word16(block + 80);
  fields.offset = word16(block + 82);
  for (int part = 0; part < 2; ++part) fields.fine_scales[part] = block[2 * sub + part];
  read_bits<kBlockInputs>(block + 16 + sub / 4 * 32, 2 * (sub % 4), 3, fields.codes);
}

// Sixteen scales of 6 bits: four low bits of each, then two high bits of each; 32 is subtracted.
uint8_t q3_k_scale(const uint8_t* scales, int i) {
  const int low = i < 8 ? scales[i] & 15 : scales[i - 8] >> 4;
  const int high = scales[8 + i % 4] >> (2 * (i / 4)) & 3;
  return uint8_t((low | high << 4) - 32);
}

void read_q3_k(const uint8_t* block, int sub, BlockFields& fields) {
  fields.scale = word16(block + 108);
  for (int part = 0; part < 2; ++part) fields.fine_scales[part] = q3_k_scale(block + 96, 2 * sub + part);
  read_bits<kBlockInputs>(block + 32 + sub / 4 * 32, 2 * (sub % 4), 3, fields.codes);
  add_bits(block, sub, 1, 2, fields.codes);
}

// Eight scales and eight minima of 6 bits: the first four are the low six bits of a byte; the others have four bits of
// their own and the two high bits of the bytes of the first four.
void read_six_bits(const uint8_t* packed, int sub, BlockFields& fields) {
  const int first = sub % 4, low_scale = packed[first], low_offset = packed[4 + first], others = packed[8 + first];
  fields.fine_scales[0] = uint8_t(sub < 4 ? low_scale & 63 : (others & 15) | low_scale >> 6 << 4);
  fields.fine_offsets[0] = uint8_t(sub < 4 ? low_offset & 63 : others >> 4 | low_offset >> 6 << 4);
}

void read_q4_k(const uint8_t* block, int sub, BlockFields& fields) {
  fields.scale = word16(block);
  fields.offset = word16(block + 2);
  read_six_bits(block + 4, sub, fields);
  read_bits<kBlockInputs>(block + 16 + sub / 2 * 32, 4 * (sub % 2), 15, fields.codes);
}

void read_q5_k(const uint8_t* block, int sub, BlockFields& fields) {
  fields.scale = word16(block);
  fields.offset = word16(block + 2);
  read_six_bits(block + 4, sub, fields);
  read_bits<kBlockInputs>(block + 48 + sub / 2 * 32, 4 * (sub % 2), 15, fields.codes);
  add_bits(block + 16, sub, 1, 4, fields.codes);
}

void read_q6_k(const uint8_t* block, int sub, BlockFields& fields) {
  fields.scale = word16(block + 208);
  for (int part = 0; part < 2; ++part) fields.fine_scales[part] = block[192 + 2 * sub + part];
  const int half = sub / 4, quarter = sub % 4;
  read_bits<kBlockInputs>(block + 64 * half + 32 * (quarter % 2), 4 * (quarter / 2), 15, fields.codes);
  add_bits(block + 128 + 32 * half, 2 * quarter, 3, 4, fields.codes);
}

void read_iq4_xs(const uint8_t* block, int sub, BlockFields& fields) {
  fields.scale = word16(block);
  const int low = block[4 + sub / 2] >> (4 * (sub % 2)) & 15, high = word16(block + 2) >> (2 * sub) & 3;
  fields.fine_scales[0] = uint8_t((low | high << 4) - 32);
  read_halved_nibbles(block + 8 + 16 * sub, fields.codes);
}

constexpr Matrix form(Codes codes, int zero_point, Scales scales, Scales offsets, int part_inputs = kBlockInputs) {
  return {codes, scales, offsets, zero_point, 0, 0, part_inputs, 0, nullptr, nullptr, nullptr, nullptr, nullptr};
}

constexpr Matrix dense(Codes codes) { return form(codes, 0, Scales::kNone, Scales::kNone); }

constexpr GgufKind kKinds[] = {
    {0, 1, 4, dense(Codes::kFloat), nullptr},
    {1, 1, 2, dense(Codes::kHalf), nullptr},
    {30, 1, 2, dense(Codes::kBfloat), nullptr},
    {2, 32, 18, form(Codes::kBits4, 8, Scales::kHalf, Scales::kNone), read_q4_0},
    {3, 32, 20, form(Codes::kBits4, 0, Scales::kHalf, Scales::kHalf), read_q4_1},
    {6, 32, 22, form(Codes::kBits5, 16, Scales::kHalf, Scales::kNone), read_q5_0},
    {7, 32, 24, form(Codes::kBits5, 0, Scales::kHalf, Scales::kHalf), read_q5_1},
    {8, 32, 34, form(Codes::kBytes, 0, Scales::kHalf, Scales::kNone), read_q8_0},
    {10, 256, 84, form(Codes::kBits2, 0, Scales::kNibbles, Scales::kNibbles, 16), read_q2_k},
    {11, 256, 110, form(Codes::kBits3, 4, Scales::kSuper, Scales::kNone, 16), read_q3_k},
    {12, 256, 144, form(Codes::kBits4, 0, Scales::kSuper, Scales::kSuper), read_q4_k},
    {13, 256, 176, form(Codes::kBits5, 0, Scales::kSuper, Scales::kSuper), read_q5_k},
    {14, 256, 210, form(Codes::kBits6, 32, Scales::kSuper, Scales::kNone, 16), read_q6_k},
    {20, 32, 18, form(Codes::kTableIq4, 0, Scales::kHalf, Scales::kNone), read_q4_0},
    {23, 256, 136, form(Codes::kTableIq4, 0, Scales::kSuper, Scales::kNone), read_iq4_xs},
    {39, 32, 17, form(Codes::kTableMxfp4, 0, Scales::kExponent, Scales::kNone), read_mxfp4},
};

}  // namespace

const GgufKind& find_gguf_kind(int number) {
  for (const GgufKind& kind : kKinds)
    if (kind.number == number) return kind;
  throw std::invalid_argument("GGML type " + std::to_string(number) + " has no packed form of its own");
}

Matrix gguf_form(const GgufKind& kind, int num_outputs, int num_inputs, int first_input) {
  const bool cuts = kind.read != nullptr && (num_inputs % kBlockInputs != 0 || first_input % kBlockInputs != 0);
  if (first_input < 0 || cuts) throw std::invalid_argument("the inputs must be whole blocks of 32");
  Matrix matrix = kind.form;
  matrix.num_outputs = num_outputs;
  matrix.num_inputs = num_inputs;
  matrix.first_block = kind.block_inputs == kSuperInputs ? first_input / kBlockInputs % kSuperBlocks : 0;
  return matrix;
}

}  // namespace shoal
