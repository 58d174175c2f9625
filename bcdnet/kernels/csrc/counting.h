// How a binary product goes over a map: strip by strip of locations, block by block of output channels. Which words a
// location reads is a table of addresses, so that taps, strides, zeros outside the map and the shifts of an MLP's
// branches cost the kernels nothing and are never copied.
#pragma once

#include <vector>

#include "team.h"
#include "weights.h"

namespace bcdnet {

// Weights that a member reads again and again should stay in its level-2 cache beside the maps.
constexpr size_t kCachedWeights = 160 << 10;
constexpr size_t kMostBranches = 9, kMostTaps = 9;

// A loop on a team, or on the caller alone.
inline void loop(Team* team, size_t count, Body body) {
  if (team)
    team->loop(count, body);
  else if (count)
    body(0, count, 0);
}

inline int members(const Team* team) { return team ? team->threads() : 1; }

// The locations of a map, cut into strips of nearly equal length, row by row; or, `in_squares`, square of 2 x 2 by square,
// as the next unit's shortcut averages them.
struct Strips {
  size_t height, width, side, count;
  Strips(size_t h, size_t w, bool in_squares = false) : height(h), width(w), side(in_squares ? 2 : 1) {
    const size_t most = kStrip / (side * side);
    count = (h / side * (w / side) + most - 1) / most;
  }
};

struct Strip {
  int pixels = 0;
  int first;           // location, or square, if in squares
  int32_t at[kStrip];  // y * width + x

  Strip(const Strips& strips, size_t index) : strips_(strips) {
    const size_t w = strips.width, columns = w / strips.side, all = strips.height / strips.side * columns;
    first = static_cast<int>(index * all / strips.count);
    const int end = static_cast<int>((index + 1) * all / strips.count);
    if (strips.side == 1) {
      for (; first + pixels < end; ++pixels) at[pixels] = first + pixels;
      return;
    }
    size_t column = first % columns;
    int corner = static_cast<int>(2 * (first / columns * w + column));
    for (int i = first; i < end; ++i, pixels += 4, corner += 2) {
      const int width = static_cast<int>(w);
      at[pixels] = corner, at[pixels + 1] = corner + 1;
      at[pixels + 2] = corner + width, at[pixels + 3] = corner + width + 1;
      if (++column == columns) column = 0, corner += width + width % 2;
    }
  }

  // Row and column of each location.
  void places(int* y, int* x) const {
    const int w = static_cast<int>(strips_.width);
    int row = at[0] / w;
    for (int p = 0; p < pixels; ++p) {
      while (at[p] < row * w) --row;
      while (at[p] >= (row + 1) * w) ++row;
      y[p] = row, x[p] = at[p] - row * w;
    }
  }

 private:
  const Strips& strips_;
};

inline int groups_of(size_t outputs, size_t block) {
  return static_cast<int>(std::min<size_t>(kBlock, round_up(outputs, kGroup) - block * kBlock) / kGroup);
}

// A packed map of one image, and what lies outside of it.
struct PackedMap {
  const uint8_t* data;
  const uint8_t* zeros;
  int height, width;
  size_t row_bytes;  // of one location
};

// Addresses of the taps of a convolution, and each location's border: 1 top, 2 bottom, 4 left, 8 right.
inline void conv_rows(const PackedMap& map, const Reading& reading, const Strip& strip, const uint8_t** rows, int32_t* borders) {
  const auto row_bytes = static_cast<ptrdiff_t>(map.row_bytes);
  const int k = reading.kernel, pad = k / 2;
  if (k == 1 && reading.stride == 1) {
    for (int p = 0; p < strip.pixels; ++p) rows[p] = map.data + strip.at[p] * row_bytes, borders[p] = 0;
    return;
  }
  ptrdiff_t taps[kMostTaps];
  for (int t = 0; t < k * k; ++t) taps[t] = (static_cast<ptrdiff_t>(t / k) * map.width + t % k) * row_bytes;
  int ys[kStrip], xs[kStrip];
  const uint8_t* corners[kStrip];
  strip.places(ys, xs);
  for (int p = 0; p < strip.pixels; ++p) {
    const int y = ys[p] = ys[p] * reading.stride - pad, x = xs[p] = xs[p] * reading.stride - pad;
    corners[p] = map.data + (static_cast<ptrdiff_t>(y) * map.width + x) * row_bytes;
    borders[p] = (y < 0) | (y + k > map.height) << 1 | (x < 0) << 2 | (x + k > map.width) << 3;
  }
  for (int t = 0; t < k * k; ++t)
    for (int p = 0; p < strip.pixels; ++p) rows[t * kStrip + p] = corners[p] + taps[t];
  for (int p = 0; p < strip.pixels; ++p)
    for (int t = 0; borders[p] && t < k * k; ++t) {
      const int row = ys[p] + t / k, column = xs[p] + t % k;
      if (row < 0 || row >= map.height || column < 0 || column >= map.width) rows[t * kStrip + p] = map.zeros;
    }
}

// Addresses of the tokens that one branch reads: one segment, or one for each quarter of the channels. Offsets are
// those of Branch::offsets, made non-negative.
inline void branch_rows(const PackedMap& map, char kind, const std::array<std::array<int, 2>, 4>& offsets, const Strip& strip,
                 const uint8_t** rows) {
  if (kind == 'P') {
    for (int p = 0; p < strip.pixels; ++p) rows[p] = map.data + strip.at[p] * map.row_bytes;
    return;
  }
  int ys[kStrip], xs[kStrip];
  strip.places(ys, xs);
  for (int q = 0; q < 4; ++q)
    for (int p = 0; p < strip.pixels; ++p) {
      int y = ys[p] + offsets[q][0], x = xs[p] + offsets[q][1];
      if (y >= map.height) y -= map.height;
      if (x >= map.width) x -= map.width;
      rows[q * kStrip + p] = map.data + (static_cast<size_t>(y) * map.width + x) * map.row_bytes + q * map.row_bytes / 4;
    }
}

// Bits that differ, for every branch of a unit, strip by strip and block by block; `finish` gets each.
struct Counting {
  const Isa* isa;
  const std::vector<BinaryWeights>* weights;
  const std::vector<Branch>* branches;  // empty: a convolution
  const Reading* reading;
  int outputs, out_height, out_width;

