#include "products.h"

#include <algorithm>
#include <vector>

#include "../memory/buffer.h"

namespace shoal {

namespace {

constexpr double kItemWeights = 1 << 18;  // least weights that one item multiplies: some microseconds
constexpr int kItemsPerThread = 8;        // the last one then delays a product by at most a sixteenth
constexpr int kLeastRows = 32;            // of an item that is one of several for the same panel

PanelScratch& thread_scratch() {
  thread_local const Buffer<PanelScratch> scratch = allocate<PanelScratch>(1);
  return scratch[0];
}

int panels_of(const Product& product) {
  const int tiles = num_tiles(*product.matrix);
  return product.finish == Finish::kGate ? tiles : (tiles + 1) / 2;
}

int cuts_of(const Product& product, int max_rows) { return (product.rows.count + max_rows - 1) / max_rows; }

// `ahead`: the distance in panels to the one that the thread is likely to compute next.
Panel panel_of(const Product& product, int index, int ahead) {
  if (product.finish == Finish::kGate)
    return {{product.matrix, product.second},
            {index, index},
            2,
            ahead,
            {product.bias, product.second_bias},
            product.finish,
            product.activation,
            product.out,
            product.out_stride,
            product.scale};
  const int tile = 2 * index, tiles = std::min(2, num_tiles(*product.matrix) - tile);
  return {{product.matrix, product.matrix},
          {tile, tiles == 2 ? tile + 1 : tile},
          tiles,
          2 * ahead,
          {product.bias, product.bias},
          product.finish,
          product.activation,
          product.out,
          product.out_stride,
          product.scale};
}

// One product's share of the items: its panels, some neighbors at a time, for some of its rows, cut evenly.
struct Cut {
  int row_cuts;
  int panels_per_item;
  int first_item;  // of all products'
};

// Most rows of an item. A panel is unpacked again for each item: as many rows as a call takes, and fewer if threads
// would lack items.
int rows_per_item(const Product* products, int count, int num_threads) {
  const auto num_items = [&](int rows) {
    int64_t items = 0;
    for (int i = 0; i < count; ++i) items += int64_t(panels_of(products[i])) * cuts_of(products[i], rows);
    return items;
  };
  int rows = kPanelRows;
  while (rows > kLeastRows && num_items(rows) < kItemsPerThread * num_threads) rows /= 2;
  return rows;
}

Cut cut_of(const Product& product, int max_rows, int first_item) {
  const int row_cuts = cuts_of(product, max_rows);
  const double rows = double(product.rows.count) / std::max(1, row_cuts);
  const double panel_weights = double(kPanelOutputs) * product.matrix->num_inputs * std::max(1.0, rows);
  return {row_cuts, std::max(1, int(kItemWeights / panel_weights)), first_item};
}

int items_of(const Product& product, const Cut& cut) {
  return cut.row_cuts * ((panels_of(product) + cut.panels_per_item - 1) / cut.panels_per_item);
}

void run_item(const GemmKernel& kernel, const ActivationRows& rows, const Product& product, const Cut& cut, int item,
              int num_threads) {
  const int64_t num_rows = product.rows.count, part = item % cut.row_cuts;
  const int past_rows = int(num_rows * part / cut.row_cuts), end_row = int(num_rows * (part + 1) / cut.row_cuts);
  const int first = item / cut.row_cuts * cut.panels_per_item;
  const int end = std::min(first + cut.panels_per_item, panels_of(product));
  const int next_first = (item + num_threads) / cut.row_cuts * cut.panels_per_item;  // threads take turns, more or less
  PanelScratch& scratch = thread_scratch();
  for (int panel = first; panel < end; ++panel) {
    const int next = panel + 1 < end ? panel + 1 : next_first;
    kernel.multiply(panel_of(product, panel, next - panel), product.from == nullptr ? rows : *product.from,
                    product.rows.first + past_rows, end_row - past_rows, scratch);
  }
}

}  // namespace

void run_products(ThreadPool& pool, const GemmKernel& kernel, const ActivationRows& rows, const Product* products,
                  int count) {
  thread_local std::vector<Cut> cuts;  // of the caller; kept, so that a step allocates nothing
  cuts.clear();
  const int max_rows = rows_per_item(products, count, pool.num_threads());
  int num_items = 0;
  for (int i = 0; i < count; ++i) {
    cuts.push_back(cut_of(products[i], max_rows, num_items));
    num_items += items_of(products[i], cuts[i]);
  }
  const Cut* first = cuts.data();
  pool.each(num_items, [&, first](int item) {
    const auto is_before = [](int one, const Cut& cut) { return one < cut.first_item; };
    const int at = int(std::upper_bound(first, first + count, item, is_before) - first) - 1;
    run_item(kernel, rows, products[at], first[at], item - first[at].first_item, pool.num_threads());
  });
}

bool can_gate(const Matrix& gate, const Matrix& up) {
  return gate.num_outputs == up.num_outputs && gate.num_inputs == up.num_inputs && is_dense(gate) == is_dense(up) &&
         (is_dense(gate) || gate.part_inputs == up.part_inputs);
}

}  // namespace shoal
