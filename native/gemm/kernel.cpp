// Products of block-quantized and dense matrices for one instruction set: y = x W^T. Compiled once per set with
// SHOAL_ISA naming it: every function here lives in a namespace of that name and calls nothing outside it.
//
// The integer products of a part (32 or 16 inputs) are exact; parts are added in fp32 in the order of the inputs, first
// the part times its scale, then its offset. Nothing else is added up, so an output's bits depend on its row and on the
// matrix alone. Dense matrices are multiplied input by input.
//
// A tile's weights are unpacked to bytes, some blocks at a time, and meet all rows of the panel from the nearest cache.

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
#include "unpack.h"

// What one call of a micro-kernel works on: M rows, T tiles and the parts of a chunk.
struct Micro {
  int num_parts;
  int pair_depth;
  const uint8_t* codes[2];      // [parts, groups, 64]
  const float* scales[2];       // [parts, 16]
  const float* offsets[2];      // [parts, 16]
  const int8_t* row_codes;      // at the first row and input
  const int8_t* row_low_codes;
  int64_t code_stride;
  const float* row_scales;      // [rows, blocks]
  int64_t scale_stride;
  const int32_t* starts[2];     // [rows, parts]
  const float* row_sums;        // [rows, parts of the matrix]
  int64_t sum_stride;
  float* out;                   // [rows, 32]
  const uint8_t* ahead[2];      // packed codes of the next chunk; nullptr: none, or another call asks for them
  int ahead_bytes;              // of a part
};

// Prefetches the packed codes of part `p` of the next chunk while this chunk is multiplied.
inline void fetch_ahead(const Micro& u, int p) {
  for (const uint8_t* codes : u.ahead)
    if (codes != nullptr)
      for (int at = 0; at < u.ahead_bytes; at += kVectorBytes) __builtin_prefetch(codes + p * u.ahead_bytes + at);
}

inline bool has_signed_codes(const Matrix& m) {
  return m.codes == Codes::kBytes || m.codes == Codes::kTableIq4 || m.codes == Codes::kTableMxfp4;
}

// A loop over rows is a struct of kRows and kTiles, the most that one call of its micro-kernel takes, of micro<M, T,
// kParts, kHasOffsets, kIsExact>, and of these where they differ.
struct RowLoop {
  // What is added to weights when they are unpacked to bytes. What that adds beyond the zero point, the bias, is
  // subtracted from the initial values of integer sums.
  static uint8_t code_shift(const Matrix& m) { return uint8_t(-m.zero_point); }
  static int code_bias(const Matrix&) { return 0; }
  static int pair_depth(const Matrix&) { return 0; }  // see micro_avx2.h
  static constexpr int kRowUnit = 1;  // rows that take as long as one
  // Puts unpacked blocks into the loop's own order.
  static void arrange(uint8_t*, int) {}
  // Held while a panel is multiplied.
  struct Setup {
    Setup(int, int) {}
  };
};

// FewRows: the loop of most sets for any number of rows. ManyRows: that for kManyRows and more.
#if defined(__AVX512VNNI__)
#include "micro/micro_avx512vnni.h"
#elif defined(__AVX2__)
#include "micro/micro_avx2.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "micro/micro_dotprod.h"
#else
#include "micro/micro_portable.h"
#endif
#if defined(SHOAL_TILES)
#include SHOAL_TILES
#include "micro/micro_amx.h"
#elif defined(__ARM_FEATURE_MATMUL_INT8)
#include "micro/micro_i8mm.h"
#else
constexpr int kManyRows = 1;
using ManyRows = FewRows;
#endif

// Calls the instance for the actual number of rows.
template <typename Loop, int kParts, bool kHasOffsets, bool kIsExact, int M = Loop::kRows>
inline void micro_rows(int rows, const Micro& u) {
  if (rows == M) return Loop::template micro<M, Loop::kTiles, kParts, kHasOffsets, kIsExact>(u);
  if constexpr (M > 1) micro_rows<Loop, kParts, kHasOffsets, kIsExact, M - 1>(rows, u);
}

// How many of the rows that are left the next call takes: about as many as the calls after it, since sums of few rows wait
// for each other.
template <typename Loop>
inline int rows_of_call(int left) {
  const int calls = (left + Loop::kRows - 1) / Loop::kRows;
  const int units = (left + calls * Loop::kRowUnit - 1) / (calls * Loop::kRowUnit);
  return units * Loop::kRowUnit < left ? units * Loop::kRowUnit : left;
}

