// A network as a list of fused units, and what runs it. Parameters come folded from Python (bcdnet/engine.py); the
// arithmetic of every unit, down to the order of its roundings, is specified by bcdnet/kernels/reference.py.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <vector>

#include "isa.h"
#include "team.h"

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
  int words() const;          // 32-bit words of one location
  int quarter_words() const;  // of one quarter, if quartered
};

// Binary weights of one branch, ready for the kernels, and the bits they count for taps outside the map.
class BinaryWeights {
 public:
  // plain: (outputs, taps, words of 32 channels)
  BinaryWeights(const Isa& isa, const uint8_t* bits, int outputs, const Reading& reading);
  const uint8_t* block(size_t b) const { return packed_.get() + b * block_bytes_; }
  size_t block_bytes() const { return block_bytes_; }
  // (16, outputs): by border (1 top, 2 bottom, 4 left, 8 right missing), valid taps * channels + 2 * bits of the others.
  const int32_t* base() const { return base_.get(); }
  size_t base_stride() const { return outputs_; }

 private:
  Buffer<uint8_t> packed_;
  Buffer<int32_t> base_;
  size_t block_bytes_ = 0, outputs_ = 0;
};

// Real weights, (groups, blocks, depth, 64).
struct RealWeights {
  RealWeights() = default;
  RealWeights(const float* weights, int outputs, int depth, int groups = 1);
  Buffer<float> packed;
  int outputs = 0, depth = 0, groups = 1;
  size_t blocks() const { return round_up(outputs / groups, kBlock) / kBlock; }
};

struct Embedding {
  int context = 0;
  Buffer<float> reduce, reduce_bias;        // (inputs, context): transposed, so that outputs are neighbours
  Buffer<float> threshold, threshold_bias;  // (context, inputs)
  Buffer<float> offset, offset_bias;        // (context, outputs)
  Buffer<float> gain;                       // (outputs) of the batch norm
};

struct Affine {
  Buffer<float> scale, bias;
};

struct Unit {
  std::string name;
  Reading reading{};
  int outputs = 0;
  bool real = false;  // a real 1x1 convolution reads the map itself
  std::vector<Branch> branches;  // of an MLP; empty for a convolution
  std::vector<BinaryWeights> weights;
  RealWeights real_weights;
  Buffer<float> threshold;  // (inputs); NaN in the padding, which no value is at least, not even an infinite one
  Buffer<float> scale;      // (branches, outputs)
  Buffer<float> bias, slope, shift;
  std::unique_ptr<Embedding> embedding;
  bool pooled = false;  // the shortcut is averaged over 2x2
  int repeat = 1;       // and repeated
  std::unique_ptr<RealWeights> shortcut;  // or sent through a real 1x1 convolution
  Affine shortcut_affine;
};

struct Stem {
  int channels = 0, kernel = 0, stride = 0, outputs = 0;
  bool pooled = false;
  RealWeights weights;
  Buffer<float> scale, bias;
};

// What a traced unit saw and gave; arrays are (channels, height, width).
struct Traced {
  std::string name;
  int channels = 0, height = 0, width = 0;
  std::vector<float> output;
  int inputs = 0, in_height = 0, in_width = 0;
  std::vector<uint8_t> bits;  // of the input, one byte each; empty where the unit reads real values
  std::vector<float> thresholds;
  int64_t nanoseconds = 0;
};

class Plan {
 public:
  Plan(const std::string& isa, int threads);
  ~Plan();

  void set_stem(Stem stem);
  void add_unit(Unit unit);
  void set_head(const float* weights, const float* bias, int classes, int features);

  const Isa& isa() const { return *isa_; }
  int threads() const { return team_.threads(); }
  int classes() const { return head_.outputs; }
  int channels() const { return stem_.channels; }

  // images: (count, channels, height, width); logits: (count, classes). Any number of callers at once.
  void run(const float* images, size_t count, int height, int width, float* logits);
  // One image, unit by unit; with `values` false, times only.
  std::vector<Traced> trace(const float* image, int height, int width, bool values, float* logits);

 private:
  struct Workspace;
  struct Size {
    int height, width;
  };

  std::unique_ptr<Workspace> take();
  void give_back(std::unique_ptr<Workspace> space);
  void prepare(Workspace& space, int height, int width, int members) const;
  void run_image(const float* image, Workspace& space, Team* team, float* logits, std::vector<Traced>* traced,
                 bool values) const;
  Size run_stem(const float* image, Workspace& space, Team* team) const;
  void run_unit(const Unit& unit, const Unit* next, Size& size, Workspace& space, Team* team, bool keep) const;
  void run_head(Size size, Workspace& space, Team* team, float* logits) const;
  const float* shortcut(const Unit& unit, Size in, Size out, Workspace& space, Team* team) const;
  void ready_bits(const Unit& unit, Size size, Workspace& space, Team* team) const;
  void embed(const Unit& unit, Size size, Workspace& space) const;

  const Isa* isa_;
  Stem stem_;
  std::vector<Unit> units_;
  RealWeights head_;
  Buffer<float> head_bias_;

  Team team_;
  std::mutex team_free_, spaces_mutex_;
  std::vector<std::unique_ptr<Workspace>> spaces_;
};

// Integer products of +-1 by themselves: a convolution, or the branches of an MLP.
class Product {
 public:
  // bits: (branches or 1, outputs, taps, bytes of 8 channels)
  Product(const std::string& isa, int threads, const uint8_t* bits, int outputs, const Reading& reading,
          std::vector<Branch> branches);
  int size(int side) const { return (side + 2 * (reading_.kernel / 2) - reading_.kernel) / reading_.stride + 1; }
  int outputs() const { return outputs_; }
  int terms() const { return static_cast<int>(weights_.size()); }
  int words() const { return (reading_.channels + 63) / 64; }
  // bits: (count, height, width, words of 64 channels); out: (branches or 1, count, size, size, outputs)
  void run(const uint64_t* bits, int count, int height, int width, int32_t* out);

 private:
  const Isa* isa_;
  Team team_;
  std::mutex team_free_;
  int outputs_;
  Reading reading_;
  std::vector<Branch> branches_;
  std::vector<BinaryWeights> weights_;
};

// (count, channels, height, width) against (channels) or (count, channels) thresholds -> (count, height, width, words)
void pack_signs(const std::string& isa, const float* x, int count, int channels, int height, int width,
                const float* thresholds, bool per_image, uint64_t* bits);

}  // namespace bcdnet
