// Memory that begins at a cache line, as vector loads and packed weights require.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>

namespace shoal {

constexpr size_t kCacheLineBytes = 64;

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};
template <typename T>
using Buffer = std::unique_ptr<T[], Free>;

// At least one item, uninitialized. Throws std::bad_alloc.
template <typename T>
Buffer<T> allocate(size_t count) {
  const size_t wanted = (count == 0 ? 1 : count) * sizeof(T);
  Buffer<T> memory(static_cast<T*>(
      std::aligned_alloc(kCacheLineBytes, (wanted + kCacheLineBytes - 1) / kCacheLineBytes * kCacheLineBytes)));
  if (!memory) throw std::bad_alloc();
  return memory;
}

}  // namespace shoal
