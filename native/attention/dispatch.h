// Chooses the kernel for the processor at hand.
#pragma once

#include <string>
#include <vector>

#include "args.h"

namespace shoal {

// Kernels that this processor can run, best first. Never empty.
const std::vector<const Kernel*>& supported_kernels();

// The kernel of that name, or the best for an empty one. Throws std::invalid_argument.
const Kernel& find_kernel(const std::string& name);

}  // namespace shoal
