#include "product.h"

#include <cstring>
#include <limits>

#include "counting.h"

namespace bcdnet {
namespace {

// Bits of 64-bit words in this set's form.
Buffer<uint8_t> encoded(const Isa& isa, Team& team, const uint64_t* bits, size_t locations, const Reading& reading) {
  const size_t words = reading.words(), stride = (reading.channels + 63) / 64;
  Buffer<uint8_t> acts(locations * words * isa.act_bytes);
  const Buffer<uint32_t> scratch(team.threads() * (2 * stride + words));
  team.loop(locations, [&](size_t first, size_t last, int member) {
    uint32_t *plain = scratch.get() + member * (2 * stride + words), *apart = plain + 2 * stride;
    for (size_t i = first; i < last; ++i) {
      std::memcpy(plain, bits + i * stride, 8 * stride);
      if (reading.channels % 32) plain[reading.channels / 32] &= (1u << (reading.channels % 32)) - 1;
      if (reading.quartered) quarter(plain, reading.channels, reading.quarter_words(), apart);
      isa.encode(reading.quartered ? apart : plain, acts.get() + i * words * isa.act_bytes, words);
    }
  });
  return acts;
}

}  // namespace

Product::Product(const std::string& isa, int threads, const uint8_t* bits, int outputs, const Reading& reading,
                 std::vector<Branch> branches)
    : isa_(&required(isa)), team_(threads), outputs_(outputs), reading_(reading), branches_(std::move(branches)) {
  const size_t bytes = static_cast<size_t>(outputs) * reading.kernel * reading.kernel * ((reading.channels + 7) / 8);
  for (size_t b = 0; b < std::max<size_t>(1, branches_.size()); ++b)
    weights_.emplace_back(*isa_, bits + b * bytes, outputs, reading);
}

void Product::run(const uint64_t* bits, int count, int height, int width, int32_t* out) {
  const std::lock_guard lock(team_free_);
  const size_t inside = static_cast<size_t>(height) * width, row = reading_.words() * static_cast<size_t>(isa_->act_bytes);
  const Buffer<uint8_t> acts = encoded(*isa_, team_, bits, count * inside, reading_);
  const Buffer<uint8_t> zeros(row);
  const int out_height = size(height), out_width = size(width);
  const size_t locations = static_cast<size_t>(out_height) * out_width;
  const Counting counting{isa_, &weights_, &branches_, &reading_, outputs_, out_height, out_width};
  for (int n = 0; n < count; ++n)
    counting.run({acts.get() + n * inside * row, zeros.get(), height, width, row}, &team_, false,
                 [](const Strip&) {},
                 [&](const Strip& strip, size_t block, int, const int32_t* differing, const int32_t* borders, int) {
                   const size_t o = block * kBlock;
                   Integers t{strip.pixels, static_cast<int>(std::min<size_t>(kBlock, outputs_ - o)), strip.at};
                   t.borders = borders, t.stride = outputs_;
                   for (size_t b = 0; b < weights_.size(); ++b) {
                     t.differing = differing + b * kStrip * kBlock;
                     t.base = weights_[b].base() + o, t.base_stride = weights_[b].base_stride();
                     t.out = out + (b * count + n) * locations * outputs_ + o;
                     isa_->integers(t);
                   }
                 });
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
