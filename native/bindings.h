// The parts of the Python module, one function a file.
#pragma once

#include <nanobind/nanobind.h>

void bind_attention(nanobind::module_& module);
void bind_collective(nanobind::module_& module);
void bind_formats(nanobind::module_& module);
void bind_gemm(nanobind::module_& module);
void bind_products(nanobind::module_& module);
void bind_mapped_file(nanobind::module_& module);
void bind_recurrence(nanobind::module_& module);
void bind_ring(nanobind::module_& module);
void bind_sampling(nanobind::module_& module);
void bind_stage(nanobind::module_& module);
