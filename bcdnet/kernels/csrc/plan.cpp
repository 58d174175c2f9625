#include "plan.h"

#include <chrono>
#include <limits>
#include <stdexcept>

#include "counting.h"

namespace bcdnet {
namespace {

// A map larger than this is asked for before it is needed.
constexpr size_t kLargeMap = 512 << 10;

Buffer<float> padded(const Buffer<float>& from, size_t rows, size_t columns, float padding) {
  const size_t stride = round_up(columns, kBlock);
  Buffer<float> to(rows * stride);
  for (size_t r = 0; r < rows; ++r) {
    std::fill_n(to.get() + r * stride, stride, padding);
    std::copy_n(from.get() + r * columns, columns, to.get() + r * stride);
  }
  return to;
}

}  // namespace

// Everything a call writes to, planned for one size of image and kept for the next call.
struct Plan::Workspace {
  int height = 0, width = 0, members = 0;
  Buffer<float> maps[2], shortcut, products, image, zeros, ones, pooled;
  Buffer<int32_t> places;  // of the stem's taps in the image, from the first
  Buffer<uint8_t> bits[2], no_bits, scratch;
  Buffer<double> sums, context;
  Buffer<float> thresholds, bias, features;
  int map = 0, packed = 0;
  size_t widest = 0, scratch_bytes = 0;
  bool summed = false;   // the channel sums of the map are known
  bool averaged = false;  // in place of the map itself its averages over 2 x 2 are in `pooled`

