#include "adapters.h"

#include <algorithm>

#include "../../require.h"

namespace shoal {

namespace {

void check_group(const AdapterGroup& group) {
  for (const AdapterPart& part : group.parts) {
    if (part.b == nullptr) continue;
    require(group.a != nullptr && is_dense(*group.a) && is_dense(*part.b), "A and B of an adapter must be dense");
    require(part.first >= 0 && part.first + part.b->num_inputs <= group.a->num_outputs,
            "B of an adapter has other ranks than A");
  }
}

const AdapterGroup& group_of(const LayerAdapters& layer, const AdapterSpan& span, AdapterPlace place) {
  return layer[span.adapter].groups[int(place)];
}

}  // namespace

AdapterRunner::AdapterRunner(std::shared_ptr<ThreadPool> pool, const Isa& isa, int max_rows,
                             const std::vector<const LayerAdapters*>& layers)
    : pool_(std::move(pool)), isa_(isa) {
  for (const LayerAdapters* layer : layers)
    for (const LayerAdapter& adapter : *layer)
      for (const AdapterGroup& group : adapter.groups) {
        check_group(group);
        if (group.a != nullptr) max_ranks_ = std::max(max_ranks_, int(group.a->num_outputs));
      }
  low_ = allocate<float>(size_t(max_rows) * max_ranks_);
  const size_t most = size_t(max_rows) * kAdapterParts;
  low_rows_.reserve(most);
  products_.reserve(most);
}

void AdapterRunner::append(const LayerAdapters& layer, AdapterPlace place, const std::vector<AdapterSpan>& spans,
                           std::vector<Product>& products) {
  for (const AdapterSpan& span : spans) {
    const AdapterGroup& group = group_of(layer, span, place);
    if (group.a != nullptr)
      products.push_back({group.a, nullptr, nullptr, nullptr, Finish::kStore, Activation::kSilu, low_.get(),
                          max_ranks_, {span.first_row, span.num_rows}});
  }
}

void AdapterRunner::add(const LayerAdapters& layer, AdapterPlace place, const std::vector<AdapterSpan>& spans,
                        const AdapterOutput* outputs) {
  products_.clear();
  low_rows_.clear();
  for (const AdapterSpan& span : spans) {
    const AdapterGroup& group = group_of(layer, span, place);
    for (int i = 0; i < kAdapterParts; ++i) {
      const AdapterPart& part = group.parts[i];
      if (part.b == nullptr) continue;
      ActivationRows& low = low_rows_.emplace_back();
      low.num_rows = span.first_row + span.num_rows;
      low.num_inputs = part.b->num_inputs;
      low.values = low_.get() + part.first;
      low.value_stride = max_ranks_;
      products_.push_back({part.b, nullptr, nullptr, nullptr, Finish::kAddScaled, Activation::kSilu, outputs[i].out,
                           outputs[i].stride, {span.first_row, span.num_rows}, part.scale, &low});
    }
  }
  if (!products_.empty()) run_products(*pool_, *isa_.gemm, low_rows_[0], products_.data(), int(products_.size()));
}

bool StepAdapters::has(AdapterPlace place) const {
  return runner_ != nullptr && std::any_of(spans_->begin(), spans_->end(), [&](const AdapterSpan& span) {
           return group_of(*layer_, span, place).a != nullptr;
         });
}

void StepAdapters::append(AdapterPlace place, std::vector<Product>& products) const {
  if (runner_ != nullptr) runner_->append(*layer_, place, *spans_, products);
}

void StepAdapters::add(AdapterPlace place, const AdapterOutput* outputs) const {
  if (runner_ != nullptr) runner_->add(*layer_, place, *spans_, outputs);
}

}  // namespace shoal
