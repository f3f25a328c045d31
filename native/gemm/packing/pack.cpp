#include "pack.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "half.h"
#include "layout.h"

namespace shoal {

namespace {

using Groups = uint8_t[kBlockGroups][kVectorBytes];

// Byte 4 c + j of vector g: input 4 g + j of output c.
void weave(const BlockFields* rows, Groups groups) {
  for (int g = 0; g < kBlockGroups; ++g)
    for (int c = 0; c < kTileOutputs; ++c) std::memcpy(groups[g] + 4 * c, rows[c].codes + 4 * g, 4);
}

// Writes bits [shift, shift + Bits) of every code as a plane, eight bytes at a time. Returns its end.
template <int Bits>
uint8_t* write_plane(const Groups groups, int shift, uint8_t* out) {
  constexpr int kTogether = 8 / Bits;
  constexpr uint64_t kMask = ((1u << Bits) - 1) * 0x0101010101010101u;
  for (int first = 0; first < kBlockGroups; first += kTogether, out += kVectorBytes)
    for (int i = 0; i < kVectorBytes; i += 8) {
      uint64_t packed = 0;
      for (int s = 0; s < kTogether; ++s) {
        uint64_t codes;
        std::memcpy(&codes, groups[first + s] + i, sizeof codes);
        packed |= (codes >> shift & kMask) << (Bits * s);
      }
      std::memcpy(out + i, &packed, sizeof packed);
    }
  return out;
}

void write_codes(Codes codes, const Groups groups, uint8_t* out) {
  switch (codes) {
    case Codes::kBits2: write_plane<2>(groups, 0, out); break;
    case Codes::kBits3: write_plane<1>(groups, 2, write_plane<2>(groups, 0, out)); break;
    case Codes::kBits4:
    case Codes::kTableIq4:
    case Codes::kTableMxfp4: write_plane<4>(groups, 0, out); break;
    case Codes::kBits5: write_plane<1>(groups, 4, write_plane<4>(groups, 0, out)); break;
    case Codes::kBits6: write_plane<2>(groups, 4, write_plane<4>(groups, 0, out)); break;
    default: std::memcpy(out, groups, sizeof(Groups));
  }
}

// Where the arrays of a matrix are written.
class TileWriter {
 public:
  TileWriter(const Matrix& matrix, uint8_t* out)
      : matrix_(matrix), layout_(matrix_layout(matrix)), out_(out), num_blocks_(num_blocks(matrix)),
        parts_(parts_per_block(matrix)), num_supers_(num_supers(matrix)), unit_bytes_(code_unit_bytes(matrix.codes)) {}

  void write(int tile, int block, const BlockFields* rows) const {
    Groups groups;
    weave(rows, groups);
    write_codes(matrix_.codes, groups, out_ + layout_.codes + (size_t(tile) * num_blocks_ + block) * unit_bytes_);
    write_scales(matrix_.scales, tile, block, rows, &BlockFields::scale, layout_.scales);
    write_scales(matrix_.offsets, tile, block, rows, &BlockFields::offset, layout_.offsets);
    if (matrix_.scales == Scales::kSuper || matrix_.scales == Scales::kNibbles)
      write_fine(tile, block, rows, &BlockFields::fine_scales, layout_.fine_scales);
    if (matrix_.offsets == Scales::kSuper)
      write_fine(tile, block, rows, &BlockFields::fine_offsets, layout_.fine_offsets);
  }

 private:
  size_t part(int tile, int block) const { return (size_t(tile) * num_blocks_ + block) * parts_; }

  void write_scales(Scales scales, int tile, int block, const BlockFields* rows, uint32_t BlockFields::* field,
                    size_t start) const {
    size_t place = part(tile, block);
    int item_bytes = 2;
    switch (scales) {
      case Scales::kNone: return;
      case Scales::kHalf:
      case Scales::kBrain: break;
      case Scales::kFloat: item_bytes = 4; break;
      case Scales::kExponent:
      case Scales::kZeroPoints: item_bytes = 1; break;
      case Scales::kSuper:
      case Scales::kNibbles:
        place = size_t(tile) * num_supers_ + (matrix_.first_block + block) / kSuperBlocks;
        break;
    }
    uint8_t* to = out_ + start + place * kTileOutputs * item_bytes;
    for (int c = 0; c < kTileOutputs; ++c, to += item_bytes)  // the low bytes of a word, on every machine
      for (int i = 0; i < item_bytes; ++i) to[i] = uint8_t(rows[c].*field >> (8 * i));
  }

