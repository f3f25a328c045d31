// Layers that carry a state from token to token: one of a fixed size for each sequence, in fp32.
//
// Shapes: T rows of the step, S state slots.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "../threads/thread_pool.h"
#include "args.h"
#include "step_states.h"

namespace shoal {

class RecurrentLayer {
 public:
  virtual ~RecurrentLayer() = default;

  // Values of a row before and after the recurrence, and of one state.
  virtual int in_width() const = 0;
  virtual int out_width() const = 0;
  virtual int64_t state_size() const = 0;

  // All rows of a step: from in [T, in width], which is used as working memory, to out [T, out width]. Throws
  // std::invalid_argument if the step was made for another number of slots. `squares` [T]: see ScanLayer; nullptr for
  // other layers.
  void run(const StepStates& step, float* in, float* out, float* squares) const;

 protected:
  // `states` [S, state size] must outlive the layer.
  RecurrentLayer(std::shared_ptr<ThreadPool> pool, float* states, int num_slots)
      : pool_(std::move(pool)), states_(states), num_slots_(num_slots) {}

  float* state(int slot) const { return states_ + int64_t(slot) * state_size(); }
  ThreadPool& pool() const { return *pool_; }

  // x = silu(conv(x)) of the first channels of all rows, in place. A state begins with the window.
  void convolve(const StepStates& step, const RecurrenceKernel& kernel, const ConvView& view, float* in) const;

  // Saves the window of a sequence's convolution, with which a state begins, if the run says so.
  void save_window(const SequenceState& sequence, const StateRun& run, const ConvView& view, int first, int end) const;

 private:
  void read_states(const StepStates& step) const;
  // Computes all runs of all sequences, whose states have been read; copies states if runs say so.
  virtual void compute(const StepStates& step, float* in, float* out, float* squares) const = 0;

  std::shared_ptr<ThreadPool> pool_;
  float* states_;
  int num_slots_;
};

// out = c * conv(b * x), for rows [b, c, x]. Its state is the latest b * x.
class ShortConvLayer final : public RecurrentLayer {
 public:
  // Throws std::invalid_argument for impossible sizes. What `view` names must outlive the layer.
  ShortConvLayer(std::shared_ptr<ThreadPool> pool, const RecurrenceKernel& kernel, const ConvView& view, float* states,
                 int num_slots);

  int in_width() const override { return 3 * view_.num_channels; }
  int out_width() const override { return view_.num_channels; }
  int64_t state_size() const override { return int64_t(view_.num_taps - 1) * view_.num_channels; }

 private:
  void compute(const StepStates& step, float* in, float* out, float* squares) const override;

  const RecurrenceKernel& kernel_;
  ConvView view_;
};

struct DeltaShape {
  int num_key_heads;
  int num_value_heads;  // a multiple
  int key_dim;
  int value_dim;
  bool in_turn;  // value head i belongs to key head i modulo their number, instead of neighboring heads sharing one
};

// Heads that each read and correct a matrix, after a convolution of queries, keys and values. Rows of the input are
// queries, keys, values, gates, and for each value head the strengths of writing and of decay. A state is the
// convolution's window, followed by the matrices.
class DeltaLayer final : public RecurrentLayer {
 public:
  // Throws std::invalid_argument for impossible sizes. `rates` and `decay_biases` are [value heads], `norm` [value
  // dim]; all arrays must outlive the layer.
  DeltaLayer(std::shared_ptr<ThreadPool> pool, const RecurrenceKernel& kernel, const DeltaShape& shape,
             const ConvView& conv, const float* rates, const float* decay_biases, const float* norm, float epsilon,
             float* states, int num_slots);

  int in_width() const override { return conv_.num_channels + out_width() + 2 * shape_.num_value_heads; }
  int out_width() const override { return shape_.num_value_heads * shape_.value_dim; }
  int64_t state_size() const override { return window_size() + int64_t(out_width()) * shape_.key_dim; }

 private:
  int64_t window_size() const { return int64_t(conv_.num_taps - 1) * conv_.num_channels; }
  void compute(const StepStates& step, float* in, float* out, float* squares) const override;
  void run_head(const SequenceState& sequence, int head, const float* in, float* out) const;

  const RecurrenceKernel& kernel_;
  DeltaShape shape_;
  ConvView conv_;
  const float *rates_, *decay_biases_;
  DeltaView view_;
};

struct ScanShape {
  int num_groups;  // of neighboring heads that share what is written and read
  int num_heads;   // a multiple
  int head_dim;
  int state_dim;
};

// Factors of the heads, [heads] each.
struct ScanVectors {
  const float *rates, *step_biases, *skips;
  const float* norm;  // [heads x head_dim]
};

// Heads of Mamba-2 after a convolution. Rows of the input are x of all heads, what is written and what is read for each
// group, the gates, and for each head the size of its step; the output has a norm for each group. If other shards have
// heads of the same group, `squares` are given: they become the sums of the squares of each row, and the output is not
// divided. A state is the convolution's window, followed by the heads' own states.
class ScanLayer final : public RecurrentLayer {
 public:
  // Throws std::invalid_argument for impossible sizes. All arrays must outlive the layer.
  ScanLayer(std::shared_ptr<ThreadPool> pool, const RecurrenceKernel& kernel, const ScanShape& shape,
            const ConvView& conv, const ScanVectors& vectors, float epsilon, float* states, int num_slots);

  int in_width() const override { return conv_.num_channels + out_width() + shape_.num_heads; }
  int out_width() const override { return shape_.num_heads * shape_.head_dim; }
  int64_t state_size() const override { return window_size() + int64_t(out_width()) * shape_.state_dim; }

 private:
  int64_t window_size() const { return int64_t(conv_.num_taps - 1) * conv_.num_channels; }
  void compute(const StepStates& step, float* in, float* out, float* squares) const override;
  void run_head(const SequenceState& sequence, int head, const float* in, float* out) const;

  const RecurrenceKernel& kernel_;
  ScanShape shape_;
  ConvView conv_;
  ScanVectors vectors_;
  float epsilon_;
};

// Throws std::invalid_argument for impossible sizes.
void check_conv(const ConvView& view);

// Calls work(sequence, first channel, end) with items large enough for a thread; every channel of every sequence is in
// one item.
void each_channels(ThreadPool& pool, const StepStates& step, int num_channels,
                   const std::function<void(const SequenceState&, int, int)>& work);

}  // namespace shoal
