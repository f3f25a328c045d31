// Runs small stages natively, on every instruction set of this processor and with several threads: prompts, then tokens
// one by one, with a sum over shards that are not there. For sanitizers, which see what the bits do not show. Ends with 1
// and a line where the bits differ, or with 0.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "isa/isa.h"
#include "random_matrix.h"
#include "stage/stage.h"

using namespace shoal;

namespace {

// Odd sizes throughout: nothing fills a block, a tile or a register.
constexpr int kHidden = 84, kHeads = 6, kKvHeads = 2, kDim = 22, kColumns = 75, kVocabulary = 45;
constexpr int kBlockTokens = 16, kTableWidth = 24, kMaxContext = kBlockTokens * kTableWidth, kMaxRows = 330;
constexpr int kPrompts[] = {300, 1, 23};
constexpr int kExperts = 12, kChosen = 3, kExpertColumns = 41, kSharedColumns = 53;
// The shard holds some of the experts, and takes turns with others at one.
constexpr int kFirstOwn = 1, kNumOwn = 9;
constexpr ExpertsShape kExpertsShape{{kExperts, kChosen, 4, 3, 2, true, true, 1.25f}, kExpertColumns, kSharedColumns};

const Matrix& form_of(const char* name) {
  return std::find_if(std::begin(kForms), std::end(kForms), [&](const Form& form) {
           return std::string(form.name) == name;
         })->matrix;
}

std::vector<float> vector_of(int size, float limit, Random& random) {
  std::vector<float> values(size);
  for (float& value : values) value = random.within(limit);
  return values;
}

// Matrices of blocks need whole blocks in the K-quants alone: others are padded.
struct Weights {
  explicit Weights(Random& random)
      : q(form_of("4 bits, fp32"), kHeads * kDim, kHidden, random),
        k(form_of("8 bits, fp32"), kKvHeads * kDim, kHidden, random),
        v(form_of("fp16"), kKvHeads * kDim, kHidden, random),
        o(form_of("Q6_K"), kHidden, kHeads * kDim, random),
        gate(form_of("Q4_K"), kColumns, kHidden, random),
        up(form_of("Q5_K"), kColumns, kHidden, random),
        narrow_up(form_of("Q2_K"), kColumns, kHidden, random),
        down(form_of("MXFP4"), kHidden, kColumns, random),
        head(form_of("IQ4_XS"), kVocabulary, kHidden, random),
        router(form_of("fp32"), kExperts, kHidden, random),
        shared_router(form_of("fp32"), 1, kHidden, random),
        shared_gate(form_of("Q4_K"), kSharedColumns, kHidden, random),
        shared_up(form_of("fp16"), kSharedColumns, kHidden, random),
        shared_down(form_of("Q6_K"), kHidden, kSharedColumns, random) {
    for (int i = 0; i < kNumOwn; ++i) {
      expert_in.emplace_back(form_of("MXFP4"), kExpertColumns, kHidden, random);
      expert_out.emplace_back(form_of("4 bits, fp32"), kHidden, kExpertColumns, random);
    }
    for (std::vector<float>* each : {&norm, &bias, &wide_norm}) *each = vector_of(kHeads * kDim + kHidden, 1.0f, random);
    for (std::vector<float>* each : {&cos, &sin}) *each = vector_of(kMaxContext * kDim / 2, 1.0f, random);
  }

  StageLayer layer(const AttentionLayer& attention, bool has_more, bool is_parallel) const {
    StageLayer layer{};
    layer.has_mixer = layer.has_mlp = true;
    layer.attention = &attention;
    layer.q = &q.matrix, layer.k = &k.matrix, layer.v = &v.matrix, layer.o = &o.matrix;
    layer.mlp.gate = &gate.matrix, layer.mlp.up = has_more ? &narrow_up.matrix : &up.matrix;
    layer.mlp.down = &down.matrix;
    layer.attn_norm = layer.mlp_norm = norm.data();
    if (!has_more || is_parallel) layer.attn_norm_bias = bias.data();
    if (is_parallel) layer.mlp_norm = nullptr, layer.mlp.gate = nullptr, layer.o_bias = bias.data();
    if (!has_more || is_parallel) return layer;
    layer.q_norm = layer.k_norm = layer.post_attn_norm = layer.post_mlp_norm = wide_norm.data();
    layer.q_bias = layer.k_bias = layer.v_bias = layer.o_bias = bias.data();
    layer.mlp.gate_bias = layer.mlp.up_bias = layer.mlp.down_bias = bias.data();
    return layer;
  }

  StageLayer layer_of_experts(const AttentionLayer& attention, bool is_parallel) const {
    StageLayer layer = this->layer(attention, false, is_parallel);
    ExpertLayer experts{&router.matrix, bias.data(), wide_norm.data(), nullptr, {}, {}, {}, &shared_router.matrix};
    for (int i = 0; i < kNumOwn; ++i) {
      experts.experts.push_back({&expert_in[i].matrix, &expert_in[(i + 1) % expert_in.size()].matrix,
                                 &expert_out[i].matrix, bias.data(), nullptr, bias.data()});
      experts.own.push_back({kFirstOwn + i, i == 2 ? 3 : 1, i == 2 ? 5u : 1u});
    }
    experts.shared = {&shared_gate.matrix, &shared_up.matrix, &shared_down.matrix, nullptr, nullptr, nullptr};
    layer.experts = std::make_shared<const ExpertLayer>(std::move(experts));
    return layer;
  }

