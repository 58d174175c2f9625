// AVX2 has no vector popcount, but its byte shuffle looks 32 bytes up at once. The 16 x 16 table T[a][w] =
// popcount(a xor w) of two nibbles has 16-byte rows; an activation's nibble chooses the row, and the weights' nibbles
// of 32 output channels index it: one shuffle and one byte addition make 128 multiply-accumulates, two instructions where
// xor and a popcount by two shuffles need about four. A packed map therefore keeps each nibble in a byte, already multiplied
// by the 16 bytes of a row, and weights keep one nibble a byte. Byte sums are widened before they can pass 255.
#include <immintrin.h>

#include <cstring>

#include "isa.h"

namespace bcdnet {
namespace {

using V = __m256;
constexpr int kLanes = 8;
constexpr int kRealVectors = 2;
constexpr int kActBytes = 8;

struct Tables {
  alignas(64) uint8_t rows[16][16] = {};
  uint16_t nibbles[256] = {};  // a byte of bits -> two bytes, each a nibble times 16
  constexpr Tables() {
    for (int a = 0; a < 16; ++a)
      for (int w = 0; w < 16; ++w) rows[a][w] = static_cast<uint8_t>(__builtin_popcount(a ^ w));
    for (int b = 0; b < 256; ++b) nibbles[b] = static_cast<uint16_t>((b & 15) << 4 | (b >> 4) << 12);
  }
};
// Computed by the compiler: nothing of this file may run on a processor without AVX2.
constexpr Tables kTables;

inline V load(const float* x) { return _mm256_loadu_ps(x); }
inline void store(float* x, V v) { _mm256_storeu_ps(x, v); }
inline V set1(float x) { return _mm256_set1_ps(x); }
inline V fma(V a, V b, V c) { return _mm256_fmadd_ps(a, b, c); }
inline V mul(V a, V b) { return _mm256_mul_ps(a, b); }
inline V add(V a, V b) { return _mm256_add_ps(a, b); }
inline V leaky(V u, V slope) {
  return _mm256_blendv_ps(mul(u, slope), u, _mm256_cmp_ps(u, _mm256_setzero_ps(), _CMP_GE_OQ));
}
inline uint32_t at_least(V a, V b) {
  return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_cmp_ps(a, b, _CMP_GE_OQ)));
}
inline V dots(const float* base, const int32_t* differing) {
  const __m256i d = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(differing));
  return fma(set1(-2.f), _mm256_cvtepi32_ps(d), load(base));
}
inline void add_sums(V y, double* sums) {
  const __m256d round = _mm256_set1_pd(kRound);
  const __m128 halves[2] = {_mm256_castps256_ps128(y), _mm256_extractf128_ps(y, 1)};
  for (int h = 0; h < 2; ++h) {
    const __m256d exact = _mm256_sub_pd(_mm256_add_pd(_mm256_cvtps_pd(halves[h]), round), round);
    _mm256_storeu_pd(sums + 4 * h, _mm256_add_pd(_mm256_loadu_pd(sums + 4 * h), exact));
  }
}

void store_bits(uint8_t* bits, uint32_t mask) {
  const uint64_t low = kTables.nibbles[mask & 255] | static_cast<uint32_t>(kTables.nibbles[mask >> 8 & 255]) << 16;
  const uint64_t high = kTables.nibbles[mask >> 16 & 255] | static_cast<uint32_t>(kTables.nibbles[mask >> 24]) << 16;
  const uint64_t all = low | high << 32;
  std::memcpy(bits, &all, sizeof all);
}

void encode(const uint32_t* plain, uint8_t* act, size_t words) {
  for (size_t w = 0; w < words; ++w) store_bits(act + kActBytes * w, plain[w]);
}

void decode(const uint8_t* act, uint32_t* plain, size_t words) {
  for (size_t w = 0; w < words; ++w) {
    uint32_t word = 0;
    for (int n = 0; n < 8; ++n) word |= static_cast<uint32_t>(act[kActBytes * w + n] >> 4) << (4 * n);
    plain[w] = word;
  }
}

// Byte 2 i of a vector is output channel i, byte 2 i + 1 is channel 16 + i: even and odd bytes are widened apart.
void pack_weights(const uint32_t* plain, size_t stride, size_t words, uint8_t* out) {
  for (size_t w = 0; w < words; ++w)
    for (int n = 0; n < 8; ++n)
      for (int o = 0; o < kBlock; ++o, ++out) {
        const int channel = (o & ~31) + (o & 1) * 16 + (o & 31) / 2;
        *out = static_cast<uint8_t>(plain[channel * stride + w] >> (4 * n) & 15);
      }
}

