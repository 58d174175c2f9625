// The loops that every instruction set shares, written with the primitives it has defined: V (kLanes floats), load,
// store, fma, mul, add, leaky (u >= 0 ? u : u * slope), at_least (mask of a >= b), dots (base - 2 differing, exact),
// store_bits and add_sums. Products are rounded before they are added, so that every set gives the same bits; only
// `real` fuses the two.

// f(0), f(1) ... with constants for numbers: what they index is kept in registers, which a compiler does not do for an
// array that several loops use.
template <int kTimes, typename F>
inline void unrolled(F f) {
  [&]<int... i>(std::integer_sequence<int, i...>) { (f(std::integral_constant<int, i>()), ...); }(
      std::make_integer_sequence<int, kTimes>());
}

// Locations of the next tile, where `left` are to be cut into tiles of nearly equal size.
inline int next_tile(int left) {
  const int tiles = (left + kTile - 1) / kTile;
  return (left + tiles - 1) / tiles;
}

template <bool kReal, bool kMany, bool kSums>
void epilogue_of(const Epilogue& strip) {
  // A copy, because a vector's store might change anything but a local variable.
  const Epilogue t = strip;
  constexpr int kVectors = kGroup / kLanes;
  const float* residuals[kStrip];
  const float* bases[kStrip];
  float* outs[kStrip];
  uint8_t* bits[kStrip];
  for (int p = 0; p < t.pixels; ++p) {
    residuals[p] = t.residual + t.at[p] * t.residual_stride;
    outs[p] = t.out + t.out_at[p] * t.out_stride;
    if constexpr (!kReal) bases[p] = t.base + t.borders[p] * t.base_stride;
    if (t.threshold) bits[p] = t.bits + t.at[p] * t.bits_stride;
  }
  for (int group = 0; group < t.groups; ++group) {
    const int first = group * kGroup;
    V scale[kVectors], bias[kVectors], slope[kVectors], shift[kVectors], threshold[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      const int o = first + v * kLanes;
      scale[v] = load(t.scale + o), bias[v] = load(t.bias + o), slope[v] = load(t.slope + o), shift[v] = load(t.shift + o);
      threshold[v] = t.threshold ? load(t.threshold + o) : scale[v];
    }
    for (int p = 0; p < t.pixels; ++p) {
      const float* residual = residuals[p] + t.residual_offset[group];
      uint32_t mask = 0;
      for (int v = 0; v < kVectors; ++v) {
        const int o = first + v * kLanes;
        V u;
        if constexpr (kReal) {
          u = mul(load(t.real + p * kBlock + o), scale[v]);
        } else {
          u = mul(dots(bases[p] + o, t.differing + p * kBlock + o), scale[v]);
          if constexpr (kMany)
            for (int b = 1; b < t.branches; ++b)
              u = add(u, mul(dots(bases[p] + o, t.differing + (b * kStrip + p) * kBlock + o),
                             load(t.scale + b * t.scale_stride + o)));
        }
        u = add(add(u, bias[v]), load(residual + v * kLanes));
        const V y = add(leaky(u, slope[v]), shift[v]);
        store(outs[p] + o, y);
        if constexpr (kSums) add_sums(y, t.sums + o);
        mask |= at_least(y, threshold[v]) << (v * kLanes);
      }
      if (t.threshold) store_bits(bits[p] + group * kActBytes, mask);
    }
  }
}

void epilogue(const Epilogue& t) {
  switch ((t.real ? 4 : 0) + (t.branches > 1 ? 2 : 0) + (t.sums ? 1 : 0)) {
    case 0: return epilogue_of<false, false, false>(t);
    case 1: return epilogue_of<false, false, true>(t);
    case 2: return epilogue_of<false, true, false>(t);
    case 3: return epilogue_of<false, true, true>(t);
    case 4: return epilogue_of<true, false, false>(t);
    default: return epilogue_of<true, false, true>(t);
  }
}

template <typename T>
void integers(const Integers<T>& strip) {
  const Integers<T> t = strip;  // as above
  for (int p = 0; p < t.pixels; ++p) {
    const int32_t *base = t.base + t.borders[p] * t.base_stride, *differing = t.differing + p * kBlock;
    T* out = t.out + t.at[p] * t.stride;
    for (int o = 0; o < t.columns; ++o) out[o] = static_cast<T>(base[o] - 2 * differing[o]);
  }
}

void averages(const float* top, const float* bottom, size_t stride, size_t columns, float* out) {
  for (size_t o = 0; o < columns; ++o) out[o] = ((top[o] + top[stride + o]) + (bottom[o] + bottom[stride + o])) * 0.25f;
}

