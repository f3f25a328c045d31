#include "group_member.h"

#include "../threads/pause.h"

#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <stdexcept>
#include <string>

namespace shoal {
namespace {

constexpr auto kSlice = std::chrono::milliseconds(50);  // longest sleep before the peers and signals are checked again
constexpr int kUnopened = -1;
constexpr int kUnknown = -2;  // no descriptor available: only the deadline detects the death of this peer
constexpr int kEnded = -3;

int open_process(int pid) {
  const long fd = syscall(SYS_pidfd_open, pid, 0);
  if (fd >= 0) return static_cast<int>(fd);
  return errno == ESRCH ? kEnded : kUnknown;
}

// A process that has ended and was not waited for counts as ended.
bool has_ended(int pidfd) {
  pollfd request{pidfd, POLLIN, 0};
  return poll(&request, 1, 0) > 0;
}

}  // namespace

GroupMember::GroupMember(
  int fd, int rank, int size, std::uint64_t generation, bool stays_awake, Interrupt interrupt)
    : rank_(rank), size_(size), interrupt_(std::move(interrupt)), stays_awake_(stays_awake) {
  if (size < 1 || size > kMaxRanks)
    throw std::invalid_argument("a group has 1 to 16 ranks, not " + std::to_string(size));
  if (rank < 0 || rank >= size)
    throw std::invalid_argument("rank " + std::to_string(rank) + " is not in a group of " + std::to_string(size));
  bytes_ = kGroupHeaderBytes + static_cast<std::size_t>(size) * 2 * kSlotBytes;
  struct stat status {};
  if (fstat(fd, &status) != 0 || status.st_size != static_cast<off_t>(bytes_))
    throw std::invalid_argument("not the memory of a group of " + std::to_string(size) + " ranks");
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
  if (memory == MAP_FAILED) throw std::runtime_error(std::strerror(errno));
  states_ = static_cast<RankState*>(memory);
  slots_ = static_cast<char*>(memory) + kGroupHeaderBytes;
  spin_ = sysconf(_SC_NPROCESSORS_ONLN) >= size ? Clock::duration(kSpin) : Clock::duration(0);
  std::fill(pidfds_, pidfds_ + kMaxRanks, kUnopened);
  join(generation);
}

GroupMember::~GroupMember() {
  for (const int pidfd : pidfds_)
    if (pidfd >= 0) ::close(pidfd);
  munmap(states_, bytes_);
}

void GroupMember::join(std::uint64_t generation) {
  std::int32_t nobody = 0;
  if (!me().pid.compare_exchange_strong(nobody, getpid())) {
    munmap(states_, bytes_);
    throw std::invalid_argument("rank " + std::to_string(rank_) + " has joined this group before");
  }
  me().generation = generation;
}

void GroupMember::close() {
  me().closed.store(1);
  for (int peer = 0; peer < size_; ++peer) {  // all that sleep, for whichever rank, check again
    states_[peer].event.fetch_add(1);
    futex_wake(states_[peer].event);
  }
}

void GroupMember::leave_for(int rank) {
  me().lost.store(1 + static_cast<std::uint32_t>(rank));
  close();
}

Failed GroupMember::begin(const Call& call, double timeout_s) {
  if (closed()) return {Failure::kClosed, rank_};
  me().calls[++num_calls_ % 2] = call;
  deadline_ = deadline_in(timeout_s);
  is_checked_ = false;
  return {};
}

Failed GroupMember::round() {
  RankState& mine = me();
  mine.step.store(++step_, std::memory_order_release);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (mine.sleepers.load(std::memory_order_relaxed) != 0) {
    mine.event.fetch_add(1);
    futex_wake(mine.event);
  }
  Failed failed;
  for (int peer = 0; peer < size_ && !failed; ++peer) failed = wait_for(peer);
  if (!failed && !is_checked_) {
    is_checked_ = true;
    failed = mismatch();
  }
  if (failed) leave_for(failed.rank);
  return failed;
}

Failed GroupMember::mismatch() const {
  for (int peer = 0; peer < size_; ++peer) {
    if (!(call_of(peer) == call_of(rank_)) || generation_of(peer) != generation_of(rank_))
      return {Failure::kMismatch, peer};
  }
  return {};
}

Failed GroupMember::wait_for(int peer) {
  if (has_come(peer) || (stays_awake_ && stay_awake(peer))) return {};
  while (true) {
    const Failed failed = sleep_for(peer);
    if (failed || has_come(peer)) return failed;
    interrupt_();
  }
}

// Spins, then yields. Returns whether the peer came meanwhile.
bool GroupMember::stay_awake(int peer) const {
  const auto start = Clock::now();
  const auto last = std::min(start + kYield, deadline_);
  for (auto now = start; now < last; now = Clock::now()) {
    if (has_come(peer)) return true;
    if (now < start + spin_) {
      pause_processor();
    } else {
      sched_yield();
    }
  }
  return has_come(peer);
}

// Sleeps for at most one slice of time, unless the peer has come or never will.
Failed GroupMember::sleep_for(int peer) {
  RankState& state = states_[peer];
  const std::uint32_t seen = state.event.load();
  state.sleepers.fetch_add(1);
  std::atomic_thread_fence(std::memory_order_seq_cst);  // pairs with the one in round(): one of the two sees the other
  Failed failed;
  if (!has_come(peer)) {
    failed = trouble(peer);
    const auto left = deadline_ - Clock::now();
    if (!failed) futex_wait(state.event, seen, std::clamp<Clock::duration>(left, Clock::duration(0), kSlice));
  }
  state.sleepers.fetch_sub(1);
  return failed;
}

// Why waiting is useless: a peer that has not come never will, or another rank has found that out.
Failed GroupMember::trouble(int awaited) {
  if (closed()) return {Failure::kClosed, rank_};
  Failed failed;
  for (int peer = 0; peer < size_ && !failed; ++peer) {
    const bool has_left = states_[peer].closed.load() != 0;
    const int lost = static_cast<int>(states_[peer].lost.load()) - 1;
    if (has_left && lost >= 0 && lost < size_ && lost != rank_) {
      failed = {Failure::kLeft, lost};
    } else if (has_left && (lost == rank_ || !has_come(peer))) {
      failed = {Failure::kLeft, peer};
    } else if (!has_come(peer) && !lives(peer) && !has_come(peer)) {
      failed = {Failure::kDead, peer};
    }
  }
  if (!failed && Clock::now() >= deadline_) failed = {Failure::kLate, awaited};
  return has_come(awaited) ? Failed{} : failed;  // what a rank published before it left still counts
}

// False once its process has ended; a rank that has not joined yet lives.
bool GroupMember::lives(int peer) {
  const int pid = states_[peer].pid.load();
  if (pid == 0 || pid == getpid()) return true;
  int& pidfd = pidfds_[peer];
  if (pidfd == kUnopened) pidfd = open_process(pid);
  return pidfd == kUnknown || (pidfd >= 0 && !has_ended(pidfd));
}

}  // namespace shoal
