// Plain data that crosses from the dispatcher into a kernel. No inline functions and no standard containers: this
// header is compiled with several instruction sets, and a shared inline function could be linked in from the widest.
#pragma once

#include <cstdint>

namespace shoal {

constexpr int kGroupKeys = 16;   // keys scored together; block sizes are multiples of it
constexpr int kChunkKeys = 128;  // keys between two updates of the running softmax: scores of a tile stay in L1

// One layer. Caches: keys [block, kv head, dim, slot], values [block, kv head, slot, dim].
struct LayerView {
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int rotary_dim;
  int block_size;
  int window;  // tokens a row sees, itself included; 0: all
  float scale;
  float softcap;  // 0: none
  float* keys;
  float* values;
  const float* cos;  // [max_context, rotary_dim / 2]
  const float* sin;
};

// One step. Shapes as in paged_attention.py: T rows, B sequences, M table width.
struct StepView {
  const int32_t* positions;     // [T]
  const int32_t* block_tables;  // [B, M]
  int table_width;
};

// Consecutive rows of one sequence.
struct RowRange {
  int sequence;
  int first_row;
  int num_rows;
};

struct CallView {
  const float* qkv;  // [T, (num_heads + 2 num_kv_heads) head_dim]
  float* out;        // [T, num_heads head_dim]
};

// The entry points of one instruction set.
struct AttentionKernel {
  const char* name;
  double flops_per_s;  // one thread, rough; only used to tell whether waking threads pays
  // Rotates and stores the keys and values of some rows.
  void (*append)(const LayerView&, const StepView&, const CallView&, const RowRange&);
  // Attention of some rows of one kv head's query heads. `scratch` holds scratch_floats() values, 64-byte aligned.
  void (*attend)(const LayerView&, const StepView&, const CallView&, const RowRange&, int kv_head, float* scratch);
};

}  // namespace shoal
