#include "bindings.h"

NB_MODULE(_native, module) {
  module.doc() = "Shoal's native part: paged attention and shared-memory rings.";
  bind_attention(module);
#ifdef __linux__
  bind_ring(module);
#endif
}
