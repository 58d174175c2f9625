// Plain C++ for any processor. Bits are counted by adding neighbours in parallel (pairs, nibbles, bytes); the loop over
// 64 output channels is left to the compiler, which makes it SSE2 or whatever the target has. Counts stay in bytes for
// up to 31 words, so that the last additions are rare.
#include <cstring>

#include "isa.h"

namespace bcdnet {
namespace {

using V = float __attribute__((vector_size(16)));
using Mask = int32_t __attribute__((vector_size(16)));
constexpr int kLanes = 4;
constexpr int kRealVectors = 2;

#include "plain_words.inl"

inline V load(const float* x) {
  V v;
  std::memcpy(&v, x, sizeof v);
  return v;
}
inline void store(float* x, V v) { std::memcpy(x, &v, sizeof v); }
inline V set1(float x) { return V{x, x, x, x}; }
inline V mul(V a, V b) { return a * b; }
inline V add(V a, V b) { return a + b; }
inline V fma(V a, V b, V c) { return a * b + c; }
inline V leaky(V u, V slope) { return u >= set1(0.f) ? u : u * slope; }
inline uint32_t at_least(V a, V b) {
  const Mask m = a >= b;
  return (m[0] & 1) | (m[1] & 2) | (m[2] & 4) | (m[3] & 8);
}
inline V dots(const float* base, const int32_t* differing) {
  V v = load(base);
  for (int i = 0; i < kLanes; ++i) v[i] -= static_cast<float>(2 * differing[i]);
  return v;
}
inline void add_sums(V y, double* sums) {
  for (int i = 0; i < kLanes; ++i) sums[i] += (static_cast<double>(y[i]) + kRound) - kRound;
}

#include "loops.inl"

constexpr int kWordsOfBytes = 31;  // of 8 bits each: 248

template <int kPixels, int kGroups>
struct Differing {
  static void widen(uint32_t* bytes, int32_t* out) {
    for (int o = 0; o < kGroup * kGroups; ++o) {
      const uint32_t pairs = (bytes[o] & 0x00ff00ff) + (bytes[o] >> 8 & 0x00ff00ff);
      out[o] += static_cast<int32_t>((pairs & 0xffff) + (pairs >> 16));
      bytes[o] = 0;
    }
  }

  static void run(const uint8_t* const* rows, int segments, int words, const uint8_t* weights, int32_t* out) {
    for (int p = 0; p < kPixels; ++p) {
      uint32_t bytes[kGroup * kGroups] = {};
      std::memset(out + p * kBlock, 0, sizeof bytes);
      const uint8_t* weight = weights;
      int filled = 0;
      for (int s = 0; s < segments; ++s)
        for (int w = 0; w < words; ++w, weight += 4 * kBlock) {
          const uint32_t a = word_at(rows[s * kStrip + p], w);
          for (int o = 0; o < kGroup * kGroups; ++o) {
            uint32_t x = a ^ word_at(weight, o);
            x -= x >> 1 & 0x55555555;
            x = (x & 0x33333333) + (x >> 2 & 0x33333333);
            bytes[o] += (x + (x >> 4)) & 0x0f0f0f0f;
          }
          if (++filled == kWordsOfBytes) {
            widen(bytes, out + p * kBlock);
            filled = 0;
          }
        }
      widen(bytes, out + p * kBlock);
    }
  }
};

}  // namespace

extern const Isa kPortable{"portable", true, kActBytes, 4 * kBlock, encode, decode, pack_weights,
                           differing_with<Differing>, real, epilogue, pack, signs, averages, integers<int32_t>, integers<int16_t>};

}  // namespace bcdnet
