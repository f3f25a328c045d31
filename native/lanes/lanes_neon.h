// Four lanes in each of four registers. See lanes.h.

struct Lanes {
  float32x4_t part[4];
};

#define SHOAL_EACH_PART(expression)                                   \
  Lanes y;                                                            \
  for (int i = 0; i < 4; ++i) y.part[i] = (expression);               \
  return y

inline Lanes load(const float* from) { SHOAL_EACH_PART(vld1q_f32(from + 4 * i)); }
inline void store(float* to, Lanes x) {
  for (int i = 0; i < 4; ++i) vst1q_f32(to + 4 * i, x.part[i]);
}
inline Lanes broadcast(float x) { SHOAL_EACH_PART(vdupq_n_f32(x)); }
inline Lanes add(Lanes a, Lanes b) { SHOAL_EACH_PART(vaddq_f32(a.part[i], b.part[i])); }
inline Lanes sub(Lanes a, Lanes b) { SHOAL_EACH_PART(vsubq_f32(a.part[i], b.part[i])); }
inline Lanes mul(Lanes a, Lanes b) { SHOAL_EACH_PART(vmulq_f32(a.part[i], b.part[i])); }
inline Lanes div(Lanes a, Lanes b) { SHOAL_EACH_PART(vdivq_f32(a.part[i], b.part[i])); }
inline Lanes square_root(Lanes x) { SHOAL_EACH_PART(vsqrtq_f32(x.part[i])); }
inline Lanes fma(Lanes a, Lanes b, Lanes c) { SHOAL_EACH_PART(vfmaq_f32(c.part[i], a.part[i], b.part[i])); }
// The second where they are equal or one is not a number.
inline Lanes larger(Lanes a, Lanes b) {
  SHOAL_EACH_PART(vbslq_f32(vcgtq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]));
}
inline Lanes smaller(Lanes a, Lanes b) {
  SHOAL_EACH_PART(vbslq_f32(vcltq_f32(a.part[i], b.part[i]), a.part[i], b.part[i]));
}
inline Lanes magnitude(Lanes x) { SHOAL_EACH_PART(vabsq_f32(x.part[i])); }

inline Lanes load_half(const uint16_t* from) {
  SHOAL_EACH_PART(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + 4 * i))));
}
inline void store_half(uint16_t* to, Lanes x) {
  for (int i = 0; i < 4; ++i) vst1_u16(to + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(x.part[i])));
}
inline Lanes load_bfloat(const uint16_t* from) {
  SHOAL_EACH_PART(vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from + 4 * i), 16)));
}
inline Lanes from_ints(const int32_t* from) { SHOAL_EACH_PART(vcvtq_f32_s32(vld1q_s32(from + 4 * i))); }
inline Lanes from_bytes(const int8_t* from) {
  int32_t wide[kLanes];
  for (int i = 0; i < kLanes; ++i) wide[i] = from[i];
  return from_ints(wide);
}
inline Lanes from_unsigned_bytes(const uint8_t* from) {
  int32_t wide[kLanes];
  for (int i = 0; i < kLanes; ++i) wide[i] = from[i];
  return from_ints(wide);
}

// In whatever order, since it does not matter.
inline float largest_lane(Lanes x) {
  return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.part[0], x.part[1]), vmaxq_f32(x.part[2], x.part[3])));
}

// The nearest integers, ties to even, of values within [-128, 127]. Returns their sum.
inline int32_t store_rounded(int8_t* to, Lanes x) {
  int32x4_t sum = vdupq_n_s32(0);
  for (int i = 0; i < 4; ++i) {
    const int32x4_t whole = vcvtnq_s32_f32(x.part[i]);
    sum = vaddq_s32(sum, whole);
    const int8x8_t bytes = vmovn_s16(vcombine_s16(vmovn_s32(whole), vmovn_s32(whole)));
    vst1_lane_s32((int32_t*)(to + 4 * i), vreinterpret_s32_s8(bytes), 0);
  }
  return vaddvq_s32(sum);
}

// The nearest integers, ties to even, of values within [-32768, 32767].
inline void store_words(int16_t* to, Lanes x) {
  for (int i = 0; i < 4; ++i) vst1_s16(to + 4 * i, vmovn_s32(vcvtnq_s32_f32(x.part[i])));
}

// x * 2**n, where `shifted` is n + 1.5 * 2**23: n is in its low mantissa bits.
inline Lanes add_exponent(Lanes x, Lanes shifted) {
  SHOAL_EACH_PART(vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(x.part[i]),
                                                  vshlq_n_s32(vreinterpretq_s32_f32(shifted.part[i]), 23))));
}

#undef SHOAL_EACH_PART
