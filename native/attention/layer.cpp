#include "layer.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>

#include "../require.h"

namespace shoal {

namespace {

constexpr int kTileRows = 48;           // query rows x heads a tile: a multiple of every kernel's register tile
constexpr int kMaxExtent = 8192;        // heads, and dimensions of a head: keeps products of both within an int
constexpr int kAppendRows = 32;         // rows appended by one item
constexpr double kBytesPerS = 10e9;     // memory bandwidth of one core, rough
constexpr double kWorthWakingS = 10e-6; // threads are awake after a step's layers, so each call costs 1 us or 2

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

thread_local Scratch thread_scratch;  // of an item
thread_local Scratch call_parts;      // of the caller; other threads write there during its call

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
  require(!view.sees_all || view.window == 0, "rows that see their whole context have no window");
  require((view.q_norm == nullptr) == (view.k_norm == nullptr), "q and k must both have a norm or neither");
  require(view.kv_type != KvType::kCodes || (view.sees_all && view.softcap == 0.0f && view.head_dim % kGroupKeys == 0),
          "codes of keys and values are for rows that see their whole context, without a softcap, and for heads of a "
          "multiple of 16");
  require(view.block_size >= 1 && view.block_size % kGroupKeys == 0, "block_size must be a positive multiple of 16");
}

int AttentionLayer::tile_tokens() const { return std::max(1, kTileRows / group()); }

size_t AttentionLayer::part_floats() const {
  return size_t(view_.head_dim + kGroupKeys - 1) / kGroupKeys * kGroupKeys + kExtraFloats;
}

size_t AttentionLayer::scratch_floats() const {
  const size_t rows = size_t(tile_tokens()) * group();
  const size_t floats = rows * (2 * part_floats() + view_.head_dim + kChunkKeys);
  if (view_.kv_type != KvType::kCodes) return floats + size_t(kCopiedGroups * kGroupKeys) * view_.head_dim;
  return floats + 2 * kMaxTileRows * kChunkKeys + rows * (view_.head_dim / 4 + 2);
}

double AttentionLayer::estimate_s(const StepMetadata& step) const {
  const double flops = 4.0 * view_.head_dim * view_.num_heads * double(step.num_scores(view_.window, view_.sees_all));
  const double value_bytes = view_.kv_type == KvType::kCodes ? 1.0 : view_.kv_type == KvType::kHalf ? 2.0 : 4.0;
  const double bytes = 2.0 * value_bytes * view_.head_dim * view_.num_kv_heads * double(step.num_keys(view_.window));
  return std::max(flops / kernel_.flops_per_s, bytes / kBytesPerS);
}

AttentionLayer::Work AttentionLayer::prepare(StepMetadata& step) const {
  require(step.limits() == limits_, "the step was made for another number of blocks, block size or context");
  require(step.angles_width() < 0 || step.angles_width() == view_.rotary_dim / 2,
          "the step's angles are for another number of rotating dimensions");
  require(view_.kv_type != KvType::kCodes || step.view().ends_seen == nullptr,
          "rows over codes see their whole context");
  const bool is_large = pool_->num_threads() > 1 && estimate_s(step) > kWorthWakingS;
  const Sharing sharing{tile_tokens(), view_.window, view_.num_kv_heads, group(), is_large ? pool_->num_threads() : 1,
                        view_.sees_all};
  return {step.view(), &step.ranges(kAppendRows), &step.plan(sharing), is_large};
}

template <typename Run>
void AttentionLayer::each(const Work& work, size_t count, const Run& run) const {
  const size_t floats = scratch_floats();
  const auto item = [&](int i) { run(i, thread_scratch.reserve(floats)); };
  if (work.is_large && count > 0) return pool_->each(int(count), item);
  for (size_t i = 0; i < count; ++i) item(int(i));
}

void AttentionLayer::append(const Work& work, const CallView& call) const noexcept {
  if (view_.only_reads) return;
  each(work, work.appends->size(), [&](int i, float* scratch) {
    kernel_.append(view_, work.step, call, (*work.appends)[i], {scratch, nullptr});
  });
}

void AttentionLayer::attend(const Work& work, const CallView& call) const noexcept {
  const Plan& plan = *work.plan;
  const int heads = view_.num_kv_heads;
  float* parts = plan.num_parts > 0 ? call_parts.reserve(size_t(plan.num_parts) * part_floats()) : nullptr;
  each(work, plan.spans.size() * heads, [&](int i, float* scratch) {
    kernel_.attend(view_, work.step, call, plan.spans[i / heads], i % heads, {scratch, parts});
  });
  each(work, plan.merges.size() * heads, [&](int i, float* scratch) {
    kernel_.merge(view_, call, plan.merges[i / heads], i % heads, {scratch, parts});
  });
}

}  // namespace shoal