  // start(strip) once for each strip, then for each block finish(strip, block, groups, differing, borders, member)
  template <typename Start, typename Finish>
  void run(const PackedMap& map, Team* team, bool in_squares, const Start& start, const Finish& finish) const {
    const Strips strips(out_height, out_width, in_squares);
    const size_t blocks = round_up(outputs, kBlock) / kBlock;
    const size_t bytes = std::max<size_t>(1, weights->front().block_bytes() * weights->size());
    size_t at_once = std::clamp<size_t>(kCachedWeights / bytes, 1, blocks);
    // Few strips, as on 7x7 maps, are shared out by output channels instead.
    while (at_once > 1 && strips.count * (blocks / at_once) < 8 * static_cast<size_t>(members(team))) at_once /= 2;
    const size_t parts = (blocks + at_once - 1) / at_once;
    const size_t taps = static_cast<size_t>(reading->kernel) * reading->kernel;
    std::array<std::array<int, 2>, 4> offsets[kMostBranches];
    for (size_t b = 0; b < branches->size(); ++b) {
      offsets[b] = (*branches)[b].offsets(map.height, map.width);
      for (auto& offset : offsets[b]) {
        offset[0] = (offset[0] % map.height + map.height) % map.height;
        offset[1] = (offset[1] % map.width + map.width) % map.width;
      }
    }
    loop(team, parts * strips.count, [&](size_t first, size_t last, int member) {
      const uint8_t* rows[kMostBranches][kMostTaps * kStrip];
      int32_t borders[kStrip] = {};
      alignas(64) int32_t differing[kMostBranches * kStrip * kBlock];
      for (size_t task = first; task < last; ++task) {
        const size_t part = task / strips.count;
        const Strip strip(strips, task % strips.count);
        if (branches->empty()) conv_rows(map, *reading, strip, rows[0], borders);
        for (size_t b = 0; b < branches->size(); ++b) branch_rows(map, (*branches)[b].kind, offsets[b], strip, rows[b]);
        start(strip);
        for (size_t block = part * at_once; block < std::min(blocks, (part + 1) * at_once); ++block) {
          const int groups = groups_of(outputs, block);
          for (size_t b = 0; b < weights->size(); ++b) {
            const bool whole = branches->empty() || (*branches)[b].kind == 'P';
            const int segments = branches->empty() ? static_cast<int>(taps) : whole ? 1 : 4;
            isa->differing(rows[b], segments, whole ? reading->words() : reading->words() / 4, strip.pixels,
                           (*weights)[b].block(block), groups, differing + b * kStrip * kBlock);
          }
          finish(strip, block, groups, differing, borders, member);
        }
      }
    });
  }
};

// Plain words of one location -> words in which every quarter starts anew.
inline void quarter(const uint32_t* plain, int channels, int quarter_words, uint32_t* out) {
  std::fill_n(out, 4 * quarter_words, 0u);
  for (int c = 0; c < channels; ++c) {
    const int q = c / (channels / 4), i = c % (channels / 4);
    out[q * quarter_words + i / 32] |= (plain[c / 32] >> (c % 32) & 1u) << (i % 32);
  }
}

}  // namespace bcdnet
