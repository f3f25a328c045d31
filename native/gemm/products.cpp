#include "products.h"

#include <algorithm>
#include <cstdlib>

#include "../memory/buffer.h"

namespace shoal {

namespace {

constexpr double kItemWeights = 1 << 18;  // multiplied by one item at least: some microseconds

PanelScratch& thread_scratch() {
  thread_local const Buffer<PanelScratch> scratch = allocate<PanelScratch>(1);
  return scratch[0];
}

int panels_of(const Product& product) {
  const int tiles = num_tiles(*product.matrix);
  return product.finish == Finish::kGate ? tiles : (tiles + 1) / 2;
}

Panel panel_of(const Product& product, int index) {
  if (product.finish == Finish::kGate)
    return {{product.matrix, product.second},
            {index, index},
            2,
            {product.bias, product.second_bias},
            product.finish,
            product.activation,
            product.out,
            product.out_stride};
  const int tile = 2 * index, tiles = std::min(2, num_tiles(*product.matrix) - tile);
  return {{product.matrix, product.matrix},
          {tile, tiles == 2 ? tile + 1 : tile},
          tiles,
          {product.bias, product.bias},
          product.finish,
          product.activation,
          product.out,
          product.out_stride};
}

// All panels of all products in a row, cut into items of neighbors, for each some of the rows.
class Items {
 public:
  Items(const GemmKernel& kernel, const ActivationRows& rows, const Product* products, int count)
      : kernel_(kernel), rows_(rows), products_(products), count_(count) {
    for (int i = 0; i < count; ++i) num_panels_ += panels_of(products[i]);
    row_cuts_ = (rows.num_rows + kPanelRows - 1) / kPanelRows;
    const double panel_weights = double(kPanelOutputs) * rows.num_inputs * std::min(rows.num_rows, kPanelRows);
    panels_per_item_ = std::max(1, int(kItemWeights / panel_weights));
  }

  int num_items() const { return row_cuts_ * ((num_panels_ + panels_per_item_ - 1) / panels_per_item_); }

  void run(int item) const {
    const int first_row = item % row_cuts_ * kPanelRows;
    const int num_rows = std::min(kPanelRows, rows_.num_rows - first_row);
    const int first = item / row_cuts_ * panels_per_item_;
    const int end = std::min(first + panels_per_item_, num_panels_);
    PanelScratch& scratch = thread_scratch();
    for (int panel = first; panel < end; ++panel)
      kernel_.multiply(at(panel), rows_, first_row, num_rows, scratch);
  }

 private:
  Panel at(int panel) const {
    for (int i = 0; i < count_; ++i) {
      const int own = panels_of(products_[i]);
      if (panel < own) return panel_of(products_[i], panel);
      panel -= own;
    }
    std::abort();
  }

  const GemmKernel& kernel_;
  const ActivationRows& rows_;
  const Product* products_;
  const int count_;
  int num_panels_ = 0;
  int row_cuts_;
  int panels_per_item_;
};

}  // namespace

void run_products(ThreadPool& pool, const GemmKernel& kernel, const ActivationRows& rows, const Product* products,
                  int count) {
  if (rows.num_rows == 0) return;
  const Items items(kernel, rows, products, count);
  pool.each(items.num_items(), [&items](int item) { items.run(item); });
}

bool can_gate(const Matrix& gate, const Matrix& up) {
  return gate.num_outputs == up.num_outputs && gate.num_inputs == up.num_inputs && is_dense(gate) == is_dense(up) &&
         (is_dense(gate) || gate.part_inputs == up.part_inputs);
}

}  // namespace shoal