#include "loops.inl"

// At most 63 nibbles, 4 differing bits each, fit a byte; 7 words are 56.
constexpr int kWordsOfBytes = 7;
// 16-bit sums take 65,535 bits, which is 2,047 words.
constexpr int kWordsOfShorts = 2040;

template <int kPixels, int kGroups>
struct Differing {
  using Bytes = __m256i[kPixels][kGroups];
  using Shorts = __m256i[kPixels][2 * kGroups];

  static void widen(Bytes& bytes, Shorts& shorts) {
    const __m256i low = _mm256_set1_epi16(255);
    for (int p = 0; p < kPixels; ++p)
      for (int g = 0; g < kGroups; ++g) {
        shorts[p][2 * g] = _mm256_add_epi16(shorts[p][2 * g], _mm256_and_si256(bytes[p][g], low));
        shorts[p][2 * g + 1] = _mm256_add_epi16(shorts[p][2 * g + 1], _mm256_srli_epi16(bytes[p][g], 8));
        bytes[p][g] = _mm256_setzero_si256();
      }
  }

  static void flush(Shorts& shorts, int32_t* out) {
    for (int p = 0; p < kPixels; ++p)
      for (int s = 0; s < 2 * kGroups; ++s) {
        const __m128i halves[2] = {_mm256_castsi256_si128(shorts[p][s]), _mm256_extracti128_si256(shorts[p][s], 1)};
        for (int h = 0; h < 2; ++h) {
          auto* to = reinterpret_cast<__m256i*>(out + p * kBlock + 16 * s + 8 * h);
          _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_cvtepu16_epi32(halves[h])));
        }
        shorts[p][s] = _mm256_setzero_si256();
      }
  }

  static void run(const uint8_t* const* rows, int segments, int words, const uint8_t* weights, int32_t* out) {
    const uint8_t* table = kTables.rows[0];
    Bytes bytes;
    Shorts shorts;
    for (int p = 0; p < kPixels; ++p) {
      for (int g = 0; g < kGroups; ++g) bytes[p][g] = _mm256_setzero_si256();
      for (int s = 0; s < 2 * kGroups; ++s) shorts[p][s] = _mm256_setzero_si256();
      std::memset(out + p * kBlock, 0, 4 * kGroup * kGroups);
    }
    int of_bytes = 0, of_shorts = 0;
    for (int s = 0; s < segments; ++s, rows += kStrip) {
      const uint8_t* row[kPixels];
      for (int p = 0; p < kPixels; ++p) row[p] = rows[p];
      for (int left = words; left > 0;) {
        if (of_bytes == kWordsOfBytes) {
          widen(bytes, shorts);
          of_bytes = 0;
        }
        if (of_shorts >= kWordsOfShorts) {
          flush(shorts, out);
          of_shorts = of_bytes;  // which the shorts have yet to take over
        }
        const int now = left < kWordsOfBytes - of_bytes ? left : kWordsOfBytes - of_bytes;
        for (int n = 0; n < 8 * now; ++n, weights += kBlock) {
          __m256i weight[kGroups];
          for (int g = 0; g < kGroups; ++g)
            weight[g] = _mm256_load_si256(reinterpret_cast<const __m256i*>(weights + 32 * g));
          for (int p = 0; p < kPixels; ++p) {
            const __m256i looked_up =
                _mm256_broadcastsi128_si256(_mm_load_si128(reinterpret_cast<const __m128i*>(table + row[p][n])));
            for (int g = 0; g < kGroups; ++g)
              bytes[p][g] = _mm256_add_epi8(bytes[p][g], _mm256_shuffle_epi8(looked_up, weight[g]));
          }
        }
        for (int p = 0; p < kPixels; ++p) row[p] += kActBytes * now;
        left -= now, of_bytes += now, of_shorts += now;
      }
    }
    widen(bytes, shorts);
    flush(shorts, out);
  }
};

}  // namespace

extern const Isa kAvx2{"avx2", false, kActBytes, 8 * kBlock, encode, decode, pack_weights,
                       differing_with<Differing>, real, epilogue, pack, signs, averages, integers<int32_t>, integers<int16_t>};

}  // namespace bcdnet
