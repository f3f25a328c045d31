// fp16 and bfloat16 numbers as fp32, exactly, with only integers and normal numbers: results are the same everywhere,
// even if subnormal numbers are flushed to 0.
#pragma once

#include <cstdint>
#include <cstring>

namespace shoal {

static inline float float_of_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline uint32_t bits_of_float(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float half_value(uint16_t half) {
  const uint32_t sign = uint32_t(half & 0x8000) << 16, magnitude = uint32_t(half & 0x7fff) << 13;
  if (magnitude >= 31u << 23) return float_of_bits(sign | magnitude | 0xffu << 23);  // infinite or NaN
  if (magnitude >= 1u << 23) return float_of_bits(sign | (magnitude + (112u << 23)));
  const float value = float_of_bits(magnitude + (113u << 23)) - float_of_bits(113u << 23);  // subnormal: times 2**-14
  return float_of_bits(sign | bits_of_float(value));
}

static inline float bfloat_value(uint16_t bfloat) { return float_of_bits(uint32_t(bfloat) << 16); }

// The nearest fp16 number, ties to even.
static inline uint16_t nearest_half(float value) {
  const uint32_t bits = bits_of_float(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
  if (magnitude > 0xffu << 23) return uint16_t(sign | 0x7e00);          // NaN
  if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);          // 65520 and more
  if (magnitude >= 113u << 23) {                                        // normal
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return uint16_t(sign | ((rounded >> 13) - (112u << 10)));
  }
  // Adding 1/2 leaves multiples of 2**-24, of which a subnormal number is one.
  return uint16_t(sign | (bits_of_float(float_of_bits(magnitude) + 0.5f) - bits_of_float(0.5f)));
}

}  // namespace shoal
