// Chooses the kernels for this processor.
#pragma once

#include <string>
#include <vector>

#include "../attention/args.h"
#include "../gemm/args.h"
#include "../layers/args.h"
#include "../recurrence/args.h"
#include "../sampling/args.h"

namespace shoal {

// The kernels of one instruction set. All sets compute the same bits.
struct Isa {
  const char* name;
  const AttentionKernel* attention;
  const GemmKernel* gemm;
  const LayerKernel* layers;
  const RecurrenceKernel* recurrence;
  const SamplingKernel* sampling;
};

// Those that this processor can run, best first. Never empty.
const std::vector<Isa>& supported_isas();

// The instruction set of that name, or the best for an empty one. Throws std::invalid_argument.
const Isa& find_isa(const std::string& name);

}  // namespace shoal