void signs(const float* x, size_t stride, const float* thresholds, int channels, int locations, uint32_t* words) {
  std::memset(words, 0, sizeof *words * locations);
  for (int c = 0; c < channels; ++c, x += stride)
    for (int i = 0; i < locations; ++i) words[i] |= static_cast<uint32_t>(x[i] >= thresholds[c]) << c;
}

void pack(const float* x, const float* threshold, uint8_t* bits, size_t groups) {
  for (size_t group = 0; group < groups; ++group, x += kGroup, threshold += kGroup, bits += kActBytes) {
    uint32_t mask = 0;
    for (int lane = 0; lane < kGroup; lane += kLanes)
      mask |= at_least(load(x + lane), load(threshold + lane)) << lane;
    store_bits(bits, mask);
  }
}

template <int kPixels, int kVectors>
void real_tile(const float* const* rows, const int32_t* places, int depth, const float* weights, float* out) {
  V sums[kPixels][kVectors];
  const float* row[kPixels];
  unrolled<kPixels>([&](auto p) {
    row[p] = rows[p];
    unrolled<kVectors>([&](auto v) { sums[p][v] = set1(0.f); });
  });
  for (int k = 0; k < depth; ++k) {
    V w[kVectors];
    unrolled<kVectors>([&](auto v) { w[v] = load(weights + k * kBlock + v * kLanes); });
    const ptrdiff_t place = places ? places[k] : k;
    unrolled<kPixels>([&](auto p) {
      const V a = set1(row[p][place]);
      unrolled<kVectors>([&](auto v) { sums[p][v] = fma(a, w[v], sums[p][v]); });
    });
  }
  unrolled<kPixels>([&](auto p) {
    unrolled<kVectors>([&](auto v) { store(out + p * kBlock + v * kLanes, sums[p][v]); });
  });
}

void real(const float* const* rows, const int32_t* places, int depth, int pixels, const float* weights, int groups,
          float* out) {
  if (pixels == 1 && groups == 2)  // as in the head: the whole block at once reads the weights in their order
    return real_tile<1, kBlock / kLanes>(rows, places, depth, weights, out);
  for (int left = pixels; left > 0;) {
    const int now = next_tile(left);
    for (int o = 0; o < groups * kGroup; o += kRealVectors * kLanes) {
      switch (now) {
        case 1: real_tile<1, kRealVectors>(rows, places, depth, weights + o, out + o); break;
        case 2: real_tile<2, kRealVectors>(rows, places, depth, weights + o, out + o); break;
        case 3: real_tile<3, kRealVectors>(rows, places, depth, weights + o, out + o); break;
        case 4: real_tile<4, kRealVectors>(rows, places, depth, weights + o, out + o); break;
        case 5: real_tile<5, kRealVectors>(rows, places, depth, weights + o, out + o); break;
        default: real_tile<6, kRealVectors>(rows, places, depth, weights + o, out + o); break;
      }
    }
    left -= now, rows += now, out += now * kBlock;
  }
}

template <template <int, int> class Kernel>
void differing_with(const uint8_t* const* rows, int segments, int words, int pixels, const uint8_t* weights, int groups,
                    int32_t* out) {
  for (int left = pixels; left > 0;) {
    const int now = next_tile(left);
    switch (now * 2 + groups - 3) {
      case 0: Kernel<1, 1>::run(rows, segments, words, weights, out); break;
      case 1: Kernel<1, 2>::run(rows, segments, words, weights, out); break;
      case 2: Kernel<2, 1>::run(rows, segments, words, weights, out); break;
      case 3: Kernel<2, 2>::run(rows, segments, words, weights, out); break;
      case 4: Kernel<3, 1>::run(rows, segments, words, weights, out); break;
      case 5: Kernel<3, 2>::run(rows, segments, words, weights, out); break;
      case 6: Kernel<4, 1>::run(rows, segments, words, weights, out); break;
      case 7: Kernel<4, 2>::run(rows, segments, words, weights, out); break;
      case 8: Kernel<5, 1>::run(rows, segments, words, weights, out); break;
      case 9: Kernel<5, 2>::run(rows, segments, words, weights, out); break;
      case 10: Kernel<6, 1>::run(rows, segments, words, weights, out); break;
      default: Kernel<6, 2>::run(rows, segments, words, weights, out); break;
    }
    left -= now, rows += now, out += now * kBlock;
  }
}
