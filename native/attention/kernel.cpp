// Paged attention for one instruction set. Compiled once per set with SHOAL_ISA naming it: every function here lives in
// a namespace of that name and calls nothing outside it, so that no wide instruction can reach a narrow machine.
//
// A tile is some rows of one sequence times the query heads that share one kv head: all of them read the same keys and
// values. Its scores are made in chunks of kChunkKeys keys with a running softmax (FlashAttention, arXiv 2205.14135,
// algorithm 1), which begins anew in each segment of kSegmentKeys keys; segments are joined in the order of positions.
// Threads may share out the segments of one row (Flash-Decoding). Chunks and segments begin at multiples of their size,
// and nothing that a row does not see enters its sums: its bits depend on the row and its context alone.
//
// If keys and values are codes of 8 bits, queries become codes of 8 bits, too, and weights codes of 15 bits; rows then
// see all of their context.

#include "args.h"

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace shoal {
namespace SHOAL_ISA {
namespace {

#include "../lanes/lanes.h"
#include "kernel/chunk.h"
#include "kernel/copies.h"
#include "kernel/tiles.h"
#include "kernel/softmax.h"
#include "kernel/append.h"
#include "kernel/tile.h"
#include "kernel/dots.h"
#include "kernel/coded_chunk.h"
#include "kernel/coded_tiles.h"
#include "kernel/coded.h"

// Rows [first, first + count) see some keys of these in common, and each of them a few before and after.
template <typename T>
void add_rows(const Tile& tile, const Chunk<T>& chunk, int first, int count, const Sums& sums) {
  const int dim = tile.layer.head_dim;
  const Keys held{chunk.first_group * kGroupKeys, chunk.end_group * kGroupKeys};
  const auto seen = [&](int row) {
    const Keys keys = tile.seen(row, chunk.first_key);
    return Keys{clamp(keys.first, held.first, held.end), clamp(keys.end, held.first, held.end)};
  };
  const auto add = [&](int row, int rows, Keys keys) {
    if (keys.first >= keys.end) return;
    add_values(rows, tile.scores + row * kChunkKeys, chunk, keys, dim, sums.out + row * tile.width);
  };
  const Keys shared{seen(first + count - 1).first, seen(first).end};
  const bool has_shared = shared.first < shared.end;
  for (int row = first; row < first + count; ++row) {
    const Keys own = seen(row);
    add(row, 1, {own.first, has_shared ? shared.first : own.end});
  }
  if (!has_shared) return;
  add(first, count, shared);
  for (int row = first; row < first + count; ++row) add(row, 1, {shared.end, seen(row).end});
}

template <typename T>
void score_chunk(const Tile& tile, const Chunk<T>& chunk, const Ahead& ahead, int most_rows) {
  const int dim = tile.layer.head_dim;
  for (int r = 0; r < tile.num_rows; r += most_rows)
    score(clamp(tile.num_rows - r, 0, most_rows), tile.q + r * dim, dim, chunk, r == 0 ? &ahead : nullptr,
          tile.scores + r * kChunkKeys);
}

template <typename T>
void add_chunk(const Tile& tile, const Chunk<T>& chunk, const Sums& sums, int most_rows) {
  for (int r = 0; r < tile.num_rows; r += most_rows)
    add_rows(tile, chunk, r, clamp(tile.num_rows - r, 0, most_rows), sums);
}

void soften_rows(const Tile& tile, int first_key, const Sums& sums) {
  for (int r = 0; r < tile.num_rows; ++r)
    soften_row(tile.layer, tile.scores + r * kChunkKeys, tile.seen(r, first_key), r, tile.width, sums);
}

template <typename T>
void attend_chunk(const Tile& tile, const Chunk<T>& chunk, const Ahead& ahead, const Sums& sums) {
  const int most_rows = tile.num_rows <= kMostRows ? kMostRows : kTileRows;
  score_chunk(tile, chunk, ahead, most_rows);
  soften_rows(tile, chunk.first_key, sums);
  add_chunk(tile, chunk, sums, most_rows);
}

// The same for many rows, which share fp32 copies of keys and values. They meet the keys in the same order.
template <typename T>
void attend_copied_chunk(const Tile& tile, const Chunk<T>& chunk, const Ahead& ahead, const Sums& sums) {
  const int dim = tile.layer.head_dim;
  const auto each_copied = [&](const auto& run) {
    for (int g = chunk.first_group; g < chunk.end_group; g += kCopiedGroups)
      run(g, clamp(g + kCopiedGroups, g, chunk.end_group));
  };
  each_copied([&](int first, int end) {
    score_chunk(tile, copy_keys(chunk, first, end, dim, tile.copies), ahead, kTileRows);
  });
  soften_rows(tile, chunk.first_key, sums);
  each_copied([&](int first, int end) {
    add_chunk(tile, copy_values(chunk, first, end, dim, tile.copies), sums, kTileRows);
  });
}

template <typename T>
void attend_segment(const Tile& tile, int segment, const Sums& sums) {
  const int first = clamp(tile.first_seen(0), segment * kSegmentKeys, (segment + 1) * kSegmentKeys);
  const int end = clamp(tile.end(), segment * kSegmentKeys, (segment + 1) * kSegmentKeys);
  Chunk<T> chunk;
  Ahead ahead;
  clear(sums, tile.num_rows, tile.width);
  for (int key = first / kChunkKeys * kChunkKeys; key < end; key += kChunkKeys) {
    find_chunk(tile.layer, tile.table, tile.kv_head, key, first, end, tile.end(), &chunk, &ahead);
    if constexpr (kCopiesHalves && sizeof(T) == sizeof(uint16_t)) {
      if (tile.num_rows > kMostRows) {
        attend_copied_chunk(tile, chunk, ahead, sums);
        continue;
      }
    }
    attend_chunk(tile, chunk, ahead, sums);
  }
}

void store_outputs(const LayerView& layer, const CallView& call, const RowRange& rows, int kv_head, const Sums& sums) {
  const int group = group_of(layer), dim = layer.head_dim, width = round_up(dim);
  for (int r = 0; r < rows.num_rows * group; ++r) {
    const int64_t head = int64_t(kv_head) * group + r % group;
    float* to = call.out + (rows.first_row + r / group) * call.out_stride + head * dim;
    const float sink = layer.sinks == nullptr ? 0.0f : exponential_of(layer.sinks[head] - sums.largest[r]);
    scale_columns(sums.out + r * width, dim, 1.0f / (sums.total[r] + sink), to);
  }
}

// The sums of one segment and kv head, for rows whose segments several items compute.
Sums part_of(const LayerView& layer, const Span& span, int segment, int kv_head, float* parts) {
  const int rows = span.rows.num_rows * group_of(layer), width = round_up(layer.head_dim);
  const int64_t index = int64_t(segment - span.first_segment) * layer.num_kv_heads + kv_head;
  return sums_at(parts + sums_floats(1, width) * (span.first_part + index * rows), rows, width);
}

Tile load_tile(const LayerView& layer, const StepView& step, const CallView& call, const Span& span, int kv_head,
               const Memory& memory) {
  const int group = group_of(layer), rows = span.rows.num_rows * group, width = round_up(layer.head_dim);
  float* q = memory.scratch + 2 * sums_floats(rows, width);
  float* scores = q + rows * layer.head_dim;
  const int first_position = step.positions[span.rows.first_row];
  const int context = layer.sees_all ? step.context_lens[span.rows.sequence] : 0;
  const int32_t* ends_seen = step.ends_seen == nullptr ? nullptr : step.ends_seen + span.rows.first_row;
  const Tile tile{layer, table_of(step, span.rows), kv_head, group, rows, first_position,
                  context, ends_seen, width, q, scores, scores + rows * kChunkKeys};
  load_queries(step, call, span.rows, tile);
  return tile;
}

// `attend_one` gives the sums of one segment.
template <typename AttendOne>
void attend_segments(const Tile& tile, const CallView& call, const Span& span, const Memory& memory,
                     const AttendOne& attend_one) {
  const int rows = tile.num_rows, width = tile.width;
  if (span.first_part != kAlone) {
    for (int segment = span.first_segment; segment < span.end_segment; ++segment)
      attend_one(segment, part_of(tile.layer, span, segment, tile.kv_head, memory.parts));
    return;
  }
  const Sums sums = sums_at(memory.scratch, rows, width);
  const Sums next = sums_at(memory.scratch + sums_floats(rows, width), rows, width);
  attend_one(span.first_segment, sums);
  for (int segment = span.first_segment + 1; segment < span.end_segment; ++segment) {
    attend_one(segment, next);
    for (int r = 0; r < rows; ++r) merge_row(sums, next, r, width);
  }
  store_outputs(tile.layer, call, span.rows, tile.kv_head, sums);
}

void merge(const LayerView& layer, const CallView& call, const Span& span, int kv_head, const Memory& memory) {
  const int rows = span.rows.num_rows * group_of(layer), width = round_up(layer.head_dim);
  const Sums sums = part_of(layer, span, span.first_segment, kv_head, memory.parts);
  for (int segment = span.first_segment + 1; segment < span.end_segment; ++segment) {
    const Sums next = part_of(layer, span, segment, kv_head, memory.parts);
    for (int r = 0; r < rows; ++r) merge_row(sums, next, r, width);
  }
  store_outputs(layer, call, span.rows, kv_head, sums);
}

void append(const LayerView& layer, const StepView& step, const CallView& call, const RowRange& rows,
            const Memory& memory) {
  append_rows(layer, step, call, rows, [&](const int32_t* table, const float* k, const float* v, int position,
                                           const Angles& angles) {
    switch (layer.kv_type) {
      case KvType::kCodes: return append_coded_row(layer, table, k, v, position, angles, memory.scratch);
      case KvType::kHalf: return append_row<uint16_t>(layer, table, k, v, position, angles, memory.scratch);
      case KvType::kFloat: return append_row<float>(layer, table, k, v, position, angles, memory.scratch);
    }
  });
}

void attend(const LayerView& layer, const StepView& step, const CallView& call, const Span& span, int kv_head,
            const Memory& memory) {
  const Tile tile = load_tile(layer, step, call, span, kv_head, memory);
  const auto attend_all = [&](const auto& attend_one) { attend_segments(tile, call, span, memory, attend_one); };
  switch (layer.kv_type) {
    case KvType::kCodes: {
      const CodedTile coded = code_queries(tile);
      return attend_all([&](int segment, const Sums& sums) { attend_coded_segment(tile, coded, segment, sums); });
    }
    case KvType::kHalf:
      return attend_all([&](int segment, const Sums& sums) { attend_segment<uint16_t>(tile, segment, sums); });
    case KvType::kFloat:
      return attend_all([&](int segment, const Sums& sums) { attend_segment<float>(tile, segment, sums); });
  }
}

}  // namespace

// flops_per_s: about half to two thirds of a 512-token prefill, 9 heads of 64, on one thread of a Sapphire Rapids Xeon.
extern const AttentionKernel attention_kernel;
const AttentionKernel attention_kernel = {SHOAL_ISA_NAME, SHOAL_ISA_FLOPS, append, attend, merge};

}  // namespace SHOAL_ISA
}  // namespace shoal
