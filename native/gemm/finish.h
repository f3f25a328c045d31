// How a panel's sums are stored: bias, activation and gate, residual. Included inside a kernel's own namespace.

// The outputs of one tile for some rows.
struct TileOutputs {
  float* first;
  int64_t stride;  // floats between two rows
  int count;       // of a row, kLanes at most
};

// Stores make(sums, present outputs, count) for each row. Values that rows share are computed before the loop, because
// the compiler cannot know that no store changes them.
template <typename Make>
inline void finish_rows(const TileOutputs& out, int num_rows, const float* sums, const Make& make) {
  const int count = out.count;
  const int64_t stride = out.stride;
  float* to = out.first;
  if (count == kLanes) {
    for (int r = 0; r < num_rows; ++r, to += stride, sums += kPanelOutputs) store(to, make(sums, to, kLanes));
  } else {
    for (int r = 0; r < num_rows; ++r, to += stride, sums += kPanelOutputs)
      store_some(to, count, make(sums, to, count));
  }
}

// Stores make(y, sums, present outputs, count), where y is the sums plus their bias.
template <typename Make>
inline void finish_tile(const Panel& panel, int t, int first_row, int num_rows, const float* sums, const Make& make) {
  const int output = panel.tiles[t] * kTileOutputs, left = panel.matrices[t]->num_outputs - output;
  const TileOutputs out{panel.out + first_row * panel.out_stride + output, panel.out_stride,
                        left < kLanes ? left : kLanes};
  if (panel.biases[t] == nullptr)
    return finish_rows(out, num_rows, sums + t * kTileOutputs, [&make](const float* from, const float* to, int count) {
      return make(load(from), from, to, count);
    });
  const Lanes bias = load_some(panel.biases[t] + output, out.count);
  finish_rows(out, num_rows, sums + t * kTileOutputs, [&make, bias](const float* from, const float* to, int count) {
    return make(add(load(from), bias), from, to, count);
  });
}

void finish_gated(const Panel& panel, int first_row, int num_rows, const float* sums) {
  const Activation activation = panel.activation;
  const int output = panel.tiles[1] * kTileOutputs, left = panel.matrices[1]->num_outputs - output;
  const bool has_bias = panel.biases[1] != nullptr;
  const Lanes bias = has_bias ? load_some(panel.biases[1] + output, left < kLanes ? left : kLanes) : broadcast(0.0f);
  finish_tile(panel, 0, first_row, num_rows, sums, [=](Lanes gate, const float* from, const float*, int) {
    const Lanes up = load(from + kTileOutputs);
    return gated(activation, gate, has_bias ? add(up, bias) : up);
  });
}

void finish(const Panel& panel, int first_row, int num_rows, const float* sums) {
  if (panel.finish == Finish::kGate) return finish_gated(panel, first_row, num_rows, sums);
  const Activation activation = panel.activation;
  const Lanes scale = broadcast(panel.scale);
  for (int t = 0; t < panel.num_tiles; ++t) {
    const auto each = [&](const auto& make) { finish_tile(panel, t, first_row, num_rows, sums, make); };
    switch (panel.finish) {
      case Finish::kStore:
        each([](Lanes y, const float*, const float*, int) { return y; });
        break;
      case Finish::kAdd:
        each([](Lanes y, const float*, const float* to, int count) { return add(load_some(to, count), y); });
        break;
      case Finish::kAddScaled:
        each([scale](Lanes y, const float*, const float* to, int count) {
          return fma(y, scale, load_some(to, count));
        });
        break;
      case Finish::kActivate:
        each([activation](Lanes y, const float*, const float*, int) { return activate(activation, y); });
        break;
      case Finish::kGate: break;
    }
  }
}
