// NEON (AArch64) counts the bits of each byte. A vector holds 32 input channels of 4 output channels; counts stay in
// bytes for up to 31 words and are then added up pairwise, twice, which leaves one 32-bit sum per output channel.
#include <arm_neon.h>

#include <cstring>

#include "isa.h"

namespace bcdnet {
namespace {

using V = float32x4_t;
constexpr int kLanes = 4;
constexpr int kRealVectors = 2;

#include "plain_words.inl"

inline V load(const float* x) { return vld1q_f32(x); }
inline void store(float* x, V v) { vst1q_f32(x, v); }
inline V set1(float x) { return vdupq_n_f32(x); }
inline V mul(V a, V b) { return vmulq_f32(a, b); }
inline V add(V a, V b) { return vaddq_f32(a, b); }
inline V fma(V a, V b, V c) { return vfmaq_f32(c, a, b); }
inline V leaky(V u, V slope) { return vbslq_f32(vcgezq_f32(u), u, mul(u, slope)); }
inline uint32_t at_least(V a, V b) {
  const uint32x4_t lanes = {1, 2, 4, 8};
  return vaddvq_u32(vandq_u32(vcgeq_f32(a, b), lanes));
}
inline V dots(const float* base, const int32_t* differing) {
  return fma(set1(-2.f), vcvtq_f32_s32(vld1q_s32(differing)), load(base));
}
inline void add_sums(V y, double* sums) {
  const float64x2_t round = vdupq_n_f64(kRound);
  const float64x2_t halves[2] = {vcvt_f64_f32(vget_low_f32(y)), vcvt_high_f64_f32(y)};
  for (int h = 0; h < 2; ++h)
    vst1q_f64(sums + 2 * h, vaddq_f64(vld1q_f64(sums + 2 * h), vsubq_f64(vaddq_f64(halves[h], round), round)));
}

#include "loops.inl"

constexpr int kWordsOfBytes = 31;  // of 8 bits each: 248

template <int kPixels, int kGroups>
struct Differing {
  static constexpr int kVectors = 4;  // 16 output channels at a time, so that the sums stay in registers

  static void run(const uint8_t* const* rows, int segments, int words, const uint8_t* weights, int32_t* out) {
    for (int o = 0; o < kGroup * kGroups; o += 4 * kVectors) run(rows, segments, words, weights + 4 * o, o, out);
  }

  static void run(const uint8_t* const* rows, int segments, int words, const uint8_t* weights, int o, int32_t* out) {
    constexpr int kAtOnce = kPixels < 3 ? kPixels : 3;
    for (int first = 0; first < kPixels; first += kAtOnce) {
      uint8x16_t bytes[kAtOnce][kVectors];
      uint32x4_t sums[kAtOnce][kVectors];
      for (int p = 0; p < kAtOnce; ++p)
        for (int v = 0; v < kVectors; ++v) bytes[p][v] = vdupq_n_u8(0), sums[p][v] = vdupq_n_u32(0);
      const uint8_t* weight = weights;
      int filled = 0;
      for (int s = 0; s < segments; ++s)
        for (int w = 0; w < words; ++w, weight += 4 * kBlock) {
          for (int p = 0; p < kAtOnce; ++p) {
            const int pixel = first + p < kPixels ? first + p : kPixels - 1;
            const uint8x16_t a = vreinterpretq_u8_u32(vdupq_n_u32(word_at(rows[s * kStrip + pixel], w)));
            for (int v = 0; v < kVectors; ++v)
              bytes[p][v] = vaddq_u8(bytes[p][v], vcntq_u8(veorq_u8(a, vld1q_u8(weight + 16 * v))));
          }
          if (++filled == kWordsOfBytes) widen(bytes, sums), filled = 0;
        }
      widen(bytes, sums);
      for (int p = 0; p < kAtOnce && first + p < kPixels; ++p)
        for (int v = 0; v < kVectors; ++v)
          vst1q_s32(out + (first + p) * kBlock + o + 4 * v, vreinterpretq_s32_u32(sums[p][v]));
    }
  }

  template <size_t kRows>
  static void widen(uint8x16_t (&bytes)[kRows][kVectors], uint32x4_t (&sums)[kRows][kVectors]) {
    for (size_t p = 0; p < kRows; ++p)
      for (int v = 0; v < kVectors; ++v) {
        sums[p][v] = vpadalq_u16(sums[p][v], vpaddlq_u8(bytes[p][v]));
        bytes[p][v] = vdupq_n_u8(0);
      }
  }
};

}  // namespace

extern const Isa kNeon{"neon", true, kActBytes, 4 * kBlock, encode, decode, pack_weights,
                       differing_with<Differing>, real, epilogue, pack, signs, averages, integers<int32_t>, integers<int16_t>};

}  // namespace bcdnet
