// A single-producer, single-consumer ring of bytes in shared memory, with frames on top.
//
// Layout: a header page (two counters, two sleeper words, each on a cache line of its own), then `capacity` bytes.
// Counters grow for ever; position = counter modulo capacity. A frame is a u32 length and its bytes, and may be
// larger than the ring: it then streams through.
//
// Waiting: spin briefly, yield for a while, then sleep on a futex. The other side makes the waking system call only
// when the sleeper word says that somebody sleeps.

#include "../bindings.h"
#include "../threads/pause.h"
#include "buffer_view.h"
#include "futex.h"

#include <sched.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <stdexcept>

namespace nb = nanobind;
using shoal::BufferView;
using shoal::Clock;
using shoal::deadline_in;
using shoal::futex_wait;
using shoal::futex_wake;
using shoal::kSpin;
using shoal::kYield;

namespace {

constexpr std::size_t kHeaderBytes = 4096;

struct Header {
  alignas(64) std::atomic<std::uint64_t> written;
  alignas(64) std::atomic<std::uint64_t> read;
  alignas(64) std::atomic<std::uint32_t> data_event;   // futex: counts writes while the reader sleeps
  std::atomic<std::uint32_t> reader_sleeps;
  alignas(64) std::atomic<std::uint32_t> space_event;  // futex: counts reads while the writer sleeps
  std::atomic<std::uint32_t> writer_sleeps;
  alignas(64) std::atomic<std::uint32_t> closed;       // either side has closed
};
static_assert(sizeof(Header) <= kHeaderBytes);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

// Wait until ready() holds. False when the deadline passed first.
template <typename Ready>
bool wait_until(const Ready& ready, std::atomic<std::uint32_t>& event, std::atomic<std::uint32_t>& sleeps,
                Clock::time_point deadline) {
  if (ready()) return true;
  const auto start = Clock::now();
  for (auto now = start; now < std::min(start + kYield, deadline); now = Clock::now()) {
    if (ready()) return true;
    if (now < start + kSpin) {
      shoal::pause_processor();
    } else {
      sched_yield();
    }
  }
  while (true) {
    const std::uint32_t seen = event.load();
    sleeps.store(1);
    if (ready()) break;
    const auto now = Clock::now();
    if (now >= deadline) {
      sleeps.store(0);
      return ready();
    }
    futex_wait(event, seen, deadline - now);
  }
  sleeps.store(0);
  return true;
}

void notify(std::atomic<std::uint32_t>& event, std::atomic<std::uint32_t>& sleeps) {
  std::atomic_thread_fence(std::memory_order_seq_cst);
  if (sleeps.load()) {
    event.fetch_add(1);
    futex_wake(event);
  }
}

class Ring {
 public:
  explicit Ring(int fd) {
    struct stat status {};
    if (fstat(fd, &status) != 0 || status.st_size <= static_cast<off_t>(kHeaderBytes))
      throw std::invalid_argument("not a ring: the descriptor is closed or too small");
    bytes_ = static_cast<std::size_t>(status.st_size);
    void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) throw std::runtime_error(std::strerror(errno));
    header_ = static_cast<Header*>(memory);
    data_ = static_cast<char*>(memory) + kHeaderBytes;
    capacity_ = bytes_ - kHeaderBytes;
  }

  ~Ring() { munmap(header_, bytes_); }
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  void close() {
    header_->closed.store(1);
    for (auto* event : {&header_->data_event, &header_->space_event}) {
      event->fetch_add(1);
      futex_wake(*event);
    }
  }

  bool closed() const { return header_->closed.load() != 0; }

  // Bytes written before the deadline or the peer's closing; less than `count` means one of the two.
  std::size_t write(const char* source, std::size_t count, Clock::time_point deadline) {
    std::size_t done = 0;
    while (done < count) {
      if (!wait_until([&] { return space() > 0 || closed(); }, header_->space_event, header_->writer_sleeps,
                      deadline) ||
          closed())
        break;
      const std::size_t chunk = std::min(space(), count - done);
      const std::uint64_t written = header_->written.load(std::memory_order_relaxed);
      copy_in(written % capacity_, source + done, chunk);
      header_->written.store(written + chunk, std::memory_order_release);
      notify(header_->data_event, header_->reader_sleeps);
      done += chunk;
    }
    return done;
  }

  std::size_t read(char* target, std::size_t count, Clock::time_point deadline) {
    std::size_t done = 0;
    while (done < count) {
      if (!wait_until([&] { return available() > 0 || closed(); }, header_->data_event, header_->reader_sleeps,
                      deadline) ||
          available() == 0)
        break;
      const std::size_t chunk = std::min(available(), count - done);
      const std::uint64_t position = header_->read.load(std::memory_order_relaxed);
      copy_out(position % capacity_, target + done, chunk);
      header_->read.store(position + chunk, std::memory_order_release);
      notify(header_->space_event, header_->writer_sleeps);
      done += chunk;
    }
    return done;
  }

 private:
  // Bytes to be read. The other process writes one of the counters, so impossible values are refused.
  std::size_t available() const {
    const std::uint64_t read = header_->read.load(std::memory_order_acquire);
    const std::uint64_t filled = header_->written.load(std::memory_order_acquire) - read;
    if (filled > capacity_) throw std::runtime_error("the counters of a ring are broken");
    return filled;
  }
  std::size_t space() const { return capacity_ - available(); }
  void copy_in(std::size_t at, const char* source, std::size_t count) {
    const std::size_t first = std::min(count, capacity_ - at);
    std::memcpy(data_ + at, source, first);
    std::memcpy(data_, source + first, count - first);
  }
  void copy_out(std::size_t at, char* target, std::size_t count) const {
    const std::size_t first = std::min(count, capacity_ - at);
    std::memcpy(target, data_ + at, first);
    std::memcpy(target + first, data_, count - first);
  }

  Header* header_;
  char* data_;
  std::size_t bytes_;
  std::size_t capacity_;
};

}  // namespace

void bind_ring(nb::module_& module) {
  nb::class_<Ring>(module, "Ring")
    .def(nb::init<int>(), nb::arg("fd"))
    .def("close", &Ring::close)
    .def_prop_ro("closed", &Ring::closed)
    .def(
      "write",
      [](Ring& ring, nb::handle source, double timeout_s) {
        const BufferView view(source, PyBUF_C_CONTIGUOUS);
        const nb::gil_scoped_release released;
        return ring.write(view.data(), view.size(), deadline_in(timeout_s));
      },
      nb::arg("source"), nb::arg("timeout_s"))
    .def(
      "read_into",
      [](Ring& ring, nb::handle target, double timeout_s) {
        const BufferView view(target, PyBUF_C_CONTIGUOUS | PyBUF_WRITABLE);
        const nb::gil_scoped_release released;
        return ring.read(view.data(), view.size(), deadline_in(timeout_s));
      },
      nb::arg("target"), nb::arg("timeout_s"));
}
