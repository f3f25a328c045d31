// One end of a single-producer, single-consumer ring of bytes in shared memory. Layout: src/shoal/comm/ring_memory.py.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace shoal {

// The first page of the memory. Every word that one side writes often has a cache line of its own.
struct RingHeader {
  uint64_t magic;
  uint64_t capacity;                                // bytes of data, a power of two
  alignas(64) std::atomic<uint64_t> head;           // bytes ever written
  alignas(64) std::atomic<uint64_t> tail;           // bytes ever read
  alignas(64) std::atomic<uint32_t> writer_closed;  // never unset
  std::atomic<uint32_t> reader_closed;
  alignas(64) std::atomic<uint32_t> reader_sleeping;  // futex: 1 while the reader sleeps
  alignas(64) std::atomic<uint32_t> writer_sleeping;
};

// Either end; the other end may be another process, at another address. A thread at a time.
class RingEnd {
 public:
  // Maps the ring behind `fd`, which may be closed afterwards. Throws std::invalid_argument, std::system_error.
  RingEnd(int fd, bool is_writer);
  ~RingEnd();
  RingEnd(const RingEnd&) = delete;
  RingEnd& operator=(const RingEnd&) = delete;

  // Moves bytes until `size` are moved, `timeout_s` is over or the other end has closed; returns how many were moved.
  // Throws std::runtime_error where the other end broke the counters, std::invalid_argument at the wrong end.
  size_t write(const char* data, size_t size, double timeout_s);
  size_t read(char* data, size_t size, double timeout_s);

  // Whether the other end has closed; what it wrote before can still be read.
  bool peer_closed() const;
  // Tells the other end. Idempotent; the memory stays mapped until destruction.
  void close();

 private:
  size_t filled() const;
  size_t write_some(const char* data, size_t size);
  size_t read_some(char* data, size_t size);
  bool wait(double until_s);

  RingHeader* header_;
  char* data_;
  size_t capacity_;
  bool is_writer_;
};

}  // namespace shoal
