// Whether this process may use AMX.
#pragma once

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace shoal {

// Whether the processor multiplies tiles of bytes, and the operating system saves tiles and lets this process use them:
// Linux must be asked once for each process. Source: Linux, Documentation/arch/x86/xstate.rst.
inline bool may_use_tiles() {
#if defined(__linux__)
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, which headers before Linux 5.16 lack
  constexpr long kTileData = 18;               // number of the state component
  __builtin_cpu_init();
  return __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-int8") &&
         syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace shoal
