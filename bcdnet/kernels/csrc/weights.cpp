#include "weights.h"

namespace bcdnet {

std::array<std::array<int, 2>, 4> Branch::offsets(int height, int width) const {
  int rows = 0, columns = 0;
  if (kind == 'S') rows = columns = 1;
  if (kind == 'L') rows = distance ? distance : height / 2, columns = distance ? distance : width / 2;
  return {{{-rows, 0}, {rows, 0}, {0, -columns}, {0, columns}}};
}

int Reading::quarter_words() const { return (channels / 4 + 31) / 32; }

int Reading::words() const { return quartered ? 4 * quarter_words() : (channels + 31) / 32; }

BinaryWeights::BinaryWeights(const Isa& isa, const uint8_t* bits, int outputs, const Reading& reading)
    : outputs_(round_up(outputs, kBlock)) {
  const size_t taps = static_cast<size_t>(reading.kernel) * reading.kernel, words = reading.words();
  const size_t bytes = (reading.channels + 7) / 8, row = taps * words;
  Buffer<uint32_t> plain(outputs_ * row);
  Buffer<int32_t> ones(outputs_ * taps);
  for (int o = 0; o < outputs; ++o)
    for (size_t t = 0; t < taps; ++t)
      for (int c = 0; c < reading.channels; ++c)
        if (bits[(o * taps + t) * bytes + c / 8] >> (c % 8) & 1) {
          const size_t place = bit_place(reading, c);
          plain[o * row + t * words + place / 32] |= 1u << (place % 32);
          ++ones[o * taps + t];
        }
  block_bytes_ = isa.weight_bytes * row;
  packed_.reserve(outputs_ / kBlock * block_bytes_);
  for (size_t b = 0; b < outputs_ / kBlock; ++b)
    isa.pack_weights(plain.get() + b * kBlock * row, row, row, packed_.get() + b * block_bytes_);

  base_.reserve(16 * outputs_), real_base_.reserve(16 * outputs_);
  const int k = reading.kernel;
  for (int border = 0; border < 16; ++border)
    for (size_t o = 0; o < outputs_; ++o) {
      int32_t base = 0;
      for (int y = 0; y < k; ++y)
        for (int x = 0; x < k; ++x) {
          const bool outside = (border & 1 && y == 0) || (border & 2 && y == k - 1) || (border & 4 && x == 0) ||
                               (border & 8 && x == k - 1);
          // Bits outside are zeros, so what differs there are the weights' ones, counted twice by 2 * differing.
          base += outside && k > 1 ? 2 * ones[o * taps + y * k + x] : reading.channels;
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
