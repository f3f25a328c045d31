// Operations on independent rows, distributed over the threads of a pool.
#pragma once

#include <algorithm>

#include "thread_pool.h"

namespace shoal {

// Calls work(row) for each row of `width` values. The caller computes few rows alone.
template <typename Work>
void each_rows(ThreadPool& pool, int num_rows, int width, const Work& work) {
  constexpr int kItemValues = 1 << 14;  // least values of one item: some microseconds
  const int rows_per_item = std::max(1, kItemValues / std::max(1, width));
  const int items = (num_rows + rows_per_item - 1) / rows_per_item;
  pool.each(items, [&](int item) {
    const int end = std::min(num_rows, (item + 1) * rows_per_item);
    for (int row = item * rows_per_item; row < end; ++row) work(row);
  });
}

}  // namespace shoal
