#include "ring.h"

#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <ctime>
#include <stdexcept>
#include <system_error>

#include "../threads/pause.h"

namespace shoal {

namespace {

constexpr uint64_t kMagic = 0x31474e524c414853;  // "SHALRNG1", little-endian
constexpr size_t kDataOffset = 4096;
constexpr double kSpinS = 20e-6;   // a round trip on a free core takes 4 us; with fewer cores than processes, be short
constexpr double kYieldS = 50e-6;  // about what falling asleep and being woken costs

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

// Shared futexes: the two ends are in different processes.
void futex_wait(std::atomic<uint32_t>* word, uint32_t expected, double timeout_s) {
  timespec timeout;
  timeout.tv_sec = time_t(timeout_s);
  timeout.tv_nsec = long((timeout_s - double(timeout.tv_sec)) * 1e9);
  syscall(SYS_futex, word, FUTEX_WAIT, expected, &timeout, nullptr, 0);
}

void wake(std::atomic<uint32_t>* sleeping) {
  if (sleeping->load() == 0) return;
  sleeping->store(0);
  syscall(SYS_futex, sleeping, FUTEX_WAKE, 1, nullptr, nullptr, 0);
}

}  // namespace

RingEnd::RingEnd(int fd, bool is_writer) : is_writer_(is_writer) {
  struct stat status;
  if (fstat(fd, &status) != 0) throw std::system_error(errno, std::generic_category(), "ring");
  if (size_t(status.st_size) <= kDataOffset) throw std::invalid_argument("not a ring: the file is too small");
  void* memory = mmap(nullptr, size_t(status.st_size), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) throw std::system_error(errno, std::generic_category(), "ring");
  header_ = static_cast<RingHeader*>(memory);
  data_ = static_cast<char*>(memory) + kDataOffset;
  capacity_ = size_t(status.st_size) - kDataOffset;
  if (header_->magic != kMagic || header_->capacity != capacity_ || (capacity_ & (capacity_ - 1)) != 0) {
    munmap(memory, size_t(status.st_size));
    throw std::invalid_argument("not a ring: wrong header");
  }
}

RingEnd::~RingEnd() {
  close();
  munmap(header_, capacity_ + kDataOffset);
}

void RingEnd::close() {
  (is_writer_ ? header_->writer_closed : header_->reader_closed) = 1;
  wake(is_writer_ ? &header_->reader_sleeping : &header_->writer_sleeping);
}

bool RingEnd::peer_closed() const { return (is_writer_ ? header_->reader_closed : header_->writer_closed) != 0; }

size_t RingEnd::filled() const {
  const uint64_t filled = header_->head.load() - header_->tail.load();
  if (filled > capacity_) throw std::runtime_error("the counters of a ring are broken");
  return size_t(filled);
}

size_t RingEnd::write_some(const char* data, size_t size) {
  const uint64_t head = header_->head.load(std::memory_order_relaxed);
  const size_t count = std::min(size, capacity_ - filled()), start = head & (capacity_ - 1);
  const size_t straight = std::min(count, capacity_ - start);
  std::memcpy(data_ + start, data, straight);
  std::memcpy(data_, data + straight, count - straight);
  if (count > 0) {
    header_->head.store(head + count);
    wake(&header_->reader_sleeping);
  }
  return count;
}

size_t RingEnd::read_some(char* data, size_t size) {
  const uint64_t tail = header_->tail.load(std::memory_order_relaxed);
  const size_t count = std::min(size, filled()), start = tail & (capacity_ - 1);
  const size_t straight = std::min(count, capacity_ - start);
  std::memcpy(data, data_ + start, straight);
  std::memcpy(data + straight, data_, count - straight);
  if (count > 0) {
    header_->tail.store(tail + count);
    wake(&header_->writer_sleeping);
  }
  return count;
}

size_t RingEnd::write(const char* data, size_t size, double timeout_s) {
  if (!is_writer_) throw std::invalid_argument("this is the reading end");
  const double until_s = now_s() + timeout_s;
  size_t done = 0;
  while (!peer_closed()) {
    done += write_some(data + done, size - done);
    if (done == size || !wait(until_s)) break;
  }
  return done;
}

size_t RingEnd::read(char* data, size_t size, double timeout_s) {
  if (is_writer_) throw std::invalid_argument("this is the writing end");
  const double until_s = now_s() + timeout_s;
  size_t done = 0;
  while (true) {
    const bool was_closed = peer_closed();  // before reading: what was written before closing still counts
    done += read_some(data + done, size - done);
    if (done == size || was_closed || !wait(until_s)) return done;
  }
}

// Waits until this end could move a byte or the other end has closed. False when the time is over.
bool RingEnd::wait(double until_s) {
  const auto ready = [this] { return peer_closed() || filled() != (is_writer_ ? capacity_ : 0); };
  std::atomic<uint32_t>* sleeping = is_writer_ ? &header_->writer_sleeping : &header_->reader_sleeping;
  const double start_s = now_s();
  while (!ready()) {
    const double t_s = now_s();
    if (t_s >= until_s) return false;
    if (t_s - start_s < kSpinS) {
      pause_processor();
    } else if (t_s - start_s < kSpinS + kYieldS) {
      sched_yield();
    } else {
      sleeping->store(1);
      if (!ready()) futex_wait(sleeping, 1, until_s - t_s);
      sleeping->store(0);
    }
  }
  return true;
}

}  // namespace shoal
