// What adds up the terms of a stage's shards without a call of Python.
#pragma once

#include <cstddef>

namespace shoal {

class ShardSum {
 public:
  virtual ~ShardSum() = default;
  // In place, without the GIL. May throw, with an exception of Python too.
  virtual void add_up(float* values, std::size_t count) = 0;
};

}  // namespace shoal
