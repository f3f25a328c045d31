#include "bindings.h"

NB_MODULE(_native, module) {
  module.doc() = "Shoal's native part: a stage's layers, block-quantized matrices, paged attention, shared-memory rings and collectives.";
  bind_attention(module);
  bind_formats(module);
  bind_mapped_file(module);
  bind_gemm(module);
  bind_products(module);
  bind_recurrence(module);
  bind_sampling(module);
  bind_stage(module);
#ifdef __linux__
  bind_collective(module);
  bind_ring(module);
#endif
}
