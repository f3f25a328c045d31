// How a packed matrix lies in memory: the same on every machine, so that a file of packed weights can be kept and shared.
// Plain data only: this header is compiled with several instruction sets.
//
// A matrix [N, K] is cut into tiles of 16 outputs (rows) and blocks of 32 inputs (columns); N and K are padded. What a
// tile needs of one array lies together, block after block. Within a block, group g holds inputs 4 g to 4 g + 3: one
// vector of 64 bytes, in which byte 4 c + j is input 4 g + j of output c of the tile.
//
//   plane of 4 bits: 4 vectors; the low nibbles of vector i are group 2 i, the high ones group 2 i + 1
//   plane of 2 bits: 2 vectors; bits 2 s and 2 s + 1 of vector i are group 4 i + s
//   plane of 1 bit:  1 vector;  bit g is group g
//   bytes:           8 vectors; vector g is group g
//
// A weight is scale * (code - zero_point) + offset, or scale * table[code]; a scale and an offset are those of 32 or 16
// inputs. The arrays follow each other, each at a multiple of 64 bytes: codes, scales, fine scales, offsets, fine
// offsets (`matrix_layout` in layout.h).
//
// Floats have no blocks: input k of a tile is 16 of them, and they are multiplied as fp32. Coded floats are such, but a
// code of 8 or 4 bits each (of 4 bits, byte c has that of output c in its low nibble and of c + 8 in its high one): a
// weight is scale * value[code], rounded once, where value[code] is exact. Any number of inputs may share a scale, and
// those of grouped codes, which files in activation order have, each name their own: value[code] is then
// code - zero point.
#pragma once

#include <cstddef>
#include <cstdint>

namespace shoal {

constexpr int kTileOutputs = 16;
constexpr int kBlockInputs = 32;
constexpr int kBlockGroups = 8;
constexpr int kVectorBytes = 64;
constexpr int kSuperBlocks = 8;  // blocks of 32 in a super-block of 256, as GGUF's K-quants have them

enum class Codes : int32_t {
  kBits2 = 0,  // one plane
  kBits3 = 1,  // 2 bits, then 1
  kBits4 = 2,
  kBits5 = 3,  // 4 bits, then 1
  kBits6 = 4,  // 4 bits, then 2
  kBytes = 5,  // signed
  kTableIq4 = 6,   // 4 bits that number the values of IQ4_NL
  kTableMxfp4 = 7,  // 4 bits that number twice the values of E2M1
  kFloat = 8,      // from here on no blocks: input k of a tile is 16 values
  kHalf = 9,
  kBfloat = 10,
  kE4m3 = 11,       // from here on coded floats. Source: OCP 8-bit Floating Point, section 5; NaN is not held
  kTableNf4 = 12,   // 4 bits that number the values of NF4. Source: QLoRA, arXiv 2305.14314, appendix E
  kGrouped4 = 13,   // 4 bits; inputs name their scales
  kGrouped8 = 14,   // the same with unsigned bytes
};

enum class Scales : int32_t {
  kNone = 0,      // of dense matrices; as offsets: no offset
  kHalf = 1,      // fp16 [tile, part, 16]
  kFloat = 2,     // fp32 [tile, part, 16]
  kSuper = 3,     // fp16 [tile, super-block, 16] times a signed byte [tile, part, 16]; as offsets an unsigned byte, and
                  // subtracted
  kNibbles = 4,   // the same with the low nibble of a byte; as offsets the high nibble of the scales' bytes, subtracted
  kExponent = 5,  // a byte e [tile, part, 16]: 2 ** (e - 128), for a table of twice the values. Source: OCP MX, E8M0
  kBrain = 6,     // bfloat16 [tile, part, 16]
  kZeroPoints = 7,  // as offsets only: an unsigned byte z [tile, part, 16]: scale * (middle - z), where the middle is 8 or
                    // 128; of grouped codes z is the zero point itself
};

struct Matrix {
  Codes codes;
  Scales scales;
  Scales offsets;
  int32_t zero_point;   // of unsigned codes: 0 or a power of two
  int32_t num_outputs;  // N
  int32_t num_inputs;   // K
  int32_t part_inputs;  // that share a scale: 32 or 16; of coded floats any number; of grouped codes the number of scales
  int32_t first_block;  // of the super-block that the first input lies in: 0 to 7, where a shard begins within one; of
                        // coded floats the inputs of the first part that lie before the matrix

  const uint8_t* code_bytes;
  const uint8_t* scale_bytes;
  const uint8_t* fine_scale_bytes;   // kSuper, kNibbles; of grouped codes the int32 number of every input's scale
  const uint8_t* offset_bytes;
  const uint8_t* fine_offset_bytes;  // kSuper
};

static inline int num_tiles(const Matrix& m) { return (m.num_outputs + kTileOutputs - 1) / kTileOutputs; }
static inline int num_blocks(const Matrix& m) { return (m.num_inputs + kBlockInputs - 1) / kBlockInputs; }
static inline int parts_per_block(const Matrix& m) { return kBlockInputs / m.part_inputs; }
static inline int num_supers(const Matrix& m) { return (m.first_block + num_blocks(m) + kSuperBlocks - 1) / kSuperBlocks; }
static inline bool is_dense(const Matrix& m) { return m.codes >= Codes::kFloat; }
static inline bool is_coded_float(const Matrix& m) { return m.codes >= Codes::kE4m3; }
static inline bool is_grouped(const Matrix& m) { return m.codes >= Codes::kGrouped4; }
static inline int middle_code(const Matrix& m) { return m.codes == Codes::kBytes ? 128 : m.zero_point; }

// Scales of an output.
static inline int num_parts(const Matrix& m) {
  if (is_grouped(m)) return m.part_inputs;
  if (is_coded_float(m)) return (m.first_block + m.num_inputs - 1) / m.part_inputs + 1;
  return is_dense(m) ? 0 : num_blocks(m) * parts_per_block(m);
}

// Bytes of the codes of one tile and block, or of one tile and input of a dense matrix.
static inline int code_unit_bytes(Codes codes) {
  switch (codes) {
    case Codes::kBits2: return 2 * kVectorBytes;
    case Codes::kBits3: return 3 * kVectorBytes;
    case Codes::kBits4:
    case Codes::kTableIq4:
    case Codes::kTableMxfp4: return 4 * kVectorBytes;
    case Codes::kBits5: return 5 * kVectorBytes;
    case Codes::kBits6: return 6 * kVectorBytes;
    case Codes::kBytes: return 8 * kVectorBytes;
    case Codes::kFloat: return 4 * kTileOutputs;
    case Codes::kHalf:
    case Codes::kBfloat: return 2 * kTileOutputs;
    case Codes::kE4m3:
    case Codes::kGrouped8: return kTileOutputs;
    case Codes::kTableNf4:
    case Codes::kGrouped4: return kTileOutputs / 2;
  }
  return 0;
}

}  // namespace shoal
