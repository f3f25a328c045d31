#include "layout.h"

#include <stdexcept>

namespace shoal {

namespace {

constexpr int kMaxExtent = 1 << 28;

size_t array_bytes(Scales scales, size_t tiles, size_t parts, size_t supers) {
  const size_t values = tiles * kTileOutputs;
  switch (scales) {
    case Scales::kNone: return 0;
    case Scales::kHalf:
    case Scales::kBrain: return values * parts * 2;
    case Scales::kFloat: return values * parts * 4;
    case Scales::kSuper:
    case Scales::kNibbles: return values * supers * 2;
    case Scales::kExponent:
    case Scales::kZeroPoints: return values * parts;
  }
  return 0;
}

size_t fine_bytes(Scales scales, size_t tiles, size_t parts) {
  return scales == Scales::kSuper || scales == Scales::kNibbles ? tiles * kTileOutputs * parts : 0;
}

bool is_possible_code(const Matrix& m) {
  const bool has_scales = m.scales == Scales::kHalf || m.scales == Scales::kFloat || m.scales == Scales::kBrain;
  const bool has_offsets = m.offsets == Scales::kNone || (m.offsets == Scales::kZeroPoints && is_grouped(m));
  const int zero_point = m.codes == Codes::kGrouped4 ? 8 : m.codes == Codes::kGrouped8 ? 128 : 0;
  return has_scales && has_offsets && m.zero_point == zero_point && m.part_inputs >= 1 && m.part_inputs <= kMaxExtent &&
         m.first_block >= 0 && m.first_block < (is_grouped(m) ? 1 : m.part_inputs);
}

bool is_possible(const Matrix& m) {
  const bool has_sizes = m.num_outputs >= 0 && m.num_inputs >= 1 && m.num_outputs <= kMaxExtent && m.num_inputs <= kMaxExtent;
  const bool has_kinds = m.codes >= Codes::kBits2 && m.codes <= Codes::kGrouped8 && m.scales >= Scales::kNone &&
                         m.scales <= Scales::kBrain && m.offsets >= Scales::kNone && m.offsets <= Scales::kZeroPoints &&
                         m.offsets != Scales::kExponent && m.offsets != Scales::kBrain;
  if (!has_sizes || !has_kinds) return false;
  if (is_coded_float(m)) return is_possible_code(m);
  if (is_dense(m)) return m.scales == Scales::kNone && m.offsets == Scales::kNone;
  const bool has_parts = m.part_inputs == 16 || m.part_inputs == 32;
  const bool has_zero = m.zero_point >= 0 && m.zero_point <= 128 && (m.zero_point & (m.zero_point - 1)) == 0;
  return has_parts && has_zero && m.scales != Scales::kNone && m.first_block >= 0 && m.first_block < kSuperBlocks &&
         (m.offsets == Scales::kNibbles) <= (m.scales == Scales::kNibbles);
}

}  // namespace

MatrixLayout matrix_layout(const Matrix& m) {
  if (!is_possible(m)) throw std::invalid_argument("a packed matrix cannot have this form");
  const size_t tiles = num_tiles(m), blocks = num_blocks(m);
  const size_t parts = num_parts(m), supers = is_dense(m) ? 0 : num_supers(m);
  const size_t units = is_dense(m) ? m.num_inputs : blocks;
  size_t end = 0;
  const auto place = [&end](size_t bytes) {
    const size_t start = end;
    end += (bytes + kVectorBytes - 1) / kVectorBytes * kVectorBytes;
    return start;
  };
  MatrixLayout layout;
  layout.codes = place(tiles * units * code_unit_bytes(m.codes));
  layout.scales = place(array_bytes(m.scales, tiles, parts, supers));
  layout.fine_scales = place(is_grouped(m) ? 4 * size_t(m.num_inputs) : fine_bytes(m.scales, tiles, parts));
  layout.offsets = place(array_bytes(m.offsets, tiles, parts, supers));
  layout.fine_offsets = place(m.offsets == Scales::kSuper ? fine_bytes(m.offsets, tiles, parts) : 0);
  layout.num_bytes = end;
  return layout;
}

void attach(Matrix& matrix, const uint8_t* bytes) {
  const MatrixLayout layout = matrix_layout(matrix);
  matrix.code_bytes = bytes + layout.codes;
  matrix.scale_bytes = bytes + layout.scales;
  matrix.fine_scale_bytes = bytes + layout.fine_scales;
  matrix.offset_bytes = bytes + layout.offsets;
  matrix.fine_offset_bytes = bytes + layout.fine_offsets;
}

}  // namespace shoal