template <typename Loop, int kParts, bool kHasOffsets, bool kIsExact>
void all_rows(int num_rows, const int (&depth)[2], const Micro& u) {
  const bool is_one_call = num_rows <= Loop::kRows && Loop::kTiles == 2;
  int call = 0;
  int rows = 0;
  for (int row = 0; row < num_rows; row += rows) {
    rows = rows_of_call<Loop>(num_rows - row);
    for (int t = 0; t < 2; t += Loop::kTiles, ++call) {
      Micro at = u;
      for (int i = 0; i < 2; ++i)  // the first two calls ask for a tile each
        if (call != i && !is_one_call) at.ahead[i] = nullptr;
      at.row_codes += row * u.code_stride;
      if (kIsExact) at.row_low_codes += row * u.code_stride;
      at.row_scales += row * u.scale_stride;
      at.row_sums += row * u.sum_stride;
      at.out += row * kPanelOutputs + t * kTileOutputs;
      at.pair_depth = depth[t];
      for (int i = 0; i < Loop::kTiles; ++i) {
        at.codes[i] = u.codes[t + i];
        at.scales[i] = u.scales[t + i];
        at.offsets[i] = u.offsets[t + i];
        at.starts[i] = u.starts[t + i] + row * u.num_parts;
      }
      micro_rows<Loop, kParts, kHasOffsets, kIsExact>(rows, at);
    }
  }
}

using AllRows = void (*)(int, const int (&)[2], const Micro&);

template <typename Loop, int kParts>
AllRows choose(bool has_offsets, bool is_exact) {
  if (has_offsets) return is_exact ? all_rows<Loop, kParts, true, true> : all_rows<Loop, kParts, true, false>;
  return is_exact ? all_rows<Loop, kParts, false, true> : all_rows<Loop, kParts, false, false>;
}

template <typename Loop>
inline void unpack_tile(const Matrix& m, int tile, int first_block, int blocks, bool has_offsets, int t,
                        PanelScratch& scratch) {
  unpack_codes(m, tile, first_block, blocks, Loop::code_shift(m), scratch.codes[t]);
  Loop::arrange(scratch.codes[t], blocks);
  const int parts = parts_per_block(m);
  decode_scales(m, m.scales, false, tile, first_block * parts, blocks * parts, scratch.scales[t]);
  if (has_offsets) decode_scales(m, m.offsets, true, tile, first_block * parts, blocks * parts, scratch.offsets[t]);
}

// Initial values of integer sums, which compensate for the bias of a tile's weights.
inline const int32_t* prepare_starts(const ActivationRows& rows, int first_row, int num_rows, int first_part, int count,
                                     int parts, int bias, int32_t* starts) {
  static constexpr int32_t kZeros[kPanelRows * 2 * kChunkBlocks] = {};
  if (bias == 0) return kZeros;
  const int64_t stride = int64_t(rows.num_blocks) * parts;
  const int32_t* sums = rows.sums[parts - 1] + first_row * stride + first_part;
  for (int r = 0; r < num_rows; ++r, sums += stride) {
    int32_t* to = starts + r * count;
#pragma GCC ivdep
    for (int p = 0; p < count; ++p) to[p] = -bias * sums[p];
  }
  return starts;
}

// The packed codes that follow those of the blocks before `block`: in the same tile, or in that of the panel that is
// likely to be multiplied next.
inline const uint8_t* codes_ahead(const Panel& panel, int t, int block) {
  const Matrix& m = *panel.matrices[t];
  if (block < num_blocks(m)) return codes_at(m, panel.tiles[t], block);
  const int tile = panel.tiles[t] + panel.tiles_ahead;
  return panel.tiles_ahead > 0 && tile < num_tiles(m) ? codes_at(m, tile, 0) : nullptr;
}

