// A network as a list of fused units, and what runs it. Parameters come folded from Python (bcdnet/engine.py); the
// arithmetic of every unit, down to the order of its roundings, is specified by bcdnet/kernels/reference.py.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "team.h"
#include "weights.h"

namespace bcdnet {

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
  int channels_after_ = 0;  // of the stem and the units so far
  RealWeights head_;
  Buffer<float> head_bias_;

  Team team_;
  std::mutex team_free_, spaces_mutex_;
  std::vector<std::unique_ptr<Workspace>> spaces_;
};

}  // namespace bcdnet
