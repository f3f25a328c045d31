// Plain data passed from the dispatcher to a kernel. No inline functions and no standard containers: this header is
// compiled with several instruction sets, and a shared inline function could be linked in from the widest one.
#pragma once

#include <cstdint>

namespace shoal {

constexpr int kGroupKeys = 16;     // keys scored together; block sizes are multiples of it
constexpr int kChunkKeys = 128;    // keys between two updates of the running softmax: scores of a tile stay in L1
constexpr int kSegmentKeys = 512;  // keys with a softmax of their own: threads may share out the segments of one row

constexpr int kCopiedGroups = 4;   // of keys or values that a tile converts to fp32 at a time: they stay in L1

// How the cache holds keys and values. They are rounded to the nearest when stored, and exact when read. Codes have 8
// bits, and a scale for each token and head.
enum class KvType : int32_t { kFloat, kHalf, kCodes };

constexpr int kMaxTileRows = 8;  // query rows that a kernel computes together, at most

// One layer. Caches: keys [block, kv head, dim, slot], values [block, kv head, slot, dim]; codes lie in another order
// within a block and head: see kernel/coded_chunk.h.
struct LayerView {
  int num_heads;
  int num_kv_heads;
  int head_dim;
  int rotary_dim;
  int block_size;
  int window;  // tokens that a row sees, including its own; 0: all
  bool in_chunks;  // windows are fixed chunks: a row sees back to the last multiple of the window
  bool sees_all;   // a row sees its sequence's whole context, including later tokens (encoders)
  float scale;
  float softcap;  // 0: none
  KvType kv_type;
  void* keys;
  void* values;
  const float* cos;  // [max_context, rotary_dim / 2]
  const float* sin;
  const float* sinks;  // [num_heads] scores that take part in the softmax but have no value; nullptr: none
  // RMS norms of rotated query heads and key heads, [head_dim]; nullptr: none
  const float* q_norm;
  const float* k_norm;
  float norm_epsilon;
  const float* query_scales;  // [max_context] a further factor on q.k by the query's position; nullptr: 1
  bool only_reads;  // keys and values belong to another layer, so rows have only queries
  float* key_scales;  // [block, kv head, slot] scales of codes; nullptr: there are none
  float* value_scales;
};

// One step. Shapes as in paged_attention.py: T rows, B sequences, M table width.
struct StepView {
  const int32_t* positions;     // [T]
  const int32_t* block_tables;  // [B, M]
  int table_width;
  const int32_t* context_lens;  // [B]
  const int32_t* ends_seen;     // [T] the key before which each row sees; nullptr: a row sees up to its own position
  // [T, rotary_dim / 2] for each row, instead of the layer's tables by position; nullptr: the layer's
  const float* cos;
  const float* sin;
};

// Consecutive rows of one sequence.
struct RowRange {
  int sequence;
  int first_row;
  int num_rows;
};

// Some rows over some segments of their context, counted from position 0. If other items have the rows' other segments,
// the softmax of each segment is left in `parts` for `merge` to join; otherwise outputs are written at once.
struct Span {
  RowRange rows;
  int first_segment;
  int end_segment;
  int64_t first_part;  // first of its parts [segment, kv head, row, head]; kAlone: writes outputs
};

constexpr int64_t kAlone = -1;
constexpr int kExtraFloats = 16;  // of a part, besides head_dim rounded up to a multiple of kGroupKeys

struct CallView {
  const float* qkv;  // [T, (num_heads + 2 num_kv_heads) head_dim], or only queries; rows are qkv_stride apart
  float* out;        // [T, num_heads head_dim]; rows are out_stride apart
  int64_t qkv_stride;
  int64_t out_stride;
};

// Working memory of a call, 64-byte aligned.
struct Memory {
  float* scratch;  // scratch_floats() values for the thread
  float* parts;    // part_floats() values for each part of the spans
};

// The entry points of one instruction set.
struct AttentionKernel {
  const char* name;
  double flops_per_s;  // of one thread, rough; used only to decide whether waking threads pays
  // Rotates and stores the keys and values of some rows.
  void (*append)(const LayerView&, const StepView&, const CallView&, const RowRange&, const Memory&);
  // Attention of some rows of one kv head's query heads.
  void (*attend)(const LayerView&, const StepView&, const CallView&, const Span&, int kv_head, const Memory&);
  // Writes the outputs of rows whose segments were computed by several items.
  void (*merge)(const LayerView&, const CallView&, const Span&, int kv_head, const Memory&);
};

}  // namespace shoal
