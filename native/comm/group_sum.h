// Sums over the ranks of a group, each a few rounds (group_memory.py explains rounds), and the common beginning and end
// of all calls.
#pragma once

#include "group_member.h"

#include <cstddef>

namespace shoal {

// A rank that is interrupted in the middle of a call has left its group.
template <typename Run>
Failed run_call(GroupMember& group, const Call& call, double timeout_s, const Run& run) {
  try {
    const Failed failed = group.begin(call, timeout_s);
    return failed ? failed : run();
  } catch (...) {
    group.leave_for(group.rank());
    throw;
  }
}

// One call: `x` becomes the sum.
Failed sum_over_ranks(GroupMember& group, float* x, std::size_t count, bool in_segments, double timeout_s);

}  // namespace shoal
