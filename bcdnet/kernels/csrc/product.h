// The integer operators by themselves, for callers in Python: bits in, whole numbers out.
#pragma once

#include <string>
#include <vector>

#include "counting.h"

namespace bcdnet {

// Integer products of +-1 by themselves: a convolution, or the branches of an MLP.
class Product {
 public:
  // bits: (branches or 1, outputs, taps, bytes of 8 channels)
  Product(const std::string& isa, int threads, const uint8_t* bits, int outputs, const Reading& reading,
          std::vector<Branch> branches);
  int size(int side) const { return reading_.size(side); }
  int outputs() const { return outputs_; }
  int terms() const { return static_cast<int>(weights_.size()); }
  int words() const { return (reading_.channels + 63) / 64; }
  // bits: (count, height, width, words of 64 channels); out: (branches or 1, count, size, size, outputs)
  void run(const uint64_t* bits, int count, int height, int width, int32_t* out);

 private:
  size_t scratch_words() const { return 2 * words() + reading_.words(); }
  // The bits in this set's form, which may be the bits themselves.
  PackedMap map_of(const uint64_t* bits, size_t images, int height, int width);

  const Isa* isa_;
  Team team_;
  std::mutex team_free_;
  int outputs_;
  Reading reading_;
  std::vector<Branch> branches_;
  std::vector<BinaryWeights> weights_;
  Buffer<uint8_t> acts_, zeros_;  // kept from call to call, as new memory costs more than a small product
  Buffer<uint32_t> scratch_;
};

// Products of the signs of real maps with the signs of real weights, as training computes and keeps them, in 16 bits:
// weights are new in every call; the memory of maps and packed weights is kept.
class SignProduct {
 public:
  SignProduct(const std::string& isa, int threads) : isa_(&required(isa)), team_(threads), weights_(1) {}
  // x: (count, height, width, channels), weight: (outputs, kernel, kernel, channels), channels in multiples of 32
  // and at most 2^15 - 1 products a sum;
  // out: (count, ceil(height / stride), ceil(width / stride), outputs)
  void run(const float* x, int count, int height, int width, const float* weight, int outputs, const Reading& reading,
           int16_t* out);

 private:
  const Isa* isa_;
  Team team_;
  std::mutex team_free_;
  std::vector<BinaryWeights> weights_;
  Buffer<uint8_t> acts_, zeros_;
};

// (count, channels, height, width) against (channels) or (count, channels) thresholds -> (count, height, width, words)
void pack_signs(const std::string& isa, const float* x, int count, int channels, int height, int width,
                const float* thresholds, bool per_image, uint64_t* bits);

}  // namespace bcdnet
