// Low-rank adapters: scale * B (A x) is added to a layer's product for the rows that have an adapter. Other rows are
// not touched, and a row's bits do not depend on the adapters of other rows. Source: LoRA, arXiv 2106.09685, section
// 4.1.
//
// Shapes: T rows of the step, K inputs and N outputs of a product, r ranks of it, R ranks of all products that meet the
// same rows.
#pragma once

#include <memory>
#include <vector>

#include "../../attention/step.h"
#include "../../gemm/products.h"
#include "../../isa/isa.h"
#include "../../memory/buffer.h"
#include "../../threads/thread_pool.h"

namespace shoal {

// The products of a layer that read the same rows.
enum class AdapterPlace { kAttentionIn = 0, kAttentionOut = 1, kMlpIn = 2, kMlpOut = 3 };
constexpr int kAdapterPlaces = 4;
constexpr int kAdapterParts = 4;  // most products of a place: q, k, v and the gate of q; or the MLP's gate and up

// What an adapter adds to one product.
struct AdapterPart {
  const Matrix* b = nullptr;  // dense [N, r]; nullptr: nothing
  int first = 0;              // of its ranks, among those of the place
  float scale = 1.0f;
};

struct AdapterGroup {
  const Matrix* a = nullptr;  // dense [R, K]: those of all parts below each other; nullptr: there are none
  AdapterPart parts[kAdapterParts];
};

// One adapter's share of a layer.
struct LayerAdapter {
  AdapterGroup groups[kAdapterPlaces];
};

// All adapters by their numbers; empty if the stage has none.
using LayerAdapters = std::vector<LayerAdapter>;

struct AdapterOutput {
  float* out = nullptr;  // of row 0
  int64_t stride = 0;    // floats between two rows
};

class AdapterRunner {
 public:
  // Throws std::invalid_argument if the parts of an adapter do not fit each other.
  AdapterRunner(std::shared_ptr<ThreadPool> pool, const Isa& isa, int max_rows,
                const std::vector<const LayerAdapters*>& layers);

  // Appends the products with A to those of a place, which read the same rows and run together with them.
  void append(const LayerAdapters& layer, AdapterPlace place, const std::vector<AdapterSpan>& spans,
              std::vector<Product>& products);
  // Then adds to the outputs of the place's products, of which there is one for each part.
  void add(const LayerAdapters& layer, AdapterPlace place, const std::vector<AdapterSpan>& spans,
           const AdapterOutput* outputs);

 private:
  std::shared_ptr<ThreadPool> pool_;
  const Isa& isa_;
  int max_ranks_ = 0;  // of a place
  Buffer<float> low_;  // [T, ranks]: A x
  std::vector<ActivationRows> low_rows_;
  std::vector<Product> products_;  // kept, so that a step allocates nothing
};

// A step's adapters in one layer: none for a default one.
class StepAdapters {
 public:
  StepAdapters() = default;
  StepAdapters(AdapterRunner* runner, const LayerAdapters& layer, const std::vector<AdapterSpan>& spans)
      : runner_(runner), layer_(&layer), spans_(&spans) {}

  // Whether some row's adapter changes a product of the place.
  bool has(AdapterPlace place) const;
  // See AdapterRunner.
  void append(AdapterPlace place, std::vector<Product>& products) const;
  void add(AdapterPlace place, const AdapterOutput* outputs) const;

 private:
  AdapterRunner* runner_ = nullptr;
  const LayerAdapters* layer_ = nullptr;
  const std::vector<AdapterSpan>* spans_ = nullptr;
};

}  // namespace shoal
