#include "../bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>


#include "../isa/isa.h"
#include "../require.h"
#include "bound_layer.h"
#include "layer.h"
#include "step.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace shoal {
namespace {

using Ints = nb::ndarray<const int32_t, nb::c_contig, nb::device::cpu>;
using Floats = BoundLayer::Floats;
using ConstFloats = BoundLayer::ConstFloats;
using Cache = BoundLayer::Cache;

template <typename Array>
void require_shape(const Array& array, std::initializer_list<int64_t> shape, const char* message) {
  require(array.ndim() == shape.size(), message);
  size_t i = 0;
  for (const int64_t extent : shape) require(int64_t(array.shape(i++)) == extent, message);
}

std::vector<int32_t> copy(const Ints& array, size_t ndim, const char* message) {
  require(array.ndim() == ndim && array.size() < (size_t(1) << 31), message);
  return {array.data(), array.data() + array.size()};
}

// Dimensions that index memory with int: refuse what would not fit.
int extent(const Cache& array, size_t axis) {
  require(array.shape(axis) < (size_t(1) << 31), "an array is too large");
  return int(array.shape(axis));
}

KvType kv_type(const Cache& keys, const Cache& values) {
  if (keys.dtype() == nb::dtype<float>() && values.dtype() == nb::dtype<float>()) return KvType::kFloat;
  const nb::dlpack::dtype half{uint8_t(nb::dlpack::dtype_code::Float), 16, 1};
  if (keys.dtype() == half && values.dtype() == half) return KvType::kHalf;
  if (keys.dtype() == nb::dtype<uint8_t>() && values.dtype() == nb::dtype<uint8_t>()) return KvType::kCodes;
  throw nb::type_error("keys and values must both be float32 or both float16, or both uint8 with scales");
}

void new_step(StepMetadata* self, const Ints& positions, const Ints& query_starts, const Ints& context_lens,
              const Ints& block_tables, int num_blocks, int block_size, int max_context) {
  StepArrays arrays{copy(positions, 1, "positions must have 1 dimension"),
                    copy(query_starts, 1, "query_starts must have 1 dimension"),
                    copy(context_lens, 1, "context_lens must have 1 dimension"),
                    copy(block_tables, 2, "block_tables must have 2 dimensions"), int(block_tables.shape(1))};
  require(block_tables.shape(0) == context_lens.size(), "block_tables must have one row a sequence");
  new (self) StepMetadata(std::move(arrays), {num_blocks, block_size, max_context});
}

void set_states(StepMetadata& self, const Ints& slots, const Ints& saves, int num_slots) {
  require(num_slots >= 1, "there must be state slots");
  self.set_states({copy(slots, 2, "slots must have 2 dimensions"), copy(saves, 2, "saves must have 2 dimensions"),
                   num_slots});
}

void set_adapters(StepMetadata& self, const Ints& adapters, int num_adapters) {
  self.set_adapters(copy(adapters, 1, "adapters must have 1 dimension"), num_adapters);
}

void set_angles(StepMetadata& self, const ConstFloats& cos, const ConstFloats& sin) {
  require(cos.ndim() == 2 && cos.shape(1) <= 8192, "angles must be [rows, pairs of dimensions]");
  require_shape(sin, {int64_t(cos.shape(0)), int64_t(cos.shape(1))}, "cos and sin must have one shape");
  self.set_angles({{cos.data(), cos.data() + cos.size()}, {sin.data(), sin.data() + sin.size()}, int(cos.shape(1))});
}

void set_added(StepMetadata& self, const Ints& rows, const ConstFloats& values) {
  require(values.ndim() == 3 && values.shape(0) <= 8192 && values.shape(2) <= (size_t(1) << 24) &&
              values.shape(1) == rows.size(),
          "what is added must be [layers, rows, hidden size]");
  self.set_added({copy(rows, 1, "rows must have 1 dimension"), {values.data(), values.data() + values.size()},
                  int(values.shape(0)), int(values.shape(2))});
}

void set_ends_seen(StepMetadata& self, const Ints& ends) {
  self.set_ends_seen(copy(ends, 1, "ends must have 1 dimension"));
}

void new_layer(BoundLayer* self, std::shared_ptr<ThreadPool> pool, int num_heads, int num_kv_heads, int head_dim,
               int rotary_dim, float scale, int window, bool in_chunks, bool sees_all, float softcap,
               float norm_epsilon, bool only_reads, Cache keys, Cache values, ConstFloats cos, ConstFloats sin,
               std::optional<ConstFloats> sinks,
               std::optional<ConstFloats> q_norm, std::optional<ConstFloats> k_norm,
               std::optional<ConstFloats> query_scales, std::optional<Floats> key_scales,
               std::optional<Floats> value_scales, const std::string& isa) {
  const KvType type = kv_type(keys, values);
  require(keys.ndim() == 4 && values.ndim() == 4, "keys and values must have four dimensions");
  require(cos.ndim() == 2 && cos.shape(0) < (size_t(1) << 31), "cos and sin must be [max_context, rotary_dim / 2]");
  const int num_blocks = extent(keys, 0), block_size = extent(keys, 3);
  const int max_context = int(cos.shape(0));
  require_shape(keys, {num_blocks, num_kv_heads, head_dim, block_size},
                "keys must be [blocks, num_kv_heads, head_dim, block_size]");
  require_shape(values, {num_blocks, num_kv_heads, block_size, head_dim},
                "values must be [blocks, num_kv_heads, block_size, head_dim], block_size a multiple of 16");
  require_shape(cos, {max_context, rotary_dim / 2}, "cos and sin must be [max_context, rotary_dim / 2]");
  require_shape(sin, {max_context, rotary_dim / 2}, "cos and sin must be [max_context, rotary_dim / 2]");
  if (sinks) require_shape(*sinks, {num_heads}, "sinks must be [num_heads]");
  for (const std::optional<ConstFloats>* norm : {&q_norm, &k_norm})
    if (*norm) require_shape(**norm, {head_dim}, "norms of q and k must be [head_dim]");
  if (query_scales) require_shape(*query_scales, {max_context}, "query_scales must be [max_context]");
  for (const std::optional<Floats>* scales : {&key_scales, &value_scales}) {
    require(scales->has_value() == (type == KvType::kCodes), "codes have scales, and nothing else has");
    if (*scales) require_shape(**scales, {num_blocks, num_kv_heads, block_size}, "scales must be [blocks, num_kv_heads, block_size]");
  }
  const auto data = [](const auto& array) { return array ? array->data() : nullptr; };
  const LayerView view{num_heads,    num_kv_heads,  head_dim,     rotary_dim,   block_size,   window,
                       in_chunks,    sees_all,      scale,        softcap,      type,         keys.data(),  values.data(),
                       cos.data(),   sin.data(),    data(sinks),  data(q_norm), data(k_norm), norm_epsilon,
                       data(query_scales), only_reads, data(key_scales), data(value_scales)};
  AttentionLayer layer(std::move(pool), view, {num_blocks, block_size, max_context}, *find_isa(isa).attention);
  new (self) BoundLayer{std::move(layer), std::move(keys),   std::move(values), std::move(cos), std::move(sin),
                        std::move(sinks), std::move(q_norm), std::move(k_norm), std::move(query_scales),
                        std::move(key_scales), std::move(value_scales)};
}

void run_layer(const BoundLayer& self, const ConstFloats& qkv, const Floats& out, StepMetadata& step) {
  require_shape(qkv, {step.num_tokens(), self.layer.qkv_width()},
                "qkv must be [rows of the step, (num_heads + 2 num_kv_heads) head_dim]");
  require_shape(out, {step.num_tokens(), self.layer.out_width()}, "out must be [rows of the step, num_heads head_dim]");
  const AttentionLayer::Work work = self.layer.prepare(step);
  nb::gil_scoped_release released;
  self.layer.run(work, {qkv.data(), out.data(), self.layer.qkv_width(), self.layer.out_width()});
}

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Isa& isa : supported_isas()) names.emplace_back(isa.name);
  return names;
}

}  // namespace
}  // namespace shoal

