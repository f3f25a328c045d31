// Activation functions, also for rows whose width is not a multiple of sixteen. Included inside a kernel's own
// namespace.

// The error function of the magnitude. Source: Abramowitz and Stegun, formula 7.1.26; absolute error below 1.5e-7.
inline Lanes error_function(Lanes size) {
  const Lanes one = broadcast(1.0f);
  const Lanes t = div(one, fma(size, broadcast(0.3275911f), one));
  Lanes sum = fma(t, broadcast(1.061405429f), broadcast(-1.453152027f));
  sum = fma(sum, t, broadcast(1.421413741f));
  sum = fma(sum, t, broadcast(-0.284496736f));
  sum = mul(fma(sum, t, broadcast(0.254829592f)), t);
  return sub(one, mul(sum, exponential(sub(broadcast(0.0f), mul(size, size)))));
}

inline Lanes activate(Activation kind, Lanes x) {
  switch (kind) {
    case Activation::kSilu: return mul(x, sigmoid(x));
    case Activation::kGelu: {  // x / 2 (1 + erf(x / sqrt 2)), where erf has the sign of x
      const Lanes half = mul(x, broadcast(0.5f));
      return fma(magnitude(half), error_function(magnitude(mul(x, broadcast(0.70710678f)))), half);
    }
    case Activation::kGeluTanh: {  // 0.5 x (1 + tanh u) = x / (1 + e**(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x**3)
      const Lanes cubic = mul(mul(x, x), mul(x, broadcast(0.044715f)));
      return mul(x, sigmoid(mul(add(x, cubic), broadcast(1.5957691f))));
    }
    case Activation::kRelu2: {
      const Lanes positive = larger(broadcast(0.0f), x);
      return mul(positive, positive);
    }
    case Activation::kClampedSwiglu: break;  // has no form without a gate
  }
  return x;
}

// Source: gpt-oss model card, arXiv 2508.10925, section 2, whose factor and limit hold for both sizes.
inline Lanes clamped_swiglu(Lanes gate, Lanes up) {
  const Lanes limit = broadcast(7.0f);
  gate = smaller(limit, gate);  // in this order NaN stays NaN
  up = larger(broadcast(-7.0f), smaller(limit, up));
  return mul(mul(gate, sigmoid(mul(gate, broadcast(1.702f)))), add(up, broadcast(1.0f)));
}

inline Lanes gated(Activation kind, Lanes gate, Lanes up) {
  return kind == Activation::kClampedSwiglu ? clamped_swiglu(gate, up) : mul(activate(kind, gate), up);
}

inline Lanes load_some(const float* from, int count) {
  if (count >= kLanes) return load(from);
  float padded[kLanes] = {};
  for (int i = 0; i < count; ++i) padded[i] = from[i];
  return load(padded);
}

inline void store_some(float* to, int count, Lanes x) {
  if (count >= kLanes) return store(to, x);
  float all[kLanes];
  store(all, x);
  for (int i = 0; i < count; ++i) to[i] = all[i];
}