template <typename Loop>
void multiply_blocks(const Panel& panel, const ActivationRows& rows, int first_row, int num_rows,
                     PanelScratch& scratch) {
  const Matrix &first = *panel.matrices[0], &second = *panel.matrices[1];
  const int parts = parts_per_block(first);
  const bool has_offsets = first.offsets != Scales::kNone || second.offsets != Scales::kNone;
  const bool is_exact = rows.low_codes != nullptr;
  const AllRows run = parts == 1 ? choose<Loop, 1>(has_offsets, is_exact) : choose<Loop, 2>(has_offsets, is_exact);
  const int bias[2] = {Loop::code_bias(first), Loop::code_bias(second)};
  const int depth[2] = {Loop::pair_depth(first), Loop::pair_depth(second)};
  [[maybe_unused]] const typename Loop::Setup setup(num_rows, parts);
  const int chunks = (rows.num_blocks + kChunkBlocks - 1) / kChunkBlocks;  // of about the same size
  for (int chunk = 0; chunk < chunks; ++chunk) {
    const int block = int64_t(rows.num_blocks) * chunk / chunks;
    const int blocks = int64_t(rows.num_blocks) * (chunk + 1) / chunks - block;
    for (int t = 0; t < panel.num_tiles; ++t)
      unpack_tile<Loop>(*panel.matrices[t], panel.tiles[t], block, blocks, has_offsets, t, scratch);
    const int32_t* starts[2];
    for (int t = 0; t < 2; ++t)
      starts[t] = t == 1 && bias[1] == bias[0] ? starts[0]
                                               : prepare_starts(rows, first_row, num_rows, block * parts,
                                                                blocks * parts, parts, bias[t], scratch.starts[t]);
    const int64_t at = int64_t(first_row) * rows.num_blocks + block;
    Micro u{blocks * parts,
            0,
            {scratch.codes[0], scratch.codes[1]},
            {scratch.scales[0], scratch.scales[1]},
            {scratch.offsets[0], scratch.offsets[1]},
            rows.codes + at * kBlockInputs,
            rows.low_codes == nullptr ? nullptr : rows.low_codes + at * kBlockInputs,
            int64_t(rows.num_blocks) * kBlockInputs,
            rows.scales + at,
            rows.num_blocks,
            {starts[0], starts[1]},
            rows.scaled_sums[parts - 1] + at * parts,
            int64_t(rows.num_blocks) * parts,
            scratch.out,
            {codes_ahead(panel, 0, block + blocks),
             panel.num_tiles == 2 ? codes_ahead(panel, 1, block + blocks) : nullptr},
            code_unit_bytes(first.codes) / parts};
    run(num_rows, depth, u);
  }
}

// out[M, T] += values[M, count] . weights[T][count, 16]
template <int M, int T>
inline void dense_micro(const float* const* weights, const float* values, int64_t stride, int count, float* out) {
  Lanes sums[M][T];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) sums[m][t] = load(out + m * kPanelOutputs + t * kTileOutputs);
  for (int k = 0; k < count; ++k) {
    Lanes w[T];
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) w[t] = load(weights[t] + k * kTileOutputs);
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) {
      const Lanes x = broadcast(values[m * stride + k]);
#pragma GCC unroll 16
      for (int t = 0; t < T; ++t) sums[m][t] = fma(x, w[t], sums[m][t]);
    }
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m)
#pragma GCC unroll 16
    for (int t = 0; t < T; ++t) store(out + m * kPanelOutputs + t * kTileOutputs, sums[m][t]);
}

template <int M = kDenseRows>
inline void dense_rows(int rows, const float* const* weights, const float* values, int64_t stride, int count,
                       float* out) {
  if (rows == M) return dense_micro<M, kDenseTiles>(weights, values, stride, count, out);
  if constexpr (M > 1) dense_rows<M - 1>(rows, weights, values, stride, count, out);
}

void multiply_dense(const Panel& panel, const ActivationRows& rows, int first_row, int num_rows,
                    PanelScratch& scratch) {
  const float* values = rows.values + first_row * rows.value_stride;
  for (int input = 0; input < rows.num_inputs; input += kChunkInputs) {
    const int count = rows.num_inputs - input < kChunkInputs ? rows.num_inputs - input : kChunkInputs;
    const float* weights[2];
    for (int t = 0; t < 2; ++t)
      weights[t] = unpack_dense(*panel.matrices[t], panel.tiles[t], input, count, scratch.dense[t]);
    for (int row = 0; row < num_rows; row += kDenseRows)
      for (int t = 0; t < 2; t += kDenseTiles)
        dense_rows(num_rows - row < kDenseRows ? num_rows - row : kDenseRows, weights + t,
                   values + row * rows.value_stride + input, rows.value_stride, count,
                   scratch.out + row * kPanelOutputs + t * kTileOutputs);
  }
}

#include "../layers/functions.h"
#include "finish.h"
#include "quantize.h"

void multiply(const Panel& panel, const ActivationRows& rows, int first_row, int num_rows, PanelScratch& scratch) {
  for (int i = 0; i < num_rows * kPanelOutputs; i += kLanes) store(scratch.out + i, broadcast(0.0f));
  if (is_dense(*panel.matrices[0])) {
    multiply_dense(panel, rows, first_row, num_rows, scratch);
  } else if (num_rows < kManyRows) {
    multiply_blocks<FewRows>(panel, rows, first_row, num_rows, scratch);
  } else {
    multiply_blocks<ManyRows>(panel, rows, first_row, num_rows, scratch);
  }
  finish(panel, first_row, num_rows, scratch.out);
}

}  // namespace

extern const GemmKernel gemm_kernel;
const GemmKernel gemm_kernel = {quantize, multiply};

}  // namespace SHOAL_ISA
}  // namespace shoal
