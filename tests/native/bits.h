// For programs that print a hash a line of what a kernel computes from pseudo-random input: compiled for several
// instruction sets, all must print the same.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>

// A NaN counts as any other, for its bits are the processor's own choice.
class Hash {
 public:
  void add(uint32_t bits) { value_ = (value_ ^ bits) * 1099511628211ull; }  // FNV-1a, a word at a time
  void add(int32_t x) { add(uint32_t(x)); }
  void add(float x) {
    uint32_t bits = 0x7fc00000u;
    if (!std::isnan(x)) std::memcpy(&bits, &x, sizeof(bits));
    add(bits);
  }
  uint64_t value() const { return value_; }
  void print(const char* name) const { std::printf("%s %016llx\n", name, static_cast<unsigned long long>(value_)); }

 private:
  uint64_t value_ = 14695981039346656037ull;
};

// xorshift64*
class Random {
 public:
  uint32_t bits() {
    state_ ^= state_ >> 12;
    state_ ^= state_ << 25;
    state_ ^= state_ >> 27;
    return uint32_t((state_ * 2685821657736338717ull) >> 32);
  }
  // An integer of some bits, at least 1, times a power of two from some on.
  float scaled(int num_bits, int power, int num_powers) {
    const float x = float((bits() >> (32 - num_bits)) | 1);
    return std::ldexp(x, power + int(bits() % uint32_t(num_powers)));
  }
  float within(float limit) { return (float(bits() >> 8) / 8388608.0f - 1.0f) * limit; }
  // Any float at all, or with exponents near those of 1.
  float any(bool is_near = false) {
    const uint32_t word = is_near ? (bits() & 0x83ffffffu) | 0x3c000000u : bits();
    float x;
    std::memcpy(&x, &word, sizeof(x));
    return x;
  }

 private:
  uint64_t state_ = 88172645463325252ull;
};