  RandomMatrix q, k, v, o, gate, up, narrow_up, down, head;
  RandomMatrix router, shared_router, shared_gate, shared_up, shared_down;
  std::deque<RandomMatrix> expert_in, expert_out;
  std::vector<float> norm, bias, wide_norm, cos, sin;
};

struct Setting {
  int num_threads;
  bool is_exact, has_more, is_sharded, is_parallel;
  KvType kv_type;
};

// Rows [first, end) of every sequence.
StepMetadata step_of(const std::vector<int>& firsts, const std::vector<int>& ends, const CacheLimits& limits) {
  StepArrays arrays;
  arrays.table_width = kTableWidth;
  arrays.query_starts.push_back(0);
  for (size_t s = 0; s < firsts.size(); ++s) {
    for (int position = firsts[s]; position < ends[s]; ++position) arrays.positions.push_back(position);
    arrays.query_starts.push_back(int32_t(arrays.positions.size()));
    arrays.context_lens.push_back(ends[s]);
    for (int b = 0; b < kTableWidth; ++b) arrays.block_tables.push_back(int32_t(s * kTableWidth) + kTableWidth - 1 - b);
  }
  return StepMetadata(std::move(arrays), limits);
}

uint64_t run(const Isa& isa, const Weights& weights, const Setting& setting) {
  const auto pool = std::make_shared<ThreadPool>(setting.num_threads);
  const int num_sequences = int(std::size(kPrompts)), num_blocks = num_sequences * kTableWidth;
  const size_t kv_floats = size_t(num_blocks) * kBlockTokens * kKvHeads * kDim;
  std::vector<float> keys(kv_floats), values(kv_floats);
  const CacheLimits limits{num_blocks, kBlockTokens, kMaxContext};
  const LayerView view{kHeads, kKvHeads, kDim,        kDim,          kBlockTokens,       setting.has_more ? 40 : 0, setting.is_parallel,
                       false, 0.2f,   setting.has_more ? 5.0f : 0.0f, setting.kv_type, keys.data(), values.data(),
                       weights.cos.data(), weights.sin.data(), setting.has_more ? weights.bias.data() : nullptr,
                       setting.is_parallel ? weights.norm.data() : nullptr, setting.is_parallel ? weights.norm.data() : nullptr, 1e-5f,
                       setting.is_parallel ? weights.cos.data() : nullptr};
  const AttentionLayer attention(pool, view, limits, *isa.attention);
  StageShape shape{};
  shape.hidden_size = kHidden, shape.num_heads = kHeads, shape.intermediate_size = kColumns, shape.max_rows = kMaxRows;
  shape.norm_epsilon = 1e-5f, shape.residual_scale = setting.has_more ? 0.5f : 1.0f;
  shape.activation = Activation::kGelu, shape.exact_activations = setting.is_exact;
  shape.centers_norms = !setting.has_more || setting.is_parallel, shape.is_parallel = setting.is_parallel;
  shape.experts = kExpertsShape;
  Stage stage(pool, isa, shape,
              {weights.layer(attention, setting.has_more, setting.is_parallel),
               setting.has_more ? weights.layer_of_experts(attention, setting.is_parallel)
                                : weights.layer(attention, false, setting.is_parallel)});
  const SumOverShards sum = setting.is_sharded ? SumOverShards([](float* values, size_t count) {
    for (size_t i = 0; i < count; ++i) values[i] *= 1.5f;
  }) : SumOverShards();

  Hash hash;
  Random random;
  std::vector<int> firsts(num_sequences, 0), ends(std::begin(kPrompts), std::end(kPrompts));
  for (int turn = 0; turn < 4; ++turn) {
    StepMetadata step = step_of(firsts, ends, limits);
    std::vector<float> x = vector_of(step.num_tokens() * kHidden, 1.0f, random);
    stage.run(x.data(), step, nullptr, sum);
    const int rows[] = {step.num_tokens() - 1, 0};
    std::vector<float> logits(2 * kVocabulary);
    stage.logits(x.data(), rows, 2, {weights.norm.data(), weights.bias.data(), &weights.head.matrix, nullptr, 0.5f, 3.0f}, logits.data());
    for (const std::vector<float>* each : {&x, &logits})
      for (const float value : *each) {
        if (!std::isfinite(value)) std::printf("%s: a value is no number\n", isa.name), std::exit(1);
        hash.add(value);
      }
    firsts = ends;
    for (int& end : ends) end += turn < 2 ? 1 : 3;
  }
  return hash.value();
}

}  // namespace

int main() {
  Random random;
  const Weights weights(random);
  for (const bool has_more : {false, true})
    for (const bool is_exact : {false, true}) {
      const bool is_parallel = has_more != is_exact;
      const KvType kv_type = is_exact ? KvType::kFloat : KvType::kHalf;
      const uint64_t expected = run(supported_isas().back(), weights, {1, is_exact, has_more, is_exact, is_parallel, kv_type});
      for (const Isa& isa : supported_isas())
        for (const int num_threads : {1, 4})
          if (run(isa, weights, {num_threads, is_exact, has_more, is_exact, is_parallel, kv_type}) != expected) {
            std::printf("%s with %d threads has other bits than the baseline\n", isa.name, num_threads);
            return 1;
          }
    }
  return 0;
}
