// AVX-512 with VPOPCNTDQ. A vector holds 32 input channels of 16 output channels; an activation word is broadcast
// against it: xor, popcount, add make 512 multiply-accumulates of three instructions, and because each lane keeps its
// own output channel there is no horizontal sum and the counts are where the epilogue wants them. A tile of 6 locations
// by 64 channels keeps 24 sums and 4 vectors of weights in the 32 registers: ten loads feed 72 arithmetic
// instructions, so the arithmetic units are the limit (carry-save adders need as many instructions as they spare).
#include <immintrin.h>

#include <cstring>
#include <type_traits>

#include "isa.h"

namespace bcdnet {
namespace {

using V = __m512;
constexpr int kLanes = 16;
constexpr int kRealVectors = 2;

#include "plain_words.inl"

inline V load(const float* x) { return _mm512_loadu_ps(x); }
inline void store(float* x, V v) { _mm512_storeu_ps(x, v); }
inline V set1(float x) { return _mm512_set1_ps(x); }
inline V fma(V a, V b, V c) { return _mm512_fmadd_ps(a, b, c); }
inline V mul(V a, V b) { return _mm512_mul_ps(a, b); }
inline V add(V a, V b) { return _mm512_add_ps(a, b); }
inline V leaky(V u, V slope) {
  return _mm512_mask_mul_ps(u, _mm512_cmp_ps_mask(u, _mm512_setzero_ps(), _CMP_NGE_UQ), u, slope);
}
inline uint32_t at_least(V a, V b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
inline V dots(const float* base, const int32_t* differing) {
  return fma(set1(-2.f), _mm512_cvtepi32_ps(_mm512_loadu_si512(differing)), load(base));
}
inline void add_sums(V y, double* sums) {
  const __m512d round = _mm512_set1_pd(kRound);
  const __m256 halves[2] = {_mm512_castps512_ps256(y), _mm512_extractf32x8_ps(y, 1)};
  for (int h = 0; h < 2; ++h) {
    const __m512d exact = _mm512_sub_pd(_mm512_add_pd(_mm512_cvtps_pd(halves[h]), round), round);
    _mm512_storeu_pd(sums + 8 * h, _mm512_add_pd(_mm512_loadu_pd(sums + 8 * h), exact));
  }
}

#include "loops.inl"

template <int kPixels, int kGroups>
struct Differing {
  static void run(const uint8_t* const* rows, int segments, int words, const uint8_t* weights, int32_t* out) {
    constexpr int kVectors = 2 * kGroups;
    __m512i sums[kPixels][kVectors];
    const uint8_t* row[kPixels];
    auto count = [&](int w, auto add) {
      __m512i weight[kVectors];
      unrolled<kVectors>([&](auto v) { weight[v] = _mm512_load_si512(weights + 64 * v); });
      unrolled<kPixels>([&](auto p) {
        const __m512i a = _mm512_set1_epi32(static_cast<int>(word_at(row[p], w)));
        unrolled<kVectors>([&](auto v) {
          const __m512i differ = _mm512_popcnt_epi32(_mm512_xor_si512(a, weight[v]));
          sums[p][v] = add ? _mm512_add_epi32(sums[p][v], differ) : differ;
        });
      });
      weights += 4 * kBlock;
    };
    unrolled<kPixels>([&](auto p) { row[p] = rows[p]; });
    count(0, std::false_type());  // nothing to add to yet, which is a third of the work where one word is all there is
    for (int w = 1;; w = 0) {
      for (; w < words; ++w) count(w, std::true_type());
      if (--segments == 0) break;
      rows += kStrip;
      unrolled<kPixels>([&](auto p) { row[p] = rows[p]; });
    }
    unrolled<kPixels>([&](auto p) {
      unrolled<kVectors>([&](auto v) { _mm512_storeu_si512(out + p * kBlock + 16 * v, sums[p][v]); });
    });
  }
};

}  // namespace

extern const Isa kAvx512{"avx512", true, kActBytes, 4 * kBlock, encode, decode, pack_weights,
                         differing_with<Differing>, real, epilogue, pack, signs, averages, integers<int32_t>, integers<int16_t>};

}  // namespace bcdnet
