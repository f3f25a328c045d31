// One step's rows and sequences, unchecked.
#pragma once

#include <cstdint>
#include <vector>

namespace shoal {

struct StepArrays {
  std::vector<int32_t> positions;     // [T]
  std::vector<int32_t> query_starts;  // [B + 1]
  std::vector<int32_t> context_lens;  // [B]
  std::vector<int32_t> block_tables;  // [B, table_width]
  int table_width;
  std::vector<int32_t> ends_seen{};   // [T], or empty: a row sees what is before it and itself
};

// What is added to some rows after each of a stage's first layers: values [layer, row, width].
struct AddedRows {
  std::vector<int32_t> rows;
  std::vector<float> values;
  int num_layers;
  int width;
};

}  // namespace shoal
