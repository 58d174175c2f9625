// Holds an instruction set's functions (bcdnet/kernels/csrc/isa.h) against naive loops, on random sizes, odd ones too.
// It needs no Python, so that it can be compiled for another processor and run under an emulator; see
// docs/adding-a-kernel.md. The argument names the set; without one, those that can run are listed. It prints how many
// values it compared and ends with 0, or prints the first that differs and ends with 1; 2: the set cannot run here.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "isa.h"

using namespace bcdnet;

namespace {

constexpr int kCases = 300;
std::mt19937 chance(0);
long compared = 0;

int below(int n) { return static_cast<int>(chance() % static_cast<unsigned>(n)); }
float real() { return std::normal_distribution<float>()(chance); }

std::vector<float> reals(size_t n) {
  std::vector<float> values(n);
  for (float& v : values) v = real();
  return values;
}

std::vector<uint32_t> words(size_t n) {
  std::vector<uint32_t> values(n);
  for (uint32_t& v : values) v = chance();
  return values;
}

// An array at a 64-byte boundary, as the executor's are.
template <typename T>
struct Aligned {
  explicit Aligned(size_t n) : room(n * sizeof(T) + 64), size(n) {
    data = reinterpret_cast<T*>((reinterpret_cast<uintptr_t>(room.data()) + 63) / 64 * 64);
  }
  std::vector<uint8_t> room;
  T* data;
  size_t size;
};

[[noreturn]] void differ(const char* what, const std::string& about) {
  std::printf("%s differs: %s\n", what, about.c_str());
  std::exit(1);
}

template <typename T>
void same(const char* what, T found, T wanted, const std::string& about) {
  ++compared;
  if (std::memcmp(&found, &wanted, sizeof found))
    differ(what, about + ", " + std::to_string(found) + " instead of " + std::to_string(wanted));
}

void check_maps(const Isa& isa) {
  const size_t n = 1 + below(40);
  const auto plain = words(n);
  std::vector<uint8_t> act(n * isa.act_bytes);
  std::vector<uint32_t> back(n);
  isa.encode(plain.data(), act.data(), n);
  isa.decode(act.data(), back.data(), n);
  for (size_t i = 0; i < n; ++i) same("encode and decode", back[i], plain[i], "word " + std::to_string(i));

  auto x = reals(n * kGroup), threshold = reals(n * kGroup);
  for (size_t c = 0; c < x.size(); ++c) {  // ties, and padding that no value passes
    if (below(4) == 0) threshold[c] = x[c];
    if (below(8) == 0) threshold[c] = std::numeric_limits<float>::quiet_NaN();
    if (below(8) == 0) x[c] = below(2) ? 0.f : -0.f, threshold[c] = below(2) ? 0.f : -0.f;
  }
  isa.pack(x.data(), threshold.data(), act.data(), n);
  isa.decode(act.data(), back.data(), n);
  for (size_t c = 0; c < x.size(); ++c)
    same<uint32_t>("pack", back[c / 32] >> (c % 32) & 1, x[c] >= threshold[c], "channel " + std::to_string(c));
}

// All bits differ, none, or chance decides.
enum Mood { kNone, kAll, kChance };

void check_differing(const Isa& isa, int segments, int n, Mood mood) {
  const int pixels = 1 + below(kStrip), groups = 1 + below(2), columns = groups * kGroup;
  const size_t row = static_cast<size_t>(segments) * n, stride = row + below(3);
  const std::string about = std::to_string(segments) + " segments of " + std::to_string(n) + " words, " +
                            std::to_string(pixels) + " locations, " + std::to_string(groups) + " groups";
  auto weights = words(kBlock * stride);
  if (mood != kChance) std::fill(weights.begin(), weights.end(), mood == kAll ? ~0u : 0u);
  Aligned<uint8_t> packed(row * isa.weight_bytes);
  isa.pack_weights(weights.data(), stride, row, packed.data);

  std::vector<std::vector<uint32_t>> plain;
  std::vector<std::vector<uint8_t>> acts;
  std::vector<const uint8_t*> rows(static_cast<size_t>(segments) * kStrip, nullptr);
  for (int s = 0; s < segments; ++s)
    for (int p = 0; p < pixels; ++p) {
      plain.push_back(mood == kChance ? words(n) : std::vector<uint32_t>(n, 0u));
      acts.emplace_back(static_cast<size_t>(n) * isa.act_bytes);
      isa.encode(plain.back().data(), acts.back().data(), n);
    }
  for (int s = 0; s < segments; ++s)
    for (int p = 0; p < pixels; ++p) rows[s * kStrip + p] = acts[s * pixels + p].data();
  Aligned<int32_t> out(kStrip * kBlock);
  isa.differing(rows.data(), segments, n, pixels, packed.data, groups, out.data);
  for (int p = 0; p < pixels; ++p)
    for (int o = 0; o < columns; ++o) {
      int32_t wanted = 0;
      for (int s = 0; s < segments; ++s)
        for (int w = 0; w < n; ++w)
          wanted += __builtin_popcount(plain[s * pixels + p][w] ^ weights[o * stride + s * n + w]);
      same("differing", out.data[p * kBlock + o], wanted, about);
    }
}

void check_differing(const Isa& isa) {
  // Now and then so many words that sums pass 16 bits.
  const int segments = 1 + below(9), most = below(30) ? 40 : 6200 / segments + 2, n = 1 + below(most);
  check_differing(isa, segments, n, static_cast<Mood>(std::min(below(4), 2)));
}

// Sums of 8 and 16 bits are fullest when all bits differ, and how many words fill them depends on where segments end.
void check_full_sums(const Isa& isa) {
  for (int n = 676; n < 690; ++n) check_differing(isa, 9, n, kAll);
}

void check_real(const Isa& isa) {
  const int depth = 1 + below(80), pixels = 1 + below(kStrip), groups = 1 + below(2);
  const bool placed = below(2);
  const std::string about = "depth " + std::to_string(depth) + ", " + std::to_string(pixels) + " locations";
  Aligned<float> weights(static_cast<size_t>(depth) * kBlock), out(kStrip * kBlock);
  for (size_t i = 0; i < weights.size; ++i) weights.data[i] = real();
  std::vector<int32_t> places(depth);
  for (int k = 0; k < depth; ++k) places[k] = placed ? below(200) : k;
  std::vector<std::vector<float>> inputs;
  std::vector<const float*> rows;
  for (int p = 0; p < pixels; ++p) inputs.push_back(reals(200));
  for (const auto& input : inputs) rows.push_back(input.data());
  isa.real(rows.data(), placed ? places.data() : nullptr, depth, pixels, weights.data, groups, out.data);
  for (int p = 0; p < pixels; ++p)
    for (int o = 0; o < groups * kGroup; ++o) {
      double wanted = 0, terms = 0;
      for (int k = 0; k < depth; ++k) {
        const double term = static_cast<double>(rows[p][places[k]]) * weights.data[k * kBlock + o];
        wanted += term, terms += std::fabs(term);
      }
      ++compared;
      // Each of the depth additions, and each product, may be rounded by half a unit in the last place.
      if (std::fabs(out.data[p * kBlock + o] - wanted) > terms * (depth + 1) * 0x1p-24) differ("real", about);
    }
}

void check_epilogue(const Isa& isa) {
  const int pixels = 1 + below(kStrip), groups = 1 + below(2), columns = groups * kGroup;
  const bool of_real = below(4) == 0, with_bits = below(2), with_sums = below(2);
  const int branches = of_real ? 1 : 1 + below(3), borders = 16;
  const size_t locations = 40, stride = kBlock + 16, act_row = 5 * static_cast<size_t>(isa.act_bytes);
  const std::string about = std::to_string(pixels) + " locations, " + std::to_string(branches) + " branches" +
                            (of_real ? ", real" : "") + (with_sums ? ", with sums" : "");
  std::vector<int32_t> differing(branches * kStrip * kBlock), border(kStrip), at(kStrip), out_at(kStrip);
  std::vector<float> base(borders * kBlock);
  for (int32_t& d : differing) d = below(9 * 1024);
  for (float& b : base) b = static_cast<float>(below(9 * 1024));
  for (int32_t& b : border) b = below(borders);
  for (int p = 0; p < kStrip; ++p) at[p] = p + below(2) * 15, out_at[p] = kStrip - 1 - p;
  const auto products = reals(kStrip * kBlock), scale = reals(branches * kBlock), bias = reals(kBlock), slope = reals(kBlock),
             shift = reals(kBlock), residual = reals(locations * stride), threshold = reals(kBlock);
  std::vector<float> out(locations * stride, 77.f);
  std::vector<uint8_t> bits(locations * act_row);
  std::vector<double> sums(kBlock, 0.25);

  Epilogue e{};
  e.pixels = pixels, e.groups = groups, e.branches = branches, e.at = at.data(), e.out_at = out_at.data();
  e.differing = differing.data(), e.real = of_real ? products.data() : nullptr;
  e.base = base.data(), e.base_stride = kBlock, e.borders = border.data();
  e.scale = scale.data(), e.scale_stride = kBlock;
  e.bias = bias.data(), e.slope = slope.data(), e.shift = shift.data();
  e.residual = residual.data(), e.residual_stride = stride;
  e.residual_offset[0] = below(2) * 16, e.residual_offset[1] = below(2) * 32;
  e.out = out.data(), e.out_stride = stride;
  e.threshold = with_bits ? threshold.data() : nullptr, e.bits = bits.data(), e.bits_stride = act_row;
  e.sums = with_sums ? sums.data() : nullptr;
  isa.epilogue(e);

  std::vector<float> wanted(locations * stride, 77.f);
  std::vector<double> wanted_sums(kBlock, 0.25);
  for (int p = 0; p < pixels; ++p) {
    std::vector<uint32_t> plain(groups);
    for (int o = 0; o < columns; ++o) {
      volatile float u = 0;  // every step rounded to single precision
      for (int b = 0; b < branches; ++b) {
        const float dot = base[border[p] * kBlock + o] - 2.f * differing[(b * kStrip + p) * kBlock + o];  // exact
        volatile float term = (of_real ? products[p * kBlock + o] : dot) * scale[b * kBlock + o];
        u = b ? u + term : term;
      }
      u = u + bias[o];
      u = u + residual[at[p] * stride + e.residual_offset[o / kGroup] + o % kGroup];
      volatile float v = u * slope[o];
      v = u >= 0 ? u : v;
      const float y = v + shift[o];
      wanted[out_at[p] * stride + o] = y;
      plain[o / 32] |= static_cast<uint32_t>(y >= threshold[o]) << (o % 32);
      if (with_sums) {
        volatile double exact = static_cast<double>(y) + kRound;
        wanted_sums[o] += exact - kRound;
      }
    }
    if (with_bits) {
      std::vector<uint32_t> back(groups);
      isa.decode(bits.data() + at[p] * act_row, back.data(), groups);
      bool last = true;  // a location that occurs twice holds the bits of the last
      for (int q = p + 1; q < pixels; ++q) last &= at[q] != at[p];
      for (int g = 0; g < groups && last; ++g) same("epilogue's bits", back[g], plain[g], about);
    }
  }
  for (size_t i = 0; i < out.size(); ++i) same("epilogue", out[i], wanted[i], about);
  for (int o = 0; o < columns; ++o) same("epilogue's sums", sums[o], wanted_sums[o], about);
}

void check_signs(const Isa& isa) {
  const int channels = below(33), locations = 1 + below(70);
  const size_t stride = locations + below(5);
  const auto x = reals(33 * stride), thresholds = reals(33);
  std::vector<uint32_t> words(locations, 77u);
  isa.signs(x.data(), stride, thresholds.data(), channels, locations, words.data());
  for (int i = 0; i < locations; ++i) {
    uint32_t word = 0;
    for (int c = 0; c < channels; ++c) word |= static_cast<uint32_t>(x[c * stride + i] >= thresholds[c]) << c;
    same("signs", words[i], word, std::to_string(channels) + " channels");
  }
}

template <typename T>
void check_integers(void (*integers)(const Integers<T>&)) {
  std::vector<int32_t> differing(kStrip * kBlock), base(16 * kBlock), border(kStrip), at(kStrip);
  std::vector<T> out(kStrip * 70, 77);
  for (int32_t& d : differing) d = below(9 * 1024);
  for (int32_t& b : base) b = below(9 * 1024);
  for (int p = 0; p < kStrip; ++p) border[p] = below(16), at[p] = kStrip - 1 - p;
  Integers<T> t{1 + below(kStrip), 1 + below(kBlock), at.data()};
  t.differing = differing.data(), t.base = base.data(), t.base_stride = kBlock, t.borders = border.data();
  t.out = out.data(), t.stride = 70;
  integers(t);
  for (int p = 0; p < kStrip; ++p)
    for (int o = 0; o < 70; ++o) {
      const bool written = p < t.pixels && o < t.columns;
      const int32_t wanted = written ? base[border[p] * kBlock + o] - 2 * differing[p * kBlock + o] : 77;
      same("integers", static_cast<int32_t>(out[at[p] * 70 + o]), wanted, std::to_string(t.columns) + " columns");
    }
}

void check_averages(const Isa& isa) {
  const size_t columns = 1 + below(70);
  const auto top = reals(140), bottom = reals(140);
  std::vector<float> out(columns);
  isa.averages(top.data(), bottom.data(), 70, columns, out.data());
  for (size_t o = 0; o < columns; ++o) {
    volatile float upper = top[o] + top[70 + o], lower = bottom[o] + bottom[70 + o];
    volatile float sum = upper + lower;
    same("averages", out[o], sum * 0.25f, std::to_string(columns) + " columns");
  }
}

}  // namespace

int main(int count, char** arguments) {
  const Isa* sets[8];
  const size_t n = available(sets, 8);
  for (size_t i = 0; i < n; ++i) {
    if (count < 2) {
      std::puts(sets[i]->name);
    } else if (!std::strcmp(sets[i]->name, arguments[1])) {
      for (int k = 0; k < kCases; ++k) {
        check_maps(*sets[i]);
        check_differing(*sets[i]);
        check_real(*sets[i]);
        check_signs(*sets[i]);
        check_integers(sets[i]->integers);
        check_integers(sets[i]->shorts);
        check_averages(*sets[i]);
        check_epilogue(*sets[i]);
      }
      check_full_sums(*sets[i]);
      std::printf("%s: %ld values as the naive loops have them\n", sets[i]->name, compared);
      return 0;
    }
  }
  return count < 2 ? 0 : 2;
}
