// Finds the best tokens in a stage's rows of logits, with several threads.
#include "../bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "../isa/isa.h"
#include "../memory/buffer.h"
#include "../require.h"
#include "../threads/thread_pool.h"

namespace nb = nanobind;
using nb::literals::operator""_a;

namespace shoal {
namespace {

template <typename T, int kDims>
using Array = nb::ndarray<T, nb::ndim<kDims>, nb::c_contig, nb::device::cpu>;
using Pool = std::shared_ptr<ThreadPool>;

void look_over(Pool pool, const std::vector<Array<float, 1>>& logits, const std::vector<nb::bytes>& allowed,
               Array<const int32_t, 1> first_times, Array<const int32_t, 1> num_top, const std::string& isa,
               Array<int64_t, 1> best, Array<double, 1> sums, Array<int32_t, 2> top, Array<float, 2> top_logits) {
  const size_t rows = logits.size(), columns = rows == 0 ? 0 : logits[0].size(), width = top.shape(1);
  require(columns >= 1 && columns < (size_t(1) << 31), "there must be rows of logits, with one token at least");
  require(allowed.size() == rows && first_times.size() == rows && num_top.size() == rows && best.size() == rows &&
              sums.size() == rows && top.shape(0) == rows && top_logits.shape(0) == rows &&
              top_logits.shape(1) == width,
          "every row must have what is asked of it, and room for what is found");
  std::vector<LogitRow> asked;
  for (size_t r = 0; r < rows; ++r) {
    require(logits[r].size() == columns, "all rows of logits must have one length");
    const int first_time = first_times.data()[r], count = num_top.data()[r];
    require(first_time >= 0 && size_t(first_time) <= columns && count >= -1 && count <= int64_t(std::min(width, columns)),
            "times begin within the row, and no more is found than there is room for");
    const bool has_mask = allowed[r].size() > 0;
    asked.push_back({logits[r].data(), int(columns),
                     has_mask ? reinterpret_cast<const uint8_t*>(allowed[r].c_str()) : nullptr,
                     int64_t(allowed[r].size()), first_time, std::max(count, 0), count >= 0});
  }
  const SamplingKernel& kernel = *find_isa(isa).sampling;
  const size_t spans = (columns + kSpanLogits - 1) / kSpanLogits;
  nb::gil_scoped_release released;
  const size_t room = spans * kSpanFloats;
  const Buffer<float> rooms = allocate<float>(rows * room);
  pool->each(int(rows), [&](int r) {
    FoundInRow found{0, 0.0, top.data() + r * width, top_logits.data() + r * width};
    kernel.look_over(asked[r], rooms.get() + r * room, &found);
    best.data()[r] = found.best;
    sums.data()[r] = found.sum;
  });
}

}  // namespace
}  // namespace shoal

void bind_sampling(nb::module_& module) {
  using namespace shoal;
  module.def("look_over", &look_over, "pool"_a, "logits"_a.noconvert(), "allowed"_a, "first_times"_a.noconvert(),
             "num_top"_a.noconvert(), "isa"_a, "best"_a.noconvert(), "sums"_a.noconvert(), "top"_a.noconvert(),
             "top_logits"_a.noconvert());
}
