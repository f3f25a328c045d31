// Plain data passed from shared code to a kernel of products. No inline functions that instruction sets could share, no
// standard containers.
#pragma once

#include <cstdint>

#include "../layers/args.h"
#include "matrix.h"

namespace shoal {

// Rows of activations as products read them: fp32 for dense matrices; for others a signed byte each, with a scale for
// 32 inputs. Exact activations have 15 bits in two bytes, 128 * code + low_code.
struct ActivationRows {
  int num_rows;
  int num_inputs;              // K
  int num_blocks;              // of 32 inputs, the last one padded with zeros
  const float* values;         // [rows, K]
  int64_t value_stride;        // floats between two rows
  int8_t* codes;               // [rows, blocks * 32]
  int8_t* low_codes;           // nullptr: 8 bits
  float* scales;               // [rows, blocks]
  int32_t* sums[2];            // of codes: [rows, blocks] of 32 inputs and [rows, blocks * 2] of 16 each
  float* scaled_sums[2];       // the same sums times their scales
};

// How the result of a product is stored.
enum class Finish : int32_t {
  kStore = 0,  // out = y + bias
  kAdd = 1,    // out = out + (y + bias)
  kGate = 2,   // out = gated(y of the first tile + bias, y of the second + bias)
  kActivate = 3,  // out = activation(y + bias)
  kAddScaled = 4,  // out = out + scale * y
};

// One or two tiles of outputs for some rows. The two are neighbors in one matrix or, for kGate, the same tile of two.
struct Panel {
  const Matrix* matrices[2];
  int tiles[2];
  int num_tiles;
  int tiles_ahead;         // how much farther the tiles lie that the same thread is likely to compute next; 0: unknown
  const float* biases[2];  // [N] of each matrix; nullptr: none
  Finish finish;
  Activation activation;
  float* out;          // [rows, ...], at the first row and the matrix's first output
  int64_t out_stride;  // floats between two rows
  float scale;         // kAddScaled only
};

constexpr int kPanelRows = 128;    // most rows of one call, so that their sums stay in the nearest cache
constexpr int kChunkBlocks = 18;   // most blocks that are unpacked at once: 18 KiB for two tiles, in the nearest cache
constexpr int kChunkInputs = 256;  // of dense matrices
constexpr int kPanelOutputs = 2 * kTileOutputs;

// What one thread works in; 64-byte aligned.
struct PanelScratch {
  uint8_t codes[2][kChunkBlocks * kBlockInputs * kTileOutputs];
  float dense[2][kChunkInputs * kTileOutputs];
  float scales[2][2 * kChunkBlocks * kTileOutputs];
  float offsets[2][2 * kChunkBlocks * kTileOutputs];
  int32_t starts[2][kPanelRows * 2 * kChunkBlocks];  // initial values of integer sums
  float out[kPanelRows * kPanelOutputs];
};

struct GemmKernel {
  // Fills codes, scales and sums of some rows from their values.
  void (*quantize)(const ActivationRows& rows, int first_row, int num_rows);
  // At most kPanelRows rows.
  void (*multiply)(const Panel& panel, const ActivationRows& rows, int first_row, int num_rows, PanelScratch& scratch);
};

}  // namespace shoal