  float* floats() { return maps[map].get(); }
  const uint8_t* acts() { return bits[packed].get(); }
};

Plan::Plan(const std::string& isa, int threads) : isa_(&required(isa)), team_(threads) {}

Plan::~Plan() = default;

void Plan::set_stem(Stem stem) {
  stem.scale = padded(stem.scale, 1, stem.outputs, 0.f);
  stem.bias = padded(stem.bias, 1, stem.outputs, 0.f);
  channels_after_ = stem.outputs;
  stem_ = std::move(stem);
}

void Plan::add_unit(Unit unit) {
  if ((unit.pooled && unit.repeat > 1) || (unit.real && unit.shortcut) || unit.weights.size() > kMostBranches ||
      (unit.reading.kernel != 1 && unit.reading.kernel != 3))
    throw std::invalid_argument("the engine has no such unit: " + unit.name);
  if (unit.reading.channels != channels_after_) throw std::invalid_argument("channels do not follow on: " + unit.name);
  channels_after_ = unit.outputs;
  const size_t branches = std::max<size_t>(1, unit.weights.size());
  unit.scale = padded(unit.scale, branches, unit.outputs, 0.f);
  for (auto* v : {&unit.bias, &unit.slope, &unit.shift}) *v = padded(*v, 1, unit.outputs, 0.f);
  if (!unit.real) unit.threshold = padded(unit.threshold, 1, unit.reading.channels, std::numeric_limits<float>::quiet_NaN());
  if (unit.shortcut) {
    unit.shortcut_affine.scale = padded(unit.shortcut_affine.scale, 1, unit.outputs, 0.f);
    unit.shortcut_affine.bias = padded(unit.shortcut_affine.bias, 1, unit.outputs, 0.f);
  }
  units_.push_back(std::move(unit));
}

void Plan::set_head(const float* weights, const float* bias, int classes, int features) {
  if (features != channels_after_) throw std::invalid_argument("the head does not fit the last unit");
  head_ = RealWeights(weights, classes, features);
  head_bias_.reserve(classes);
  std::copy_n(bias, classes, head_bias_.get());
}

std::unique_ptr<Plan::Workspace> Plan::take() {
  const std::lock_guard lock(spaces_mutex_);
  if (spaces_.empty()) return std::make_unique<Workspace>();
  auto space = std::move(spaces_.back());
  spaces_.pop_back();
  return space;
}

void Plan::give_back(std::unique_ptr<Workspace> space) {
  const std::lock_guard lock(spaces_mutex_);
  spaces_.push_back(std::move(space));
}

void Plan::prepare(Workspace& s, int height, int width, int members) const {
  if (s.height == height && s.width == width && s.members >= members) return;
  auto half = [](int n) { return (n + 1) / 2; };
  const int h0 = (height + 2 * (stem_.kernel / 2) - stem_.kernel) / stem_.stride + 1;
  const int w0 = (width + 2 * (stem_.kernel / 2) - stem_.kernel) / stem_.stride + 1;
  size_t h = h0, w = w0, channels = stem_.outputs;
  s.widest = 0, s.scratch_bytes = 0;
  size_t floats = h * w * round_up(channels, kBlock), pooled = floats, products = 0, acts = 0, context = 1;
  if (stem_.pooled) {
    h = half(h), w = half(w);
  }
  auto widest = [&](size_t n) { s.widest = std::max(s.widest, round_up(n, kBlock)); };
  widest(channels);
  for (const Unit& unit : units_) {
    const size_t inside = h * w;
    if (unit.pooled && (h % 2 || w % 2)) throw std::invalid_argument("a map of odd size cannot be halved: " + unit.name);
    if (unit.pooled || unit.reading.stride == 2) h = half(h), w = half(w);
    const size_t stride = round_up(unit.outputs, kBlock);
    widest(unit.outputs), widest(unit.reading.channels);
    floats = std::max(floats, h * w * stride);
    pooled = std::max(pooled, h * w * stride / 4);
    if (unit.real || unit.shortcut) products = std::max(products, h * w * stride);
    if (!unit.real) {
      acts = std::max(acts, inside * unit.reading.words() * isa_->act_bytes);
      s.scratch_bytes = std::max<size_t>(s.scratch_bytes, (isa_->act_bytes + 8) * (unit.reading.words() + s.widest / kGroup));
    }
    if (unit.embedding) context = std::max<size_t>(context, unit.embedding->context);
    channels = unit.outputs;
  }
  s.scratch_bytes = round_up(s.scratch_bytes, 64);
  for (auto& map : s.maps) map.reserve(floats);
  for (auto& map : s.bits) map.reserve(acts + 64);
  s.shortcut.reserve(floats), s.products.reserve(products), s.pooled.reserve(pooled);
  s.zeros.reserve(s.widest), s.no_bits.reserve(s.widest / kGroup * isa_->act_bytes + 4096);
  s.sums.reserve(members * s.widest), s.context.reserve(2 * s.widest + context);
  s.thresholds.reserve(s.widest), s.bias.reserve(s.widest), s.features.reserve(s.widest);
  s.ones.reserve(kBlock), std::fill_n(s.ones.get(), kBlock, 1.f);
  const size_t k = stem_.kernel, padded_height = height + k - 1, padded_width = width + k - 1;
  // A new size moves the margins, which must be zeros.
  s.image = Buffer<float>(stem_.channels * padded_height * padded_width);
  s.places.reserve(stem_.weights.depth);
  for (int i = 0; i < stem_.weights.depth; ++i) {
    const size_t c = i / (k * k), row = i / k % k, column = i % k;
    s.places[i] = static_cast<int32_t>((c * padded_height + row) * padded_width + column);
  }
  s.scratch.reserve(members * s.scratch_bytes);
  s.height = height, s.width = width, s.members = std::max(s.members, members);
}

Plan::Size Plan::run_stem(const float* image, Workspace& s, Team* team) const {
  const int pad = stem_.kernel / 2, k = stem_.kernel;
  const int h = (s.height + 2 * pad - k) / stem_.stride + 1, w = (s.width + 2 * pad - k) / stem_.stride + 1;
  const size_t stride = round_up(stem_.outputs, kGroup), blocks = stem_.weights.blocks();
  const Unit* next = units_.empty() ? nullptr : &units_.front();
  const bool fused = !stem_.pooled && next && !next->real && !next->reading.quartered && !next->embedding;
  s.map = 0, s.packed = 0, s.averaged = false;
  s.summed = !stem_.pooled && next && next->embedding;
  if (s.summed) std::fill_n(s.sums.get(), s.members * s.widest, 0.0);
  float* out = stem_.pooled ? s.pooled.get() : s.floats();
  const size_t act_row = next && !next->real ? next->reading.words() * isa_->act_bytes : 0;
  // Between margins of zeros every tap of every location can be read where it is.
  const size_t padded_width = s.width + 2 * pad, padded_height = s.height + 2 * pad;
  loop(team, stem_.channels * static_cast<size_t>(s.height), [&](size_t first, size_t last, int) {
    for (size_t line = first; line < last; ++line) {
      const size_t row = line / s.height * padded_height + line % s.height + pad;
      std::copy_n(image + line * s.width, s.width, s.image.get() + row * padded_width + pad);
    }
  });
  const Strips strips(h, w);
  const int depth = stem_.weights.depth;
  const bool large = h * w * stride * sizeof(float) > kLargeMap;
  loop(team, strips.count, [&](size_t first, size_t last, int member) {
    const float* rows[kStrip];
    alignas(64) float products[kStrip * kBlock];
    for (size_t index = first; index < last; ++index) {
      const Strip strip(strips, index);
      int ys[kStrip], xs[kStrip];
      strip.places(ys, xs);
      for (int p = 0; p < strip.pixels; ++p) {
        rows[p] = s.image.get() + (ys[p] * padded_width + xs[p]) * stem_.stride;
        for (size_t c = 0; large && c < stride; c += 16) __builtin_prefetch(out + strip.at[p] * stride + c, 1);
      }
      Epilogue e{};
      e.pixels = strip.pixels, e.branches = 1, e.at = e.out_at = strip.at, e.real = products;
      e.slope = s.ones.get(), e.shift = e.residual = s.zeros.get(), e.out_stride = stride, e.bits_stride = act_row;
      for (size_t b = 0; b < blocks; ++b) {
        e.groups = groups_of(stem_.outputs, b);
        isa_->real(rows, s.places.get(), depth, e.pixels, stem_.weights.packed.get() + b * depth * kBlock, e.groups,
                   products);
        const size_t o = b * kBlock;
        e.scale = stem_.scale.get() + o, e.bias = stem_.bias.get() + o, e.out = out + o;
        e.sums = s.summed ? s.sums.get() + member * s.widest + o : nullptr;
        e.threshold = fused ? next->threshold.get() + o : nullptr;
        e.bits = s.bits[0].get() + o / kGroup * isa_->act_bytes;
        isa_->epilogue(e);
      }
    }
  });
  Size size{h, w};
  if (stem_.pooled) {
    size = {(h - 1) / 2 + 1, (w - 1) / 2 + 1};
    loop(team, size.height, [&](size_t first, size_t last, int) {
      for (size_t y = first; y < last; ++y)
        for (int x = 0; x < size.width; ++x) {
          float* to = s.floats() + (y * size.width + x) * stride;
          std::fill_n(to, stride, -std::numeric_limits<float>::infinity());
          for (int fy = std::max(0, 2 * static_cast<int>(y) - 1); fy < std::min(h, 2 * static_cast<int>(y) + 2); ++fy)
            for (int fx = std::max(0, 2 * x - 1); fx < std::min(w, 2 * x + 2); ++fx) {
              const float* from = out + (static_cast<size_t>(fy) * w + fx) * stride;
              for (size_t c = 0; c < stride; ++c) to[c] = from[c] > to[c] ? from[c] : to[c];
            }
        }
    });
  }
  if (!fused && next && !next->real) ready_bits(*next, size, s, team);
  return size;
}

// Thresholds and offsets of this image: W2 (W1 GAP(x) + b1) + b2 and W3 (...) + b3, in double precision, each sum in the
// order of its channels.
void Plan::embed(const Unit& unit, Size size, Workspace& s) const {
  const Embedding& e = *unit.embedding;
  const size_t inputs = unit.reading.channels, outputs = unit.outputs;
  double *mean = s.context.get(), *context = mean + s.widest, *out = context + e.context;
  for (size_t c = 0; c < inputs; ++c) {
    double sum = 0;
    for (int m = 0; m < s.members; ++m) sum += s.sums[m * s.widest + c];
    mean[c] = sum / (static_cast<double>(size.height) * size.width);
  }
  auto affine = [](const double* x, size_t n, const Buffer<float>& weights, const Buffer<float>& bias, size_t m, double* y) {
    std::fill_n(y, m, 0.0);
    for (size_t i = 0; i < n; ++i)
      for (size_t j = 0; j < m; ++j) y[j] += x[i] * static_cast<double>(weights[i * m + j]);
    for (size_t j = 0; j < m; ++j) y[j] += static_cast<double>(bias[j]);
  };
  affine(mean, inputs, e.reduce, e.reduce_bias, e.context, context);
  affine(context, e.context, e.threshold, e.threshold_bias, inputs, out);
  for (size_t c = 0; c < round_up(inputs, kGroup); ++c)
    s.thresholds[c] = c < inputs ? static_cast<float>(static_cast<double>(unit.threshold[c]) + out[c]) : unit.threshold[c];
  affine(context, e.context, e.offset, e.offset_bias, outputs, out);
  for (size_t o = 0; o < round_up(outputs, kBlock); ++o) {
    const float product = o < outputs ? static_cast<float>(out[o]) * e.gain[o] : 0.f;
    s.bias[o] = unit.bias[o] + product;
  }
}

// Packs the finished map for a unit whose thresholds were not known while it was made, or whose bits lie apart.
void Plan::ready_bits(const Unit& unit, Size size, Workspace& s, Team* team) const {
  const size_t locations = static_cast<size_t>(size.height) * size.width;
  const size_t stride = round_up(unit.reading.channels, kGroup), groups = stride / kGroup;
  if (unit.embedding) {
    if (!s.summed) {
      std::fill_n(s.sums.get(), s.members * s.widest, 0.0);
      loop(team, locations, [&](size_t first, size_t last, int member) {
        double* sums = s.sums.get() + member * s.widest;
        for (size_t i = first; i < last; ++i)
          for (size_t c = 0; c < stride; ++c) sums[c] += (static_cast<double>(s.floats()[i * stride + c]) + kRound) - kRound;
      });
    }
    embed(unit, size, s);
  }
  const float* thresholds = unit.embedding ? s.thresholds.get() : unit.threshold.get();
  const size_t row = unit.reading.words() * static_cast<size_t>(isa_->act_bytes);
  loop(team, locations, [&](size_t first, size_t last, int member) {
    uint8_t* scratch = s.scratch.get() + member * s.scratch_bytes;
    auto* plain = reinterpret_cast<uint32_t*>(scratch + round_up(groups * isa_->act_bytes, 4));
    for (size_t i = first; i < last; ++i) {
      uint8_t* to = s.bits[s.packed].get() + i * row;
      isa_->pack(s.floats() + i * stride, thresholds, unit.reading.quartered ? scratch : to, groups);
      if (unit.reading.quartered) {
        isa_->decode(scratch, plain, groups);
        quarter(plain, unit.reading.channels, unit.reading.quarter_words(), plain + groups);
        isa_->encode(plain + groups, to, unit.reading.words());
      }
    }
  });
}

// out[i][o] = sum_k in[i][k] weights[k][o], (locations, outputs)
static void real_products(const Isa& isa, Team* team, const float* in, size_t in_stride, size_t locations,
                          const RealWeights& weights, float* out, size_t out_stride) {
  const Strips strips(1, locations);
  const size_t each = weights.outputs / weights.groups, blocks = weights.blocks();
  loop(team, weights.groups * blocks * strips.count, [&](size_t first, size_t last, int) {
    const float* rows[kStrip];
    alignas(64) float products[kStrip * kBlock];
    for (size_t task = first; task < last; ++task) {
      const Strip strip(strips, task % strips.count);
      const size_t block = task / strips.count % blocks, group = task / strips.count / blocks;
      for (int p = 0; p < strip.pixels; ++p) rows[p] = in + strip.at[p] * in_stride + group * weights.depth;
      isa.real(rows, nullptr, weights.depth, strip.pixels,
               weights.packed.get() + (group * blocks + block) * weights.depth * kBlock, groups_of(each, block), products);
      const size_t from = block * kBlock, width = std::min<size_t>(kBlock, each - from);
      for (int p = 0; p < strip.pixels; ++p)
        std::copy_n(products + p * kBlock, width, out + strip.at[p] * out_stride + group * each + from);
    }
  });
}

// The shortcut's map (locations of the output, padded channels), where it is more than the input itself.
const float* Plan::shortcut(const Unit& unit, Size in, Size out, Workspace& s, Team* team) const {
  const size_t stride = round_up(unit.reading.channels, kGroup), out_stride = round_up(unit.outputs, kGroup);
  const float* from = s.floats();
  const size_t locations = static_cast<size_t>(out.height) * out.width;
  if (unit.pooled && s.averaged) {
    from = s.pooled.get();
  } else if (unit.pooled) {
    loop(team, locations, [&](size_t first, size_t last, int) {
      for (size_t i = first; i < last; ++i) {
        const size_t y = i / out.width, x = i % out.width;
        const float* top = from + (2 * y * in.width + 2 * x) * stride;
        isa_->averages(top, top + in.width * stride, stride, stride, s.shortcut.get() + i * stride);
      }
    });
    from = s.shortcut.get();
  }
  if (unit.shortcut) {
    real_products(*isa_, team, from, stride, locations, *unit.shortcut, s.products.get(), out_stride);
    loop(team, locations, [&](size_t first, size_t last, int) {
      for (size_t i = first * out_stride; i < last * out_stride; i += out_stride)
        for (size_t c = 0; c < out_stride; ++c)
          s.products[i + c] = s.products[i + c] * unit.shortcut_affine.scale[c] + unit.shortcut_affine.bias[c];
    });
    return s.products.get();
  }
  if (unit.repeat > 1 && unit.reading.channels % kGroup) {
    float* to = s.shortcut.get();
    loop(team, locations, [&](size_t first, size_t last, int) {
      for (size_t i = first; i < last; ++i)
        for (int r = 0; r < unit.repeat; ++r)
          std::copy_n(from + i * stride, unit.reading.channels, to + i * out_stride + r * unit.reading.channels);
    });
    return to;
  }
  return from;
}

void Plan::run_unit(const Unit& unit, const Unit* next, Size& size, Workspace& s, Team* team, bool keep) const {
  const Size in = size;
  if (unit.reading.stride == 2) size = {(in.height + 1) / 2, (in.width + 1) / 2};
  const size_t locations = static_cast<size_t>(size.height) * size.width;
  const size_t in_stride = round_up(unit.reading.channels, kGroup), stride = round_up(unit.outputs, kGroup);
  const bool aligned_repeat = unit.repeat > 1 && unit.reading.channels % kGroup == 0;
  const bool own = !unit.pooled && !unit.shortcut && unit.repeat == 1;
  const bool fused = next && !next->real && !next->reading.quartered && !next->embedding;
  const float* real = nullptr;
  if (unit.real) {  // before the shortcut, which may use the same room
    real_products(*isa_, team, s.floats(), in_stride, locations, unit.real_weights, s.products.get(), stride);
    real = s.products.get();
  }
  const float* residual = own ? s.floats() : shortcut(unit, in, size, s, team);
  // The next unit reads nothing of this map but its bits and its averages: then it is never written.
  const bool average = !keep && fused && next->pooled && !unit.real && residual != s.pooled.get();
  const size_t period = aligned_repeat ? unit.reading.channels : stride;
  const size_t residual_stride = own || aligned_repeat ? in_stride : stride;
  const int map = own ? s.map : 1 - s.map;  // each location is read before it is written, so in place if it can be
  float* out = s.maps[map].get();
  uint8_t* bits = s.bits[1 - s.packed].get();
  const size_t act_row = next && !next->real ? next->reading.words() * static_cast<size_t>(isa_->act_bytes) : 0;
  const float* bias = unit.embedding ? s.bias.get() : unit.bias.get();
  const size_t branches = std::max<size_t>(1, unit.weights.size());
  s.summed = next && next->embedding;
  if (s.summed) std::fill_n(s.sums.get(), s.members * s.widest, 0.0);

  const bool large = locations * stride * sizeof(float) > kLargeMap;
  // A map too large for the level-2 cache is asked for early, so that it is there when the products are.
  auto start = [&](const Strip& strip) {
    for (int p = 0; large && p < strip.pixels; ++p) {
      for (size_t c = 0; c < residual_stride; c += 16) __builtin_prefetch(residual + strip.at[p] * residual_stride + c);
      for (size_t c = 0; !own && !average && c < stride; c += 16) __builtin_prefetch(out + strip.at[p] * stride + c, 1);
    }
  };
  static constexpr auto kInOrder = [] {
    std::array<int32_t, kStrip> order{};
    for (int i = 0; i < kStrip; ++i) order[i] = i;
    return order;
  }();
  auto finish = [&](const Strip& strip, size_t block, int groups, const int32_t* differing, const float* products,
                    const int32_t* borders, int member) {
    const size_t o = block * kBlock;
    alignas(64) float squares[kStrip * kBlock];
    Epilogue e{};
    e.pixels = strip.pixels, e.groups = groups, e.branches = static_cast<int>(branches), e.at = strip.at;
    e.differing = differing, e.real = products, e.borders = borders;
    if (differing) e.base = unit.weights.front().real_base() + o, e.base_stride = unit.weights.front().base_stride();
    e.scale = unit.scale.get() + o, e.scale_stride = round_up(unit.outputs, kBlock);
    e.bias = bias + o, e.slope = unit.slope.get() + o, e.shift = unit.shift.get() + o;
    e.residual = residual, e.residual_stride = residual_stride;
    for (int g = 0; g < groups; ++g) e.residual_offset[g] = (o + g * kGroup) % period;
    e.out = average ? squares : out + o, e.out_stride = average ? kBlock : stride;
    e.out_at = average ? kInOrder.data() : strip.at;
    e.threshold = fused ? next->threshold.get() + o : nullptr;
    e.bits = bits + o / kGroup * isa_->act_bytes, e.bits_stride = act_row;
    e.sums = s.summed ? s.sums.get() + member * s.widest + o : nullptr;
    isa_->epilogue(e);
    for (int q = 0; average && q < strip.pixels / 4; ++q) {
      const float* of = squares + 4 * q * kBlock;
      isa_->averages(of, of + 2 * kBlock, kBlock, groups * kGroup, s.pooled.get() + (strip.first + q) * stride + o);
    }
  };

  if (unit.real) {
    const Strips strips(size.height, size.width);
    loop(team, strips.count, [&](size_t first, size_t last, int member) {
      alignas(64) float products[kStrip * kBlock];
      for (size_t index = first; index < last; ++index) {
        const Strip strip(strips, index);
        start(strip);
        for (size_t block = 0; block * kBlock < stride; ++block) {
          const int groups = groups_of(unit.outputs, block);
          for (int p = 0; p < strip.pixels; ++p)
            std::copy_n(real + strip.at[p] * stride + block * kBlock, groups * kGroup, products + p * kBlock);
          finish(strip, block, groups, nullptr, products, nullptr, member);
        }
      }
    });
  } else {
    const PackedMap packed{s.acts(), s.no_bits.get(), in.height, in.width,
                           unit.reading.words() * static_cast<size_t>(isa_->act_bytes)};
    const Counting counting{isa_, &unit.weights, &unit.branches, &unit.reading, unit.outputs, size.height, size.width};
    counting.run(packed, team, average, start,
                 [&](const Strip& strip, size_t block, int groups, const int32_t* differing, const int32_t* borders,
                     int member) { finish(strip, block, groups, differing, nullptr, borders, member); });
  }
  s.averaged = average;
  s.map = map;
  s.packed = 1 - s.packed;
  if (!fused && next && !next->real) ready_bits(*next, size, s, team);
}

void Plan::run_head(Size size, Workspace& s, Team* team, float* logits) const {
  const size_t locations = static_cast<size_t>(size.height) * size.width;
  const size_t stride = round_up(head_.depth, kGroup);
  std::fill_n(s.context.get(), stride, 0.0);
  for (size_t i = 0; i < locations; ++i)
    for (size_t c = 0; c < stride; ++c) s.context[c] += static_cast<double>(s.floats()[i * stride + c]);
  for (int c = 0; c < head_.depth; ++c) s.features[c] = static_cast<float>(s.context[c] / static_cast<double>(locations));
  loop(team, head_.blocks(), [&](size_t first, size_t last, int) {
    const float* row = s.features.get();
    alignas(64) float out[kTile * kBlock];
    for (size_t b = first; b < last; ++b) {
      isa_->real(&row, nullptr, head_.depth, 1, head_.packed.get() + b * head_.depth * kBlock, groups_of(head_.outputs, b), out);
      for (size_t o = b * kBlock; o < std::min<size_t>(head_.outputs, (b + 1) * kBlock); ++o)
        logits[o] = out[o - b * kBlock] + head_bias_[o];
    }
  });
}

void Plan::run_image(const float* image, Workspace& s, Team* team, float* logits, std::vector<Traced>* traced,
                     bool values) const {
  using Clock = std::chrono::steady_clock;
  auto start = Clock::now();
  auto record = [&](const std::string& name, int channels, Size size) -> Traced& {
    const auto now = Clock::now();
    Traced& t = traced->emplace_back();
    t.name = name, t.nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(now - start).count();
    t.channels = channels, t.height = size.height, t.width = size.width;
    if (values) {
      const size_t stride = round_up(channels, kGroup), locations = static_cast<size_t>(size.height) * size.width;
      t.output.resize(channels * locations);
      for (size_t i = 0; i < locations; ++i)
        for (int c = 0; c < channels; ++c) t.output[c * locations + i] = s.floats()[i * stride + c];
    }
    return t;
  };
  Size size = run_stem(image, s, team);
  if (traced) record("stem", stem_.outputs, size);
  for (size_t u = 0; u < units_.size(); ++u) {
    const Unit& unit = units_[u];
    const Unit* next = u + 1 < units_.size() ? &units_[u + 1] : nullptr;
    Traced before;
    if (traced && values && !unit.real) {
      const size_t locations = static_cast<size_t>(size.height) * size.width, words = unit.reading.words();
      before.inputs = unit.reading.channels, before.in_height = size.height, before.in_width = size.width;
      before.bits.resize(before.inputs * locations);
      std::vector<uint32_t> plain(words);
      for (size_t i = 0; i < locations; ++i) {
        isa_->decode(s.acts() + i * words * isa_->act_bytes, plain.data(), words);
        for (int c = 0; c < before.inputs; ++c) {
          const size_t place = bit_place(unit.reading, c);
          before.bits[c * locations + i] = plain[place / 32] >> (place % 32) & 1;
        }
      }
      const float* thresholds = unit.embedding ? s.thresholds.get() : unit.threshold.get();
      before.thresholds.assign(thresholds, thresholds + before.inputs);
    }
    start = traced ? Clock::now() : start;
    run_unit(unit, next, size, s, team, traced && values);
    if (traced) {
      Traced& t = record(unit.name, unit.outputs, size);
      t.inputs = before.inputs, t.in_height = before.in_height, t.in_width = before.in_width;
      t.bits = std::move(before.bits), t.thresholds = std::move(before.thresholds);
    }
  }
  start = traced ? Clock::now() : start;
  run_head(size, s, team, logits);
  if (traced) {
    traced->emplace_back().name = "head";
    traced->back().nanoseconds = std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
  }
}

void Plan::run(const float* images, size_t count, int height, int width, float* logits) {
  const std::unique_lock lock(team_free_, std::try_to_lock);
  // Whoever finds the team at work goes alone: with many callers there is no core left to share a call with.
  const int threads = lock.owns_lock() ? team_.threads() : 1;
  const size_t pixels = static_cast<size_t>(stem_.channels) * height * width;
  std::vector<std::unique_ptr<Workspace>> spaces;
  const size_t by_image = threads > 1 ? count / threads * threads : count;
  for (size_t m = 0; m < (by_image ? static_cast<size_t>(threads) : 1); ++m) {
    spaces.push_back(take());
    prepare(*spaces.back(), height, width, threads);
  }
  // Many images: each member takes whole ones. The rest, or a single one, is shared unit by unit.
  loop(threads > 1 ? &team_ : nullptr, by_image, [&](size_t first, size_t last, int member) {
    for (size_t i = first; i < last; ++i)
      run_image(images + i * pixels, *spaces[member], nullptr, logits + i * classes(), nullptr, false);
  });
  for (size_t i = by_image; i < count; ++i)
    run_image(images + i * pixels, *spaces[0], &team_, logits + i * classes(), nullptr, false);
  for (auto& space : spaces) give_back(std::move(space));
}

std::vector<Traced> Plan::trace(const float* image, int height, int width, bool values, float* logits) {
  const std::unique_lock lock(team_free_);
  auto space = take();
  prepare(*space, height, width, team_.threads());
  std::vector<Traced> traced;
  run_image(image, *space, team_.threads() > 1 ? &team_ : nullptr, logits, &traced, values);
  give_back(std::move(space));
  return traced;
}

}  // namespace bcdnet
