#include "layer.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "../threads/pause.h"

namespace shoal {

namespace {

constexpr int kTileRows = 48;           // query rows x heads a tile: a multiple of every kernel's register tile
constexpr int kMaxExtent = 8192;        // heads, and dimensions of a head: keeps products of both within an int
constexpr int kAppendRows = 32;         // rows appended by one item
constexpr double kBytesPerS = 10e9;     // memory bandwidth of one core, rough
constexpr double kWorthWakingS = 200e-6;  // several times the wake-up of a sleeping thread (about 50 us)

// Memory for one thread's tile, kept between calls.
class Scratch {
 public:
  ~Scratch() { std::free(floats_); }

  float* reserve(size_t count) {
    if (count <= capacity_) return floats_;
    std::free(floats_);
    capacity_ = 0;
    floats_ = static_cast<float*>(std::aligned_alloc(64, (count * sizeof(float) + 63) / 64 * 64));
    if (floats_ == nullptr) throw std::bad_alloc();
    capacity_ = count;
    return floats_;
  }

 private:
  float* floats_ = nullptr;
  size_t capacity_ = 0;
};

thread_local Scratch thread_scratch;

// One call, shared by the threads that take part: first all appends, then all tiles, each taken from a counter.
struct Call {
  const LayerView& layer;
  const AttentionLayer::Work& work;
  const CallView& arrays;
  const AttentionKernel& kernel;
  size_t scratch_floats;
  std::atomic<size_t> next_append{0};
  std::atomic<size_t> appended{0};
  std::atomic<size_t> next_tile{0};

  void take_part() noexcept {  // running out of memory here cannot be passed on: other threads use this call
    append_all();
    attend_all();
  }

  void append_all() {
    const std::vector<RowRange>& ranges = *work.appends;
    for (size_t i; (i = next_append.fetch_add(1, std::memory_order_relaxed)) < ranges.size();) {
      kernel.append(layer, work.step, arrays, ranges[i]);
      appended.fetch_add(1, std::memory_order_release);
    }
    for (int spins = 0; appended.load(std::memory_order_acquire) < ranges.size(); ++spins) wait_briefly(spins);
  }

  void attend_all() {
    const size_t heads = size_t(layer.num_kv_heads), count = work.tiles->size() * heads;
    float* scratch = thread_scratch.reserve(scratch_floats);
    for (size_t i; (i = next_tile.fetch_add(1, std::memory_order_relaxed)) < count;)
      kernel.attend(layer, work.step, arrays, (*work.tiles)[i / heads], int(i % heads), scratch);
  }
};

void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace

AttentionLayer::AttentionLayer(std::shared_ptr<ThreadPool> pool, const LayerView& view, const CacheLimits& limits,
                               const AttentionKernel& kernel)
    : pool_(std::move(pool)), view_(view), limits_(limits), kernel_(kernel) {
  require(view.num_kv_heads >= 1 && view.num_heads >= 1 && view.num_heads % view.num_kv_heads == 0,
          "num_heads must be a positive multiple of num_kv_heads");
  require(view.head_dim >= 1, "head_dim must be positive");
  require(view.rotary_dim >= 0 && view.rotary_dim <= view.head_dim && view.rotary_dim % 2 == 0,
          "rotary_dim must be even and at most head_dim");
  require(view.num_heads <= kMaxExtent && view.head_dim <= kMaxExtent, "num_heads and head_dim must be at most 8192");
  require(view.window >= 0 && view.softcap >= 0.0f, "window and softcap must not be negative");
  require(view.block_size >= 1 && view.block_size % kGroupKeys == 0, "block_size must be a positive multiple of 16");
}

int AttentionLayer::tile_tokens() const { return std::max(1, kTileRows / group()); }

size_t AttentionLayer::scratch_floats() const {
  return size_t(tile_tokens()) * group() * (2 * view_.head_dim + kChunkKeys + 3);
}

double AttentionLayer::estimate_s(const StepMetadata& step) const {
  const double flops = 4.0 * view_.head_dim * view_.num_heads * double(step.num_scores(view_.window));
  const double bytes = 8.0 * view_.head_dim * view_.num_kv_heads * double(step.num_keys(view_.window));
  return std::max(flops / kernel_.flops_per_s, bytes / kBytesPerS);
}

AttentionLayer::Work AttentionLayer::prepare(StepMetadata& step) const {
  require(step.limits() == limits_, "the step was made for another number of blocks, block size or context");
  const bool is_large = pool_->num_threads() > 1 && estimate_s(step) > kWorthWakingS;
  return {step.view(), &step.ranges(kAppendRows), &step.ranges(tile_tokens()), is_large};
}

void AttentionLayer::run(const Work& work, const CallView& arrays) const {
  Call call{view_, work, arrays, kernel_, scratch_floats()};
  if (!work.is_large) return call.take_part();
  pool_->each(pool_->num_threads(), [&call](int) { call.take_part(); });
}

}  // namespace shoal
