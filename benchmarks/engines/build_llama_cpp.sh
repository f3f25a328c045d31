#!/bin/sh
# Build what the benchmarks need of llama.cpp from the source that the PyPI package llama-cpp-python ships.
#
# build_llama_cpp.sh FOLDER [JOBS]
#
# The programs come to lie in FOLDER/bin. Instruction sets are named one by one, as this machine has them:
# -march=native takes in more than ggml asks for, and such builds have crashed under a hypervisor.
set -eu
folder=$(mkdir -p "$1" && cd "$1" && pwd)
jobs=${2:-1}

add() { # add FLAG_OF_CPUINFO OPTION...: each option is switched on where the processor has the flag
    flag=$1; shift
    if grep -qw "$flag" /proc/cpuinfo; then for option; do found="$found -DGGML_$option=ON"; done; fi
}
found=
add avx AVX
add avx2 AVX2
add fma FMA
add f16c F16C
add bmi2 BMI2
add avx_vnni AVX_VNNI
add avx512f AVX512
add avx512vbmi AVX512_VBMI
add avx512_vnni AVX512_VNNI
add avx512_bf16 AVX512_BF16
add amx_tile AMX_TILE
add amx_int8 AMX_INT8
add amx_bf16 AMX_BF16
echo "instruction sets:$found"

mkdir -p "$folder/source"
python3 -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$folder/source" llama-cpp-python==0.3.36
tar -xzf "$folder"/source/llama_cpp_python-*.tar.gz -C "$folder/source"
# shellcheck disable=SC2086
cmake -S "$folder"/source/llama_cpp_python-*/vendor/llama.cpp -B "$folder" -DCMAKE_BUILD_TYPE=Release \
    -DGGML_NATIVE=OFF $found -DGGML_RPC=ON -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF
nice -n 19 cmake --build "$folder" -j "$jobs" \
    --target llama-server llama-bench llama-completion llama-quantize ggml-rpc-server
