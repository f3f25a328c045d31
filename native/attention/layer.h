// One layer's attention: distributes a call over the threads of a pool.
#pragma once

#include <memory>
#include <vector>

#include "../threads/thread_pool.h"
#include "args.h"
#include "step.h"

namespace shoal {

class AttentionLayer {
 public:
  // Throws std::invalid_argument for impossible sizes. The arrays in `view` must outlive the layer.
  AttentionLayer(std::shared_ptr<ThreadPool> pool, const LayerView& view, const CacheLimits& limits,
                 const AttentionKernel& kernel);

  const LayerView& view() const { return view_; }
  const CacheLimits& limits() const { return limits_; }
  int qkv_width() const { return out_width() + (view_.only_reads ? 0 : 2 * kv_width()); }
  int kv_width() const { return view_.num_kv_heads * view_.head_dim; }
  int out_width() const { return view_.num_heads * view_.head_dim; }

  // What `run` will do, prepared before the step: how it is cut into items, and whether threads share them. Valid as
  // long as the step.
  struct Work {
    StepView step;
    const std::vector<RowRange>* appends;
    const Plan* plan;
    bool is_large;
  };
  Work prepare(StepMetadata& step) const;
  // Rotates, appends, attends. Does not need Python's lock. Running out of memory ends the process, since threads take
  // part in the call.
  void run(const Work& work, const CallView& call) const noexcept {
    append(work, call);
    attend(work, call);
  }
  // The two halves of `run`: storing the rows' keys and values in the cache, and attention over the cache's content.
  void append(const Work& work, const CallView& call) const noexcept;
  void attend(const Work& work, const CallView& call) const noexcept;

 private:
  int group() const { return view_.num_heads / view_.num_kv_heads; }
  int tile_tokens() const;
  size_t part_floats() const;
  size_t scratch_floats() const;
  double estimate_s(const StepMetadata& step) const;
  template <typename Run>
  void each(const Work& work, size_t count, const Run& run) const;

  std::shared_ptr<ThreadPool> pool_;
  LayerView view_;
  CacheLimits limits_;
  const AttentionKernel& kernel_;
};

}  // namespace shoal
