// Weights as the kernels read them, and where the bits of a map lie.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <new>

#include "isa.h"

namespace bcdnet {

// Memory at 64-byte boundaries, zeroed when made.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(size_t size) { reserve(size); }
  // Makes room; old contents are lost when the room was too small.
  void reserve(size_t size) {
    if (size <= size_) return;
    data_.reset(static_cast<T*>(::operator new[](size * sizeof(T), std::align_val_t(64))));
    size_ = size;
    std::fill_n(data_.get(), size, T());
  }
  T* get() const { return data_.get(); }
  T& operator[](size_t i) const { return data_[i]; }
  size_t size() const { return size_; }

 private:
  struct Free {
    void operator()(T* p) const { ::operator delete[](p, std::align_val_t(64)); }
  };
  std::unique_ptr<T[], Free> data_;
  size_t size_ = 0;
};

inline size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

// Offsets (rows, columns) of the tokens that a branch reads, one for each quarter of the channels. `distance` of a
// long-range branch; 0 is half of the map.
struct Branch {
  char kind;  // 'P', 'S' or 'L'
  int distance;
  std::array<std::array<int, 2>, 4> offsets(int height, int width) const;
};

// Where the words of a binary product lie on a packed map of one size.
struct Reading {
  int channels, kernel, stride;
  bool quartered;  // the channels of each quarter start at a word of their own
  int size(int side) const { return (side + 2 * (kernel / 2) - kernel) / stride + 1; }
  int words() const;          // 32-bit words of one location
  int quarter_words() const;  // of one quarter, if quartered
};

class Team;

// Binary weights of one branch, ready for the kernels, and the bits they count for taps outside the map.
class BinaryWeights {
 public:
  BinaryWeights() = default;
  // bits: (outputs, taps, bytes of 8 channels)
  BinaryWeights(const Isa& isa, const uint8_t* bits, int outputs, const Reading& reading);
  // Takes the signs of real weights (outputs, taps, channels) in place of what was there; channels in multiples of 32.
  void take_signs(const Isa& isa, Team& team, const float* weights, int outputs, const Reading& reading);
  const uint8_t* block(size_t b) const { return packed_.get() + b * block_bytes_; }
  size_t block_bytes() const { return block_bytes_; }
  // (16, outputs): by border (1 top, 2 bottom, 4 left, 8 right missing), valid taps * channels + 2 * bits of the others.
  const int32_t* base() const { return base_.get(); }
  const float* real_base() const { return real_base_.get(); }  // the same numbers, below 2^24
  size_t base_stride() const { return outputs_; }

 private:
  void make_room(const Isa& isa, int outputs, const Reading& reading);
  void set_bases(const Reading& reading);

  Buffer<uint8_t> packed_;
  Buffer<int32_t> ones_;  // (outputs, taps)
  Buffer<int32_t> base_;
  Buffer<float> real_base_;
  size_t block_bytes_ = 0, outputs_ = 0;
};

// The bit of a channel lies here in the words of a location.
inline size_t bit_place(const Reading& reading, int c) {
  if (!reading.quartered) return c;
  const int quarter = reading.channels / 4;
  return 32 * static_cast<size_t>(c / quarter) * reading.quarter_words() + c % quarter;
}

// Real weights, (groups, blocks, depth, 64).
struct RealWeights {
  RealWeights() = default;
  RealWeights(const float* weights, int outputs, int depth, int groups = 1);
  Buffer<float> packed;
  int outputs = 0, depth = 0, groups = 1;
  size_t blocks() const { return round_up(outputs / groups, kBlock) / kBlock; }
};

}  // namespace bcdnet
