#include "../bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <optional>

#include "../isa/isa.h"
#include "../require.h"
#include "bound_layer.h"
#include "layer.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace shoal {
namespace {

using States = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Taps = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr size_t kMaxExtent = size_t(1) << 24;  // channels and slots are counted by int

ConvView conv_of(const Taps& taps, const std::optional<Vector>& bias) {
  require(taps.shape(0) <= kMaxTaps && taps.shape(1) <= kMaxExtent, "taps must be [2 to 4, channels]");
  require(!bias || bias->shape(0) == taps.shape(1), "a convolution's bias must have a value a channel");
  return {int(taps.shape(0)), int(taps.shape(1)), taps.data(), bias ? bias->data() : nullptr};
}

// `layer` was made with the memory of `states`.
BoundRecurrentLayer bound(std::shared_ptr<const RecurrentLayer> layer, const States& states,
                          std::vector<nb::object> arrays) {
  require(int64_t(states.shape(1)) == layer->state_size(), "states must be [slots, values of a state]");
  arrays.push_back(nb::cast(states));
  return {std::move(layer), std::move(arrays)};
}

int num_slots(const States& states) {
  require(states.shape(0) >= 1 && states.shape(0) <= kMaxExtent, "states must be [slots, values of a state]");
  return int(states.shape(0));
}

nb::object kept(const std::optional<Vector>& vector) { return vector ? nb::cast(*vector) : nb::none(); }

BoundRecurrentLayer short_conv_layer(std::shared_ptr<ThreadPool> pool, const Taps& taps,
                                     const std::optional<Vector>& bias, const States& states, const std::string& isa) {
  auto layer = std::make_shared<const ShortConvLayer>(std::move(pool), *find_isa(isa).recurrence, conv_of(taps, bias),
                                                      states.data(), num_slots(states));
  return bound(std::move(layer), states, {nb::cast(taps), kept(bias)});
}

BoundRecurrentLayer delta_layer(std::shared_ptr<ThreadPool> pool, int num_key_heads, int num_value_heads, int key_dim,
                                int value_dim, bool in_turn, const Taps& taps, const Vector& rates, const Vector& decay_biases,
                                const Vector& norm, float epsilon, const States& states, const std::string& isa) {
  require(int64_t(rates.shape(0)) == num_value_heads && int64_t(decay_biases.shape(0)) == num_value_heads,
          "rates and decay biases must be [value heads]");
  require(int64_t(norm.shape(0)) == value_dim, "norm must be [value dim]");
  const DeltaShape shape{num_key_heads, num_value_heads, key_dim, value_dim, in_turn};
  auto layer = std::make_shared<const DeltaLayer>(std::move(pool), *find_isa(isa).recurrence, shape,
                                                  conv_of(taps, std::nullopt), rates.data(), decay_biases.data(),
                                                  norm.data(), epsilon, states.data(), num_slots(states));
  return bound(std::move(layer), states, {nb::cast(taps), nb::cast(rates), nb::cast(decay_biases), nb::cast(norm)});
}

BoundRecurrentLayer scan_layer(std::shared_ptr<ThreadPool> pool, int num_groups, int num_heads, int head_dim,
                               int state_dim, const Taps& taps, const std::optional<Vector>& taps_bias,
                               const Vector& rates, const Vector& step_biases, const Vector& skips, const Vector& norm,
                               float epsilon, const States& states, const std::string& isa) {
  for (const Vector& vector : {rates, step_biases, skips})
    require(int64_t(vector.shape(0)) == num_heads, "rates, biases of steps and skips must be [heads]");
  require(int64_t(norm.shape(0)) == int64_t(num_heads) * head_dim, "norm must be [heads x head_dim]");
  const ScanVectors vectors{rates.data(), step_biases.data(), skips.data(), norm.data()};
  auto layer = std::make_shared<const ScanLayer>(std::move(pool), *find_isa(isa).recurrence,
                                                 ScanShape{num_groups, num_heads, head_dim, state_dim},
                                                 conv_of(taps, taps_bias), vectors, epsilon, states.data(),
                                                 num_slots(states));
  return bound(std::move(layer), states,
               {nb::cast(taps), kept(taps_bias), nb::cast(rates), nb::cast(step_biases), nb::cast(skips), nb::cast(norm)});
}

}  // namespace
}  // namespace shoal

void bind_recurrence(nb::module_& module) {
  using namespace shoal;
  nb::class_<BoundRecurrentLayer>(module, "RecurrentLayer");
  module.def("short_conv_layer", &short_conv_layer, "pool"_a, "taps"_a.noconvert(), "bias"_a.noconvert().none(),
             "states"_a.noconvert(), "isa"_a = "");
  module.def("delta_layer", &delta_layer, nb::kw_only(), "pool"_a, "num_key_heads"_a, "num_value_heads"_a, "key_dim"_a,
             "value_dim"_a, "in_turn"_a, "taps"_a.noconvert(), "rates"_a.noconvert(), "decay_biases"_a.noconvert(),
             "norm"_a.noconvert(), "epsilon"_a, "states"_a.noconvert(), "isa"_a = "");
  module.def("scan_layer", &scan_layer, nb::kw_only(), "pool"_a, "num_groups"_a, "num_heads"_a, "head_dim"_a,
             "state_dim"_a, "taps"_a.noconvert(), "taps_bias"_a.noconvert().none(), "rates"_a.noconvert(),
             "step_biases"_a.noconvert(), "skips"_a.noconvert(), "norm"_a.noconvert(), "epsilon"_a,
             "states"_a.noconvert(), "isa"_a = "");
}
