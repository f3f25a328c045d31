// One rank's place in a group: joining, rounds in which ranks meet, and detecting that a peer will not come.
#pragma once

#include "futex.h"
#include "group_memory.h"

#include <functional>

namespace shoal {

struct Failed {
  Failure failure = Failure::kNone;
  int rank = 0;  // the rank that is to blame

  explicit operator bool() const { return failure != Failure::kNone; }
};

class GroupMember {
 public:
  // Checks for signals and may throw; called between two slices of sleep.
  using Interrupt = std::function<void()>;

  // `stays_awake`: whether to spin and yield before sleeping; not if CPU time is limited by a quota, which waiting
  // would use up.
  GroupMember(int fd, int rank, int size, std::uint64_t generation, bool stays_awake, Interrupt interrupt);
  ~GroupMember();
  GroupMember(const GroupMember&) = delete;
  GroupMember& operator=(const GroupMember&) = delete;

  int rank() const { return rank_; }
  int size() const { return size_; }
  bool closed() const { return me().closed.load() != 0; }
  void close();
  // Leaves in the middle of a call because of a rank. Those that wait cannot finish it; all learn which rank is to
  // blame.
  void leave_for(int rank);

  // Begins a call: says what it is, and when it must end. Its first round detects peers that call something else.
  Failed begin(const Call& call, double timeout_s);
  // Publishes this rank's slot and waits for all others. After a failure this rank has left.
  Failed round();

  // A rank's data of the latest round, and where this rank's data of the next round go.
  const char* slot(int rank) const { return slot_at(rank, step_); }
  char* next_slot() const { return slot_at(rank_, step_ + 1); }

  const Call& call_of(int rank) const { return states_[rank].calls[num_calls_ % 2]; }
  std::uint64_t generation_of(int rank) const { return states_[rank].generation; }

 private:
  RankState& me() const { return states_[rank_]; }
  char* slot_at(int rank, std::uint64_t step) const {
    return slots_ + (static_cast<std::size_t>(rank) * 2 + step % 2) * kSlotBytes;
  }
  void join(std::uint64_t generation);
  bool has_come(int peer) const { return states_[peer].step.load(std::memory_order_acquire) >= step_; }
  Failed wait_for(int peer);
  Failed sleep_for(int peer);
  bool stay_awake(int peer) const;
  Failed trouble(int awaited);
  bool lives(int peer);
  Failed mismatch() const;

  int rank_;
  int size_;
  Interrupt interrupt_;
  std::size_t bytes_;
  RankState* states_ = nullptr;
  char* slots_ = nullptr;
  bool stays_awake_;
  Clock::duration spin_;
  std::uint64_t step_ = 0;
  std::uint64_t num_calls_ = 0;
  bool is_checked_ = false;
  Clock::time_point deadline_{};
  int pidfds_[kMaxRanks];
};

}  // namespace shoal
