// What becomes of a panel's sums: bias, activation and gate, residual. Included inside a kernel's own namespace.

inline Lanes with_bias(const Panel& panel, int t, int output, int count, Lanes y) {
  return panel.biases[t] == nullptr ? y : add(y, load_some(panel.biases[t] + output, count));
}

void finish(const Panel& panel, int first_row, int num_rows, const float* sums) {
  const int tiles = panel.finish == Finish::kGate ? 1 : panel.num_tiles;
  for (int t = 0; t < tiles; ++t) {
    const int output = panel.tiles[t] * kTileOutputs, left = panel.matrices[t]->num_outputs - output;
    const int count = left < kLanes ? left : kLanes;
    for (int r = 0; r < num_rows; ++r) {
      const float* from = sums + r * kPanelOutputs + t * kTileOutputs;
      float* to = panel.out + (first_row + r) * panel.out_stride + output;
      Lanes y = with_bias(panel, t, output, count, load(from));
      if (panel.finish == Finish::kAdd) y = add(load_some(to, count), y);
      if (panel.finish == Finish::kAddScaled) y = fma(y, broadcast(panel.scale), load_some(to, count));
      if (panel.finish == Finish::kActivate) y = activate(panel.activation, y);
      if (panel.finish == Finish::kGate)
        y = gated(panel.activation, y, with_bias(panel, 1, output, count, load(from + kTileOutputs)));
      store_some(to, count, y);
    }
  }
}