  void write_fine(int tile, int block, const BlockFields* rows, uint8_t (BlockFields::* field)[2], size_t start) const {
    uint8_t* to = out_ + start + part(tile, block) * kTileOutputs;
    for (int p = 0; p < parts_; ++p)
      for (int c = 0; c < kTileOutputs; ++c) *to++ = (rows[c].*field)[p];
  }

  const Matrix matrix_;
  const MatrixLayout layout_;
  uint8_t* const out_;
  const int num_blocks_, parts_, num_supers_, unit_bytes_;
};

// read(output, block, fields) reads a block of an output. Outputs that only pad the last tile are 0: their codes are
// the zero point, and their scales and offsets 0.
template <typename Read>
void pack_tiles(ThreadPool& pool, const Matrix& matrix, OutputSpan span, uint8_t* out, const Read& read) {
  const TileWriter writer(matrix, out);
  const int first_tile = span.first / kTileOutputs, end = span.first + span.count;
  pool.each((span.count + kTileOutputs - 1) / kTileOutputs, [&](int index) {
    const int tile = first_tile + index;
    BlockFields rows[kTileOutputs] = {};
    for (BlockFields& row : rows) std::memset(row.codes, matrix.zero_point, sizeof row.codes);
    const int first = tile * kTileOutputs, count = std::min(kTileOutputs, end - first);
    for (int block = 0; block < num_blocks(matrix); ++block) {
      for (int c = 0; c < count; ++c) read(first + c, block, rows[c]);
      writer.write(tile, block, rows);
    }
  });
}

// Input k of a tile is sixteen items.
template <typename Item>
void pack_dense(ThreadPool& pool, const Matrix& matrix, const GgufRows& rows, uint8_t* out) {
  const size_t num_inputs = matrix.num_inputs;
  pool.each(num_tiles(matrix), [&](int tile) {
    uint8_t* to = out + size_t(tile) * num_inputs * kTileOutputs * sizeof(Item);
    const int first = tile * kTileOutputs, count = std::min(kTileOutputs, matrix.num_outputs - first);
    if (count < kTileOutputs) std::memset(to, 0, num_inputs * kTileOutputs * sizeof(Item));
    for (int c = 0; c < count; ++c, to += sizeof(Item)) {
      const int row = rows.order ? rows.order[first + c] : first + c;
      const uint8_t* from = rows.bytes + row * rows.row_bytes + rows.first_input * sizeof(Item);
      for (size_t k = 0; k < num_inputs; ++k)
        std::memcpy(to + k * kTileOutputs * sizeof(Item), from + k * sizeof(Item), sizeof(Item));
    }
  });
}

void read_codes(const BlockArrays& blocks, size_t block, uint8_t* codes) {
  const uint8_t* from = blocks.codes + block * 4 * blocks.bits;
  if (blocks.bits == 8) {
    for (int i = 0; i < kBlockInputs; ++i) codes[i] = from[i] ^ 0x80;  // less 128, signed
    return;
  }
  for (int i = 0; i < kBlockInputs / 2; ++i) {
    codes[2 * i] = from[i] & 15;
    codes[2 * i + 1] = from[i] >> 4;
  }
}

uint32_t number_bits(Scales scales, float value) {
  switch (scales) {
    case Scales::kHalf: return nearest_half(value);
    case Scales::kBrain: return bits_of_float(value) >> 16;
    default: return bits_of_float(value);
  }
}

void put(uint8_t*& to, uint32_t bits, int num_bytes) {  // the low bytes of a word, on every machine
  for (int i = 0; i < num_bytes; ++i) *to++ = uint8_t(bits >> (8 * i));
}

void write_coded_tile(const Matrix& matrix, const MatrixLayout& layout, const CodedArrays& arrays, int tile,
                      uint8_t* out) {
  const int first = tile * kTileOutputs, count = std::min(kTileOutputs, matrix.num_outputs - first);
  const size_t num_inputs = matrix.num_inputs, unit = code_unit_bytes(matrix.codes), parts = num_parts(matrix);
  uint8_t* to = out + layout.codes + tile * num_inputs * unit;
  for (size_t k = 0; k < num_inputs; ++k, to += unit) {
    uint8_t codes[kTileOutputs] = {};
    for (int c = 0; c < count; ++c) codes[c] = arrays.codes[(first + c) * num_inputs + k];
    if (unit == kTileOutputs) {
      std::memcpy(to, codes, kTileOutputs);
    } else {
      for (int c = 0; c < kTileOutputs / 2; ++c) to[c] = uint8_t((codes[c] & 15) | codes[c + kTileOutputs / 2] << 4);
    }
  }
  const int item_bytes = matrix.scales == Scales::kFloat ? 4 : 2;
  uint8_t* scale = out + layout.scales + tile * parts * kTileOutputs * item_bytes;
  uint8_t* zero = out + layout.offsets + tile * parts * kTileOutputs;
  for (size_t p = 0; p < parts; ++p)
    for (int c = 0; c < kTileOutputs; ++c) {
      const size_t from = (first + c) * parts + p;
      put(scale, c < count ? number_bits(matrix.scales, arrays.scales[from]) : 0, item_bytes);
      if (matrix.offsets == Scales::kZeroPoints) put(zero, c < count ? arrays.zero_points[from] : 0, 1);
    }
}

}  // namespace

void pack_gguf(ThreadPool& pool, const Matrix& matrix, const GgufKind& kind, const GgufRows& rows, uint8_t* out) {
  if (matrix.codes == Codes::kFloat) return pack_dense<uint32_t>(pool, matrix, rows, out);
  if (is_dense(matrix)) return pack_dense<uint16_t>(pool, matrix, rows, out);
  const int blocks_together = kind.block_inputs / kBlockInputs, first_block = rows.first_input / kBlockInputs;
  pack_tiles(pool, matrix, {0, matrix.num_outputs}, out, [&](int output, int block, BlockFields& fields) {
    const int row = rows.order ? rows.order[output] : output, in_row = first_block + block;
    const uint8_t* from = rows.bytes + row * rows.row_bytes + size_t(in_row / blocks_together) * kind.block_bytes;
    kind.read(from, in_row % blocks_together, fields);
  });
}

void pack_blocks(ThreadPool& pool, const Matrix& matrix, OutputSpan span, const BlockArrays& blocks, uint8_t* out) {
  const size_t blocks_a_row = num_blocks(matrix);
  pack_tiles(pool, matrix, span, out, [&](int output, int block, BlockFields& fields) {
    const size_t place = (output - span.first) * blocks_a_row + block;
    read_codes(blocks, place, fields.codes);
    fields.scale = number_bits(matrix.scales, blocks.scales[place]);
    if (matrix.offsets == Scales::kZeroPoints)
      fields.offset = uint32_t(zero_point_of(matrix, blocks.scales[place], blocks.offsets[place]));
    else if (blocks.offsets)
      fields.offset = number_bits(matrix.offsets, blocks.offsets[place]);
  });
}

void pack_coded(ThreadPool& pool, const Matrix& matrix, const CodedArrays& arrays, uint8_t* out) {
  const MatrixLayout layout = matrix_layout(matrix);
  pool.each(num_tiles(matrix), [&](int tile) { write_coded_tile(matrix, layout, arrays, tile, out); });
  if (is_grouped(matrix)) std::memcpy(out + layout.fine_scales, arrays.groups, 4 * size_t(matrix.num_inputs));
}

int zero_point_of(const Matrix& matrix, float scale, float offset) {
  const int middle = middle_code(matrix);
  const float below = scale == 0.0f ? 0.0f : std::nearbyint(offset / scale);
  const float zero_point = float(middle) - below;
  const bool is_one = zero_point >= 0.0f && zero_point <= 255.0f && scale * below == offset;
  return is_one ? int(zero_point) : -1;
}

Matrix blocks_form(int bits, int num_outputs, int num_inputs, Scales scales, Scales offsets) {
  const auto is_number = [](Scales kind) {
    return kind == Scales::kHalf || kind == Scales::kFloat || kind == Scales::kBrain;
  };
  if ((bits != 4 && bits != 8) || num_inputs % kBlockInputs != 0 || !is_number(scales) ||
      !(offsets == Scales::kNone || offsets == Scales::kZeroPoints || is_number(offsets)))
    throw std::invalid_argument("blocks have 4 or 8 bits, fp16, bfloat16 or fp32 scales, and 32 inputs each");
  const Codes codes = bits == 4 ? Codes::kBits4 : Codes::kBytes;
  return {codes,        scales,  offsets, bits == 4 ? 8 : 0, num_outputs, num_inputs, kBlockInputs, 0,
          nullptr,      nullptr, nullptr, nullptr,           nullptr};
}

}  // namespace shoal
