// What every instruction set provides: the inner loops, behind one table of functions.
//
// A packed map holds one bit per channel, in the order of the channels: bit i of a 32-bit word is channel 32 w + i, 1
// for +1. An instruction set may keep its maps and weights in a form of its own; `act_bytes` and `weight_bytes` say how
// large it is, `encode` and `decode` convert. All maps are laid out (height, width, channels), channels padded with
// zeros to a multiple of 32.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace bcdnet {

constexpr int kTile = 6;    // locations whose sums fit the registers
constexpr int kStrip = 24;  // locations that are handed over at once, at most
constexpr int kBlock = 64;  // output channels that are computed at once
constexpr int kGroup = 32;  // channels that are packed at once

// The quantum of channel sums: each value is rounded to a multiple of 2^-26 before it is added in double precision, so
// that every sum is exact and does not depend on the order of addition or the number of threads.
constexpr double kRound = 1.5 * (1 << 26);

// The real-valued rest of a unit, for a strip of locations and a block of output channels:
// y = RPReLU(residual + sum_b dot_b * scale_b + bias), and the bits of y against the next unit's thresholds. Location p
// of the strip is location `at[p]` of the maps, whose locations lie `..._stride` apart.
struct Epilogue {
  int pixels, groups, branches;  // groups of 32 channels, 1 or 2
  const int32_t* at;
  const int32_t* differing;  // (branches, kStrip, kBlock) bits that differ: dot = base - 2 * differing
  const float* real;         // (kStrip, kBlock) in their place, if not null
  const float* base;         // of border 0
  size_t base_stride;        // from border to border
  const int32_t* borders;
  const float* scale;  // (branches, scale_stride)
  size_t scale_stride;
  const float *bias, *slope, *shift;
  const float* residual;
  size_t residual_stride;
  size_t residual_offset[2];  // of each group
  float* out;
  size_t out_stride;
  const int32_t* out_at;   // in place of `at`
  const float* threshold;  // null: no bits
  uint8_t* bits;
  size_t bits_stride;
  double* sums;  // null: no channel sums
};

// In its place whole numbers of 16 or 32 bits: base - 2 * differing of a strip, for one branch and `columns` channels.
template <typename T>
struct Integers {
  int pixels, columns;
  const int32_t* at;
  const int32_t* differing;  // (kStrip, kBlock)
  const int32_t* base;       // of border 0
  size_t base_stride;
  const int32_t* borders;
  T* out;
  size_t stride;  // from location to location
};

struct Isa {
  const char* name;
  bool plain;        // a packed map is the plain words themselves
  int act_bytes;     // bytes of 32 channels of a packed map
  int weight_bytes;  // bytes of 32 input channels of a block of weights
  // Plain words <-> this set's form of a packed map.
  void (*encode)(const uint32_t* plain, uint8_t* act, size_t words);
  void (*decode)(const uint8_t* act, uint32_t* plain, size_t words);
  // plain: (kBlock, words), rows `stride` words apart.
  void (*pack_weights)(const uint32_t* plain, size_t stride, size_t words, uint8_t* out);
  // Bits that differ between rows of a map and a block of weights. rows: (segments, kStrip) addresses of `words` words
  // each; out: (kStrip, kBlock); groups of 32 output channels, 1 or 2.
  void (*differing)(const uint8_t* const* rows, int segments, int words, int pixels, const uint8_t* weights, int groups,
                    int32_t* out);
  // Real products: out[p][o] = sum_k rows[p][places[k]] weights[k][o], or rows[p][k] if places is null; weights
  // (depth, kBlock), out (kStrip, kBlock).
  void (*real)(const float* const* rows, const int32_t* places, int depth, int pixels, const float* weights, int groups,
               float* out);
  void (*epilogue)(const Epilogue& strip);
  // Bits of x >= threshold for one location, `groups` of 32 channels.
  void (*pack)(const float* x, const float* threshold, uint8_t* bits, size_t groups);
  // The same for up to 32 channels that lie `stride` apart, as plain words of neighbouring locations.
  void (*signs)(const float* x, size_t stride, const float* thresholds, int channels, int locations, uint32_t* words);
  // Of the 2 x 2 locations `top`, `top + stride`, `bottom`, `bottom + stride`.
  void (*averages)(const float* top, const float* bottom, size_t stride, size_t columns, float* out);
  void (*integers)(const Integers<int32_t>& strip);
  void (*shorts)(const Integers<int16_t>& strip);
};

// Every set this build has, best first; those the processor lacks are left out.
size_t available(const Isa** sets, size_t most);
const Isa& required(const std::string& name);  // std::invalid_argument if it is not available

}  // namespace bcdnet
