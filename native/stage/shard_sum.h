// Adds up the terms of a stage's shards without calling Python.
#pragma once

#include <cstddef>

namespace shoal {

class ShardSum {
 public:
  virtual ~ShardSum() = default;
  // In place, without the GIL. May throw, also a Python exception.
  virtual void add_up(float* values, std::size_t count) = 0;
};

}  // namespace shoal