void bind_attention(nb::module_& module) {
  using namespace shoal;
  module.def("supported_isas", &isa_names);
  nb::class_<ThreadPool>(module, "ThreadPool")
      .def(nb::init<int>(), "num_threads"_a)
      .def_prop_ro("num_threads", &ThreadPool::num_threads);
  nb::class_<StepMetadata>(module, "StepMetadata")
      .def("__init__", &new_step, "positions"_a.noconvert(), "query_starts"_a.noconvert(),
           "context_lens"_a.noconvert(), "block_tables"_a.noconvert(), "num_blocks"_a, "block_size"_a, "max_context"_a)
      .def("set_states", &set_states, "slots"_a.noconvert(), "saves"_a.noconvert(), "num_slots"_a)
      .def("set_adapters", &set_adapters, "adapters"_a.noconvert(), "num_adapters"_a)
      .def("set_angles", &set_angles, "cos"_a.noconvert(), "sin"_a.noconvert())
      .def("set_added", &set_added, "rows"_a.noconvert(), "values"_a.noconvert())
      .def("set_ends_seen", &set_ends_seen, "ends"_a.noconvert())
      .def_prop_ro("num_tokens", &StepMetadata::num_tokens)
      .def_prop_ro("num_sequences", &StepMetadata::num_sequences);
  nb::class_<BoundLayer>(module, "AttentionLayer")
      .def("__init__", &new_layer, "pool"_a, "num_heads"_a, "num_kv_heads"_a, "head_dim"_a, "rotary_dim"_a, "scale"_a,
           "window"_a, "in_chunks"_a = false, "sees_all"_a = false, "softcap"_a, "norm_epsilon"_a = 0.0f,
           "only_reads"_a = false, "keys"_a.noconvert(),
           "values"_a.noconvert(), "cos"_a.noconvert(), "sin"_a.noconvert(), "sinks"_a.noconvert().none() = nb::none(),
           "q_norm"_a.noconvert().none() = nb::none(), "k_norm"_a.noconvert().none() = nb::none(),
           "query_scales"_a.noconvert().none() = nb::none(), "key_scales"_a.noconvert().none() = nb::none(),
           "value_scales"_a.noconvert().none() = nb::none(), "isa"_a = "")
      .def("run", &run_layer, nb::arg().noconvert(), nb::arg().noconvert(), nb::arg());
}
