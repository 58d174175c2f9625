#include "weights.h"

#include <bit>

#include "team.h"

namespace bcdnet {

std::array<std::array<int, 2>, 4> Branch::offsets(int height, int width) const {
  int rows = 0, columns = 0;
  if (kind == 'S') rows = columns = 1;
  if (kind == 'L') rows = distance ? distance : height / 2, columns = distance ? distance : width / 2;
  return {{{-rows, 0}, {rows, 0}, {0, -columns}, {0, columns}}};
}

int Reading::quarter_words() const { return (channels / 4 + 31) / 32; }

int Reading::words() const { return quartered ? 4 * quarter_words() : (channels + 31) / 32; }

BinaryWeights::BinaryWeights(const Isa& isa, const uint8_t* bits, int outputs, const Reading& reading) {
  make_room(isa, outputs, reading);
  const size_t taps = static_cast<size_t>(reading.kernel) * reading.kernel, words = reading.words();
  const size_t bytes = (reading.channels + 7) / 8, row = taps * words;
  Buffer<uint32_t> plain(outputs_ * row);
  for (int o = 0; o < outputs; ++o)
    for (size_t t = 0; t < taps; ++t)
      for (int c = 0; c < reading.channels; ++c)
        if (bits[(o * taps + t) * bytes + c / 8] >> (c % 8) & 1) {
          const size_t place = bit_place(reading, c);
          plain[o * row + t * words + place / 32] |= 1u << (place % 32);
          ++ones_[o * taps + t];
        }
  for (size_t b = 0; b < outputs_ / kBlock; ++b)
    isa.pack_weights(plain.get() + b * kBlock * row, row, row, packed_.get() + b * block_bytes_);
  set_bases(reading);
}

void BinaryWeights::take_signs(const Isa& isa, Team& team, const float* weights, int outputs, const Reading& reading) {
  make_room(isa, outputs, reading);
  const size_t taps = static_cast<size_t>(reading.kernel) * reading.kernel, words = reading.words(), row = taps * words;
  const Buffer<float> zeros(row * kGroup);
  const Buffer<uint8_t> forms(team.threads() * row * isa.act_bytes);
  const Buffer<uint32_t> plains(team.threads() * kBlock * row);
  team.loop(outputs_ / kBlock, [&](size_t first, size_t last, int member) {
    uint8_t* form = forms.get() + member * row * isa.act_bytes;
    uint32_t* plain = plains.get() + member * kBlock * row;
    for (size_t b = first; b < last; ++b) {
      for (size_t o = b * kBlock; o < std::min<size_t>(outputs, (b + 1) * kBlock); ++o) {
        uint32_t* to = plain + o % kBlock * row;
        isa.pack(weights + o * row * kGroup, zeros.get(), form, row);
        isa.decode(form, to, row);
        for (size_t t = 0; t < taps; ++t) {
          int32_t& ones = ones_[o * taps + t] = 0;
          for (size_t w = 0; w < words; ++w) ones += std::popcount(to[t * words + w]);
        }
      }
      isa.pack_weights(plain, row, row, packed_.get() + b * block_bytes_);
    }
  });
  set_bases(reading);
}

void BinaryWeights::make_room(const Isa& isa, int outputs, const Reading& reading) {
  const size_t taps = static_cast<size_t>(reading.kernel) * reading.kernel;
  outputs_ = round_up(outputs, kBlock);
  block_bytes_ = isa.weight_bytes * taps * reading.words();
  packed_.reserve(outputs_ / kBlock * block_bytes_);
  ones_.reserve(outputs_ * taps), base_.reserve(16 * outputs_), real_base_.reserve(16 * outputs_);
}

void BinaryWeights::set_bases(const Reading& reading) {
  const int k = reading.kernel, taps = k * k;
  for (int border = 0; border < 16; ++border)
    for (size_t o = 0; o < outputs_; ++o) {
      int32_t base = 0;
      for (int y = 0; y < k; ++y)
        for (int x = 0; x < k; ++x) {
          const bool outside = (border & 1 && y == 0) || (border & 2 && y == k - 1) || (border & 4 && x == 0) ||
                               (border & 8 && x == k - 1);
          // Bits outside are zeros, so what differs there are the weights' ones, counted twice by 2 * differing.
          base += outside && k > 1 ? 2 * ones_[o * taps + y * k + x] : reading.channels;
        }
      base_[border * outputs_ + o] = base;
      real_base_[border * outputs_ + o] = static_cast<float>(base);
    }
}

RealWeights::RealWeights(const float* weights, int outputs_in, int depth_in, int groups_in)
    : outputs(outputs_in), depth(depth_in), groups(groups_in) {
  const size_t each = outputs / groups;
  packed.reserve(groups * blocks() * depth * kBlock);
  for (int g = 0; g < groups; ++g)
    for (size_t o = 0; o < each; ++o)
      for (int k = 0; k < depth; ++k)
        packed[((g * blocks() + o / kBlock) * depth + k) * kBlock + o % kBlock] = weights[(g * each + o) * depth + k];
}

}  // namespace bcdnet
