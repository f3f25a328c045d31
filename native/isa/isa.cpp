#include "isa.h"

#include <stdexcept>

#if defined(SHOAL_X86)
#include "tile_permission.h"
#elif defined(SHOAL_ARM64) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

namespace shoal {

#define SHOAL_DECLARE_ISA(isa)                     \
  namespace isa {                                  \
  extern const AttentionKernel attention_kernel;   \
  extern const GemmKernel gemm_kernel;             \
  extern const LayerKernel layer_kernel;           \
  extern const RecurrenceKernel recurrence_kernel; \
  extern const SamplingKernel sampling_kernel;     \
  }
#define SHOAL_KERNELS(isa) SHOAL_PRODUCTS(isa, isa)

// A set that adds only products to another one.
#define SHOAL_DECLARE_PRODUCTS(isa)    \
  namespace isa {                      \
  extern const GemmKernel gemm_kernel; \
  }
#define SHOAL_PRODUCTS(isa, other) \
  Isa{#isa,                 &other::attention_kernel,  &isa::gemm_kernel, \
      &other::layer_kernel, &other::recurrence_kernel, &other::sampling_kernel}

SHOAL_DECLARE_ISA(baseline)
#if defined(SHOAL_X86)
SHOAL_DECLARE_ISA(avx2)
SHOAL_DECLARE_ISA(avxvnni)
SHOAL_DECLARE_ISA(avx512vnni)
SHOAL_DECLARE_PRODUCTS(amx)
#elif defined(SHOAL_ARM64)
SHOAL_DECLARE_ISA(dotprod)
SHOAL_DECLARE_PRODUCTS(i8mm)
#endif

namespace {

#if defined(SHOAL_X86)

void detect(std::vector<Isa>& found) {
  __builtin_cpu_init();
  const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
                          __builtin_cpu_supports("avx512vnni");
  if (has_avx2 && has_avx512 && may_use_tiles()) found.push_back(SHOAL_PRODUCTS(amx, avx512vnni));
  if (has_avx2 && has_avx512) found.push_back(SHOAL_KERNELS(avx512vnni));
  if (has_avx2 && __builtin_cpu_supports("avxvnni")) found.push_back(SHOAL_KERNELS(avxvnni));
  if (has_avx2) found.push_back(SHOAL_KERNELS(avx2));
}

#elif defined(SHOAL_ARM64) && defined(__linux__)

void detect(std::vector<Isa>& found) {
  const bool has_dotprod = (getauxval(AT_HWCAP) & HWCAP_ASIMDDP) != 0;
  if (has_dotprod && (getauxval(AT_HWCAP2) & HWCAP2_I8MM) != 0) found.push_back(SHOAL_PRODUCTS(i8mm, dotprod));
  if (has_dotprod) found.push_back(SHOAL_KERNELS(dotprod));
}

#else

void detect(std::vector<Isa>&) {}

#endif

std::vector<Isa> detect_all() {
  std::vector<Isa> found;
  detect(found);
  found.push_back(SHOAL_KERNELS(baseline));
  return found;
}

}  // namespace

const std::vector<Isa>& supported_isas() {
  static const std::vector<Isa> isas = detect_all();
  return isas;
}

const Isa& find_isa(const std::string& name) {
  for (const Isa& isa : supported_isas())
    if (name.empty() || name == isa.name) return isa;
  throw std::invalid_argument("this processor has no instruction set named '" + name + "'");
}

}  // namespace shoal
