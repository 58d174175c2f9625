#include "product.h"

#include <cstring>
#include <limits>

namespace bcdnet {
namespace {

// Of `count` maps, the first of which is `map`; out: (branches or 1, count, out_height, out_width, outputs).
template <typename T>
void products(const Isa& isa, Team& team, PackedMap map, int count, const Reading& reading,
              const std::vector<BinaryWeights>& weights, const std::vector<Branch>& branches, int outputs, T* out) {
  const int out_height = reading.size(map.height), out_width = reading.size(map.width);
  const size_t locations = static_cast<size_t>(out_height) * out_width;
  const Counting counting{&isa, &weights, &branches, &reading, outputs, out_height, out_width};
  for (int n = 0; n < count; ++n, map.data += map.row_bytes * map.height * map.width)
    counting.run(map, &team, false,
                 [](const Strip&) {},
                 [&](const Strip& strip, size_t block, int, const int32_t* differing, const int32_t* borders, int) {
                   const size_t o = block * kBlock;
                   Integers<T> t{};
                   t.pixels = strip.pixels, t.columns = static_cast<int>(std::min<size_t>(kBlock, outputs - o));
                   t.at = strip.at, t.borders = borders, t.stride = outputs;
                   for (size_t b = 0; b < weights.size(); ++b) {
                     t.differing = differing + b * kStrip * kBlock;
                     t.base = weights[b].base() + o, t.base_stride = weights[b].base_stride();
                     t.out = out + (b * count + n) * locations * outputs + o;
                     if constexpr (sizeof(T) == 2) isa.shorts(t);
                     else isa.integers(t);
                   }
                 });
}

}  // namespace

Product::Product(const std::string& isa, int threads, const uint8_t* bits, int outputs, const Reading& reading,
                 std::vector<Branch> branches)
    : isa_(&required(isa)), team_(threads), outputs_(outputs), reading_(reading), branches_(std::move(branches)) {
  const size_t bytes = static_cast<size_t>(outputs) * reading.kernel * reading.kernel * ((reading.channels + 7) / 8);
  for (size_t b = 0; b < std::max<size_t>(1, branches_.size()); ++b)
    weights_.emplace_back(*isa_, bits + b * bytes, outputs, reading);
  zeros_.reserve(reading.words() * static_cast<size_t>(isa_->act_bytes));
  scratch_.reserve(team_.threads() * scratch_words());
}

PackedMap Product::map_of(const uint64_t* bits, size_t images, int height, int width) {
  const size_t stride = words(), into = reading_.words(), locations = images * height * width;
  const bool whole = reading_.channels % kGroup == 0 && !reading_.quartered;
  if (isa_->plain && whole) return {reinterpret_cast<const uint8_t*>(bits), zeros_.get(), height, width, 8 * stride};
  const size_t row = into * isa_->act_bytes;
  acts_.reserve(locations * row);
  team_.loop(locations, [&](size_t first, size_t last, int member) {
    const uint32_t* from = reinterpret_cast<const uint32_t*>(bits) + first * 2 * stride;
    uint8_t* to = acts_.get() + first * row;
    if (whole && into == 2 * stride) return isa_->encode(from, to, (last - first) * into);
    uint32_t *plain = scratch_.get() + member * scratch_words(), *apart = plain + 2 * stride;
    for (size_t i = first; i < last; ++i, from += 2 * stride, to += row) {
      if (whole) {
        isa_->encode(from, to, into);
        continue;
      }
      std::memcpy(plain, from, 8 * stride);
      if (reading_.channels % kGroup) plain[reading_.channels / kGroup] &= (1u << (reading_.channels % kGroup)) - 1;
      if (reading_.quartered) quarter(plain, reading_.channels, reading_.quarter_words(), apart);
      isa_->encode(reading_.quartered ? apart : plain, to, into);
    }
  });
  return {acts_.get(), zeros_.get(), height, width, row};
}

void Product::run(const uint64_t* bits, int count, int height, int width, int32_t* out) {
  const std::lock_guard lock(team_free_);
  products(*isa_, team_, map_of(bits, count, height, width), count, reading_, weights_, branches_, outputs_, out);
}

void SignProduct::run(const float* x, int count, int height, int width, const float* weight, int outputs,
                      const Reading& reading, int16_t* out) {
  const std::lock_guard lock(team_free_);
  const size_t words = reading.words(), row = words * isa_->act_bytes;
  const Buffer<float> thresholds(reading.channels);
  zeros_.reserve(row), acts_.reserve(row * count * height * width);
  team_.loop(static_cast<size_t>(count) * height * width, [&](size_t first, size_t last, int) {
    for (size_t i = first; i < last; ++i)
      isa_->pack(x + i * reading.channels, thresholds.get(), acts_.get() + i * row, words);
  });
  weights_[0].take_signs(*isa_, team_, weight, outputs, reading);
  products(*isa_, team_, {acts_.get(), zeros_.get(), height, width, row}, count, reading, weights_, {}, outputs, out);
}

void pack_signs(const std::string& name, const float* x, int count, int channels, int height, int width,
                const float* thresholds, bool per_image, uint64_t* bits) {
  constexpr size_t kLocations = 64;  // at once
  const size_t locations = static_cast<size_t>(height) * width, words = (channels + 63) / 64, stride = 2 * words;
  const Isa& isa = required(name);
  uint32_t column[kLocations];
  for (size_t n = 0; n < static_cast<size_t>(count); ++n) {
    const float* limits = thresholds + (per_image ? n * channels : 0);
    for (size_t first = 0; first < locations; first += kLocations) {
      const size_t now = std::min(kLocations, locations - first);
      auto* to = reinterpret_cast<uint32_t*>(bits + (n * locations + first) * words);
      for (size_t w = 0; w < stride; ++w) {
        const int c = static_cast<int>(32 * w), some = std::clamp(channels - c, 0, 32);
        isa.signs(x + (n * channels + c) * locations + first, locations, limits + c, some, static_cast<int>(now), column);
        for (size_t i = 0; i < now; ++i) to[i * stride + w] = column[i];
      }
    }
  }
}

}  // namespace bcdnet
