#include "dispatch.h"

#include <stdexcept>

namespace shoal {

namespace baseline {
extern const Kernel kernel;
}
#ifdef SHOAL_X86
namespace avx2 {
extern const Kernel kernel;
}
namespace avx512 {
extern const Kernel kernel;
}
#endif

namespace {

std::vector<const Kernel*> detect() {
  std::vector<const Kernel*> found;
#ifdef SHOAL_X86
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (has_avx2 && has_avx512) found.push_back(&avx512::kernel);
  if (has_avx2) found.push_back(&avx2::kernel);
#endif
  found.push_back(&baseline::kernel);
  return found;
}

}  // namespace

const std::vector<const Kernel*>& supported_kernels() {
  static const std::vector<const Kernel*> kernels = detect();
  return kernels;
}

const Kernel& find_kernel(const std::string& name) {
  for (const Kernel* kernel : supported_kernels())
    if (name.empty() || name == kernel->name) return *kernel;
  throw std::invalid_argument("this processor has no instruction set named '" + name + "'");
}

}  // namespace shoal
