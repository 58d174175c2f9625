// Maps and weights of the instruction sets that count bits in 32-bit words: a packed map is plain words; a block of
// weights is (words, kBlock), so that one vector holds the same 32 input channels of neighbouring output channels.

constexpr int kActBytes = 4;

void store_bits(uint8_t* bits, uint32_t mask) { std::memcpy(bits, &mask, sizeof mask); }

void encode(const uint32_t* plain, uint8_t* act, size_t words) { std::memcpy(act, plain, 4 * words); }

void decode(const uint8_t* act, uint32_t* plain, size_t words) { std::memcpy(plain, act, 4 * words); }

void pack_weights(const uint32_t* plain, size_t stride, size_t words, uint8_t* out) {
  for (size_t w = 0; w < words; ++w)
    for (int o = 0; o < kBlock; ++o) std::memcpy(out + 4 * (w * kBlock + o), plain + o * stride + w, 4);
}

inline uint32_t word_at(const uint8_t* row, int w) {
  uint32_t word;
  std::memcpy(&word, row + 4 * w, sizeof word);
  return word;
}
