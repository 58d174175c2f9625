// The loops that every instruction set shares, written with the primitives it has defined: V (kLanes floats), load,
// store, fma, mul, add, keep_positive (u >= 0 ? u : v), at_least (mask of a >= b), dots (float of base - 2 differing),
// store_bits and add_sums. Products are rounded before they are added, so that every set gives the same bits; only
// `real` fuses the two.

void epilogue(const Epilogue& t) {
  for (int group = 0; group < t.groups; ++group) {
    uint32_t masks[kTile] = {};
    for (int lane = 0; lane < kGroup; lane += kLanes) {
      const int o = group * kGroup + lane;
      const V scale = load(t.scale + o), bias = load(t.bias + o), slope = load(t.slope + o), shift = load(t.shift + o);
      for (int p = 0; p < t.pixels; ++p) {
        V u;
        if (t.real) {
          u = mul(load(t.real + p * kBlock + o), scale);
        } else {
          u = mul(dots(t.base[p] + o, t.differing + p * kBlock + o), scale);
          for (int b = 1; b < t.branches; ++b)
            u = add(u, mul(dots(t.base[p] + o, t.differing + (b * kTile + p) * kBlock + o),
                           load(t.scale + b * t.scale_stride + o)));
        }
        u = add(add(u, bias), load(t.residual[p] + t.residual_offset[group] + lane));
        const V y = add(keep_positive(u, mul(u, slope)), shift);
        store(t.out[p] + o, y);
        if (t.sums) add_sums(y, t.sums + o);
        if (t.threshold) masks[p] |= at_least(y, load(t.threshold + o)) << lane;
      }
    }
    if (t.threshold)
      for (int p = 0; p < t.pixels; ++p) store_bits(t.bits[p] + group * kActBytes, masks[p]);
  }
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
void real_tile(const float* const* rows, int depth, const float* weights, float* out) {
  V sums[kPixels][kVectors];
  for (int p = 0; p < kPixels; ++p)
    for (int v = 0; v < kVectors; ++v) sums[p][v] = set1(0.f);
  for (int k = 0; k < depth; ++k) {
    V w[kVectors];
    for (int v = 0; v < kVectors; ++v) w[v] = load(weights + k * kBlock + v * kLanes);
    for (int p = 0; p < kPixels; ++p) {
      const V a = set1(rows[p][k]);
      for (int v = 0; v < kVectors; ++v) sums[p][v] = fma(a, w[v], sums[p][v]);
    }
  }
  for (int p = 0; p < kPixels; ++p)
    for (int v = 0; v < kVectors; ++v) store(out + p * kBlock + v * kLanes, sums[p][v]);
}

void real(const float* const* rows, int depth, int pixels, const float* weights, int groups, float* out) {
  constexpr int kStep = kRealVectors * kLanes;
  for (int o = 0; o < groups * kGroup; o += kStep) {
    switch (pixels) {
      case 1: real_tile<1, kRealVectors>(rows, depth, weights + o, out + o); break;
      case 2: real_tile<2, kRealVectors>(rows, depth, weights + o, out + o); break;
      case 3: real_tile<3, kRealVectors>(rows, depth, weights + o, out + o); break;
      case 4: real_tile<4, kRealVectors>(rows, depth, weights + o, out + o); break;
      case 5: real_tile<5, kRealVectors>(rows, depth, weights + o, out + o); break;
      default: real_tile<6, kRealVectors>(rows, depth, weights + o, out + o); break;
    }
  }
}

template <template <int, int> class Kernel, typename... Arguments>
void by_size(int pixels, int groups, Arguments... arguments) {
  switch (pixels * 2 + groups - 3) {
    case 0: Kernel<1, 1>::run(arguments...); break;
    case 1: Kernel<1, 2>::run(arguments...); break;
    case 2: Kernel<2, 1>::run(arguments...); break;
    case 3: Kernel<2, 2>::run(arguments...); break;
    case 4: Kernel<3, 1>::run(arguments...); break;
    case 5: Kernel<3, 2>::run(arguments...); break;
    case 6: Kernel<4, 1>::run(arguments...); break;
    case 7: Kernel<4, 2>::run(arguments...); break;
    case 8: Kernel<5, 1>::run(arguments...); break;
    case 9: Kernel<5, 2>::run(arguments...); break;
    case 10: Kernel<6, 1>::run(arguments...); break;
    default: Kernel<6, 2>::run(arguments...); break;
  }
}
