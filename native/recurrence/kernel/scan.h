// The scan of Mamba-2: see ScanCall. Included inside a kernel's own namespace.
//
// The state's rows are processed one after the other, a few at a time in registers, each over all rows of the step.
// Each value of the state and each output is one chain of operations, in the order of rows and of the state's rows, so
// neither the number of rows in registers nor where a prompt was cut changes a bit.

constexpr int kScanRows = 32;  // of the step, whose factors are computed at once
constexpr int kHeldRows = 4;   // of the state
constexpr int kHeldColumns = 2;

// What all values of a head in a row have in common.
struct ScanFactors {
  int first_row, num_rows;
  float step[kScanRows], decay[kScanRows];
};

// `kRows` rows of the state from `first` on, and kColumns registers of columns, or `count` columns of one.
template <int kRows, int kColumns, bool kWhole>
void scan_held(const ScanView& view, const ScanCall& call, const ScanFactors& factors, int first, int column,
               int count) {
  const auto get = [count](const float* from, int i) { return kWhole ? load(from + i * kLanes) : load_some(from, count); };
  const auto put = [count](float* to, int i, Lanes x) { kWhole ? store(to + i * kLanes, x) : store_some(to, count, x); };
  float* at = call.state + int64_t(first) * view.head_dim + column;
  Lanes state[kRows][kColumns];
  for (int j = 0; j < kRows; ++j)
    for (int i = 0; i < kColumns; ++i) state[j][i] = get(at + int64_t(j) * view.head_dim, i);
  const bool is_first = first == 0, is_last = first + kRows == view.state_dim;
  for (int row = 0; row < factors.num_rows; ++row) {
    const int64_t in = (factors.first_row + row) * call.in_stride;
    const float *x = call.x + in + column, *write = call.write + in + first, *read = call.read + in + first;
    float* out = call.out + (factors.first_row + row) * call.out_stride + column;
    const Lanes step = broadcast(factors.step[row]), decay = broadcast(factors.decay[row]);
    Lanes change[kColumns], sum[kColumns];
    for (int i = 0; i < kColumns; ++i) {
      change[i] = mul(get(x, i), step);
      sum[i] = is_first ? broadcast(0.0f) : get(out, i);
    }
    for (int j = 0; j < kRows; ++j) {
      const Lanes b = broadcast(write[j]), c = broadcast(read[j]);
      for (int i = 0; i < kColumns; ++i) {
        state[j][i] = fma(b, change[i], mul(state[j][i], decay));
        sum[i] = fma(state[j][i], c, sum[i]);
      }
    }
    for (int i = 0; i < kColumns; ++i) put(out, i, is_last ? fma(get(x, i), broadcast(call.skip), sum[i]) : sum[i]);
  }
  for (int j = 0; j < kRows; ++j)
    for (int i = 0; i < kColumns; ++i) put(at + int64_t(j) * view.head_dim, i, state[j][i]);
}

template <int kColumns, bool kWhole>
void scan_columns(const ScanView& view, const ScanCall& call, const ScanFactors& factors, int column, int count) {
  int row = 0;
  for (; row + kHeldRows <= view.state_dim; row += kHeldRows)
    scan_held<kHeldRows, kColumns, kWhole>(view, call, factors, row, column, count);
  for (; row < view.state_dim; ++row) scan_held<1, kColumns, kWhole>(view, call, factors, row, column, count);
}

void scan(const ScanView& view, const ScanCall& call) {
  ScanFactors factors;
  for (int first = 0; first < call.num_rows; first += kScanRows) {
    factors.first_row = first;
    factors.num_rows = call.num_rows - first < kScanRows ? call.num_rows - first : kScanRows;
    for (int row = 0; row < factors.num_rows; ++row) {
      factors.step[row] = softplus(call.step[(first + row) * call.in_stride] + call.step_bias);
      factors.decay[row] = lane_of(exponential(broadcast(call.rate * factors.step[row])));
    }
    constexpr int kWide = kHeldColumns * kLanes;
    int column = 0;
    for (; column + kWide <= view.head_dim; column += kWide)
      scan_columns<kHeldColumns, true>(view, call, factors, column, kLanes);
    for (; column < view.head_dim; column += kLanes)
      scan_columns<1, false>(view, call, factors, column, view.head_dim - column);
  }
}

// x = x * silu(gate). Returns the sum of its squares.
float apply_gate(const float* gate, int width, float* x) {
  for (int i = 0; i < width; i += kLanes) {
    const Lanes factor = activate(Activation::kSilu, load_some(gate + i, width - i));
    store_some(x + i, width - i, mul(load_some(x + i, width - i), factor));
  }
  return sum_of_squares(x, width);
}

// apply_gate, then x / rms(x) * weight.
void gated_norm(const float* gate, const float* weight, float epsilon, int width, float* x) {
  const float mean = apply_gate(gate, width, x) / float(width);
  const Lanes inverse = broadcast(1.0f / __builtin_sqrtf(mean + epsilon));
  for (int i = 0; i < width; i += kLanes)
    store_some(x + i, width - i, mul(mul(load_some(x + i, width - i), inverse), load_some(weight + i, width - i)));
}

// As gated_norm, without the division.
float gated_squares(const float* gate, const float* weight, int width, float* x) {
  const float squares = apply_gate(gate, width, x);
  for (int i = 0; i < width; i += kLanes)
    store_some(x + i, width - i, mul(load_some(x + i, width - i), load_some(weight + i, width - i)));
  return squares;
}
