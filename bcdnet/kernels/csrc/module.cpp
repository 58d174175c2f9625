// The Python side: raw arrays in and out, no copies but of parameters, the lock of the interpreter released while
// something is computed. Callers (bcdnet/kernels/__init__.py) check shapes; what is checked again here is what would
// otherwise read or write outside an array.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>

#include "plan.h"
#include "product.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace bcdnet {
namespace {

template <typename T, typename... Options>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu, Options...>;
using Floats = Array<const float>;
using Bytes = Array<const uint8_t>;

void require(bool ok, const char* what) {
  if (!ok) throw std::invalid_argument(what);
}

template <typename T>
void require_size(const Array<const T>& array, size_t size, const char* what) {
  require(array.size() == size, what);
}

Buffer<float> copied(const Floats& array, size_t size, const char* what) {
  require_size(array, size, what);
  Buffer<float> buffer(size);
  std::copy_n(array.data(), size, buffer.get());
  return buffer;
}

// (rows, columns) -> (columns, rows)
Buffer<float> transposed(const Floats& array, size_t rows, size_t columns, const char* what) {
  require_size(array, rows * columns, what);
  Buffer<float> buffer(rows * columns);
  for (size_t r = 0; r < rows; ++r)
    for (size_t c = 0; c < columns; ++c) buffer[c * rows + r] = array.data()[r * columns + c];
  return buffer;
}

Reading reading_of(int channels, int kernel, int stride, const std::string& branches) {
  require(channels > 0 && (kernel == 1 || kernel == 3) && (stride == 1 || stride == 2), "no such binary operation");
  bool shifts = false;
  for (const char kind : branches) {
    require(kind == 'P' || kind == 'S' || kind == 'L', "branches are P, S and L");
    shifts |= kind != 'P';
  }
  require(branches.size() <= 9 && (!shifts || channels % 4 == 0), "an MLP needs channels in multiples of 4");
  return {channels, kernel, stride, shifts && channels % 128 != 0};
}

std::vector<Branch> branches_of(const std::string& kinds, int distance) {
  std::vector<Branch> branches;
  for (const char kind : kinds) branches.push_back({kind, distance});
  return branches;
}

size_t weight_bytes(int outputs, const Reading& reading) {
  return static_cast<size_t>(outputs) * reading.kernel * reading.kernel * ((reading.channels + 7) / 8);
}

void set_stem(Plan& plan, const Floats& weight, const Floats& scale, const Floats& bias, int stride, bool pooled) {
  require(weight.ndim() == 4 && weight.shape(2) == weight.shape(3), "stem weights are (outputs, channels, k, k)");
  Stem stem;
  stem.outputs = static_cast<int>(weight.shape(0)), stem.channels = static_cast<int>(weight.shape(1));
  stem.kernel = static_cast<int>(weight.shape(2)), stem.stride = stride, stem.pooled = pooled;
  require(stride > 0 && stem.kernel % 2 == 1, "the stem's kernel must be odd");
  stem.weights = RealWeights(weight.data(), stem.outputs, stem.channels * stem.kernel * stem.kernel);
  stem.scale = copied(scale, stem.outputs, "stem scale"), stem.bias = copied(bias, stem.outputs, "stem bias");
  plan.set_stem(std::move(stem));
}

void add_unit(Plan& plan, const std::string& name, int inputs, int outputs, int kernel, int stride, const nb::dict& p) {
  auto floats = [&](const char* key) { return nb::cast<Floats>(p[key]); };
  auto has = [&](const char* key) { return p.contains(key); };
  Unit unit;
  unit.name = name;
  unit.outputs = outputs;
  const std::string kinds = has("branches") ? nb::cast<std::string>(p["branches"]) : "";
  unit.reading = reading_of(inputs, kernel, stride, kinds);
  const size_t terms = std::max<size_t>(1, kinds.size());
  if (has("real_weight")) {
    const int groups = nb::cast<int>(p["groups"]);
    require(groups > 0 && inputs % groups == 0 && outputs % groups == 0 && kernel == 1 && stride == 1, "real unit");
    require_size(floats("real_weight"), static_cast<size_t>(outputs) * (inputs / groups), "real weights");
    unit.real = true;
    unit.real_weights = RealWeights(floats("real_weight").data(), outputs, inputs / groups, groups);
  } else {
    const auto bits = nb::cast<Bytes>(p["weight"]);
    const size_t bytes = weight_bytes(outputs, unit.reading);
    require_size(bits, terms * bytes, "binary weights");
    unit.branches = branches_of(kinds, has("distance") ? nb::cast<int>(p["distance"]) : 0);
    for (size_t b = 0; b < terms; ++b)
      unit.weights.emplace_back(plan.isa(), bits.data() + b * bytes, outputs, unit.reading);
    unit.threshold = copied(floats("threshold"), inputs, "thresholds");
  }
  unit.scale = copied(floats("scale"), terms * outputs, "scales");
  unit.bias = copied(floats("bias"), outputs, "biases");
  unit.slope = copied(floats("slope"), outputs, "slopes");
  unit.shift = copied(floats("shift"), outputs, "shifts");
  if (has("reduce")) {
    auto e = std::make_unique<Embedding>();
    const size_t context = floats("reduce_bias").size();
    e->context = static_cast<int>(context);
    e->reduce = transposed(floats("reduce"), context, inputs, "reduce"), e->reduce_bias = copied(floats("reduce_bias"), context, "reduce");
    e->threshold = transposed(floats("dynamic"), inputs, context, "dynamic");
    e->threshold_bias = copied(floats("dynamic_bias"), inputs, "dynamic");
    e->offset = transposed(floats("offset"), outputs, context, "offset");
    e->offset_bias = copied(floats("offset_bias"), outputs, "offset");
    e->gain = copied(floats("gain"), outputs, "gain");
    unit.embedding = std::move(e);
  }
  unit.pooled = stride == 2;
  unit.repeat = has("repeat") ? nb::cast<int>(p["repeat"]) : 1;
  require(unit.repeat > 0 && (has("shortcut_weight") || inputs * unit.repeat == outputs), "the shortcut does not fit");
  if (has("shortcut_weight")) {
    require_size(floats("shortcut_weight"), static_cast<size_t>(outputs) * inputs, "shortcut weights");
    unit.shortcut = std::make_unique<RealWeights>(floats("shortcut_weight").data(), outputs, inputs);
    unit.shortcut_affine.scale = copied(floats("shortcut_scale"), outputs, "shortcut scale");
    unit.shortcut_affine.bias = copied(floats("shortcut_bias"), outputs, "shortcut bias");
  }
  plan.add_unit(std::move(unit));
}

bool finite(const float* x, size_t n) {
  uint32_t bad = 0;
  for (size_t i = 0; i < n; ++i) {
    uint32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bad |= (bits & 0x7f800000u) == 0x7f800000u;
  }
  return !bad;
}

using Images = Array<const float, nb::ndim<4>>;

int side(size_t n) {
  require(n > 0 && n <= 1u << 16, "image sides are 1 to 65,536 pixels");
  return static_cast<int>(n);
}

bool run(Plan& plan, const Images& x, const Array<float, nb::ndim<2>>& logits) {
  require(logits.shape(0) == x.shape(0) && logits.shape(1) == static_cast<size_t>(plan.classes()), "logits");
  require(x.shape(1) == static_cast<size_t>(plan.channels()), "channels");
  const nb::gil_scoped_release release;
  if (!finite(x.data(), x.size())) return false;
  if (x.shape(0)) plan.run(x.data(), x.shape(0), side(x.shape(2)), side(x.shape(3)), logits.data());
  return true;
}

template <typename T>
nb::object array(std::vector<T>&& values, std::vector<size_t> shape) {
  auto* held = new std::vector<T>(std::move(values));
  nb::capsule owner(held, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(held->data(), shape.size(), shape.data(), owner));
}

nb::list trace(Plan& plan, const Images& x, bool values) {
  require(x.shape(0) == 1 && x.shape(1) == static_cast<size_t>(plan.channels()), "one image");
  std::vector<Traced> traced;
  std::vector<float> logits(plan.classes());
  {
    const nb::gil_scoped_release release;
    require(finite(x.data(), x.size()), "finite");
    traced = plan.trace(x.data(), side(x.shape(2)), side(x.shape(3)), values, logits.data());
  }
  nb::list list;
  for (Traced& t : traced) {
    const auto c = static_cast<size_t>(t.channels), h = static_cast<size_t>(t.height), w = static_cast<size_t>(t.width);
    nb::object output = nb::none(), bits = nb::none(), thresholds = nb::none();
    if (!t.output.empty()) output = array(std::move(t.output), {c, h, w});
    if (!t.bits.empty()) {
      bits = array(std::move(t.bits), {static_cast<size_t>(t.inputs), static_cast<size_t>(t.in_height),
                                       static_cast<size_t>(t.in_width)});
      thresholds = array(std::move(t.thresholds), {static_cast<size_t>(t.inputs)});
    }
    list.append(nb::make_tuple(t.name, t.nanoseconds * 1e-9, output, bits, thresholds));
  }
  return list;
}

}  // namespace

NB_MODULE(_native, m) {
  // Engines that a server keeps until the interpreter ends are no leak.
  nb::set_leak_warnings(false);
  m.doc() = "XNOR kernels and the executor of packed networks; use bcdnet.kernels and bcdnet.engine.";
  m.def("isas", [] {
    const Isa* sets[8];
    std::vector<std::string> names;
    for (size_t i = 0, n = available(sets, 8); i < n; ++i) names.emplace_back(sets[i]->name);
    return names;
  });

  nb::class_<Plan>(m, "Plan")
      .def("__init__", [](Plan* plan, const std::string& isa, int threads) {
             require(threads > 0 && threads <= 1024, "threads are 1 to 1,024");
             new (plan) Plan(isa, threads);
           }, "isa"_a, "threads"_a)
      .def("set_stem", &set_stem, "weight"_a, "scale"_a, "bias"_a, "stride"_a, "pooled"_a)
      .def("add_unit", &add_unit, "name"_a, "inputs"_a, "outputs"_a, "kernel"_a, "stride"_a, "parameters"_a)
      .def("set_head", [](Plan& plan, const Array<const float, nb::ndim<2>>& weight, const Floats& bias) {
             require_size(bias, weight.shape(0), "head bias");
             plan.set_head(weight.data(), bias.data(), static_cast<int>(weight.shape(0)), static_cast<int>(weight.shape(1)));
           }, "weight"_a, "bias"_a)
      .def("run", &run, "images"_a, "logits"_a, "Fills logits; False if a pixel is not finite.")
      .def("trace", &trace, "image"_a, "values"_a);

  nb::class_<Product>(m, "Product")
      .def("__init__", [](Product* product, const std::string& isa, int threads, const Bytes& weight, int outputs,
                          int channels, int kernel, int stride, const std::string& branches, int distance) {
             const Reading reading = reading_of(channels, kernel, stride, branches);
             require(outputs > 0 && threads > 0 && threads <= 1024 && distance >= 0, "no such product");
             require_size(weight, std::max<size_t>(1, branches.size()) * weight_bytes(outputs, reading), "binary weights");
             new (product) Product(isa, threads, weight.data(), outputs, reading, branches_of(branches, distance));
           }, "isa"_a, "threads"_a, "weight"_a, "outputs"_a, "channels"_a, "kernel"_a, "stride"_a, "branches"_a, "distance"_a)
      .def("run", [](Product& product, const Array<const int64_t, nb::ndim<4>>& bits, const Array<int32_t>& out) {
             const int height = side(bits.shape(1)), width = side(bits.shape(2));
             require(bits.shape(3) == static_cast<size_t>(product.words()), "words of bits");
             require(out.size() == product.terms() * bits.shape(0) * product.size(height) * product.size(width) * product.outputs(),
                     "size of the result");
             const nb::gil_scoped_release release;
             product.run(reinterpret_cast<const uint64_t*>(bits.data()), static_cast<int>(bits.shape(0)), height, width, out.data());
           }, "bits"_a, "out"_a);

  nb::class_<SignProduct>(m, "SignProduct")
      .def("__init__", [](SignProduct* product, const std::string& isa, int threads) {
             require(threads > 0 && threads <= 1024, "threads are 1 to 1,024");
             new (product) SignProduct(isa, threads);
           }, "isa"_a, "threads"_a)
      .def("run", [](SignProduct& product, const Array<const float, nb::ndim<4>>& x,
                     const Array<const float, nb::ndim<4>>& weight, int stride, const Array<int16_t, nb::ndim<4>>& out) {
             const int height = side(x.shape(1)), width = side(x.shape(2));
             const Reading reading = reading_of(static_cast<int>(x.shape(3)), static_cast<int>(weight.shape(1)), stride, "");
             require(x.shape(3) % kGroup == 0 && weight.shape(2) == weight.shape(1) && weight.shape(3) == x.shape(3) &&
                         weight.shape(0) > 0 && weight.size() / weight.shape(0) <= INT16_MAX, "shape of the weights");
             require(out.shape(0) == x.shape(0) && out.shape(1) == static_cast<size_t>(reading.size(height)) &&
                         out.shape(2) == static_cast<size_t>(reading.size(width)) && out.shape(3) == weight.shape(0),
                     "shape of the result");
             const nb::gil_scoped_release release;
             product.run(x.data(), static_cast<int>(x.shape(0)), height, width, weight.data(),
                         static_cast<int>(weight.shape(0)), reading, out.data());
           }, "x"_a, "weight"_a, "stride"_a, "out"_a);

  m.def("pack_signs", [](const std::string& isa, const Images& x, const Floats& thresholds, const Array<int64_t, nb::ndim<4>>& bits) {
    const size_t n = x.shape(0), c = x.shape(1);
    require(thresholds.size() == (thresholds.ndim() == 2 ? n * c : c), "thresholds");
    require(bits.shape(0) == n && bits.shape(1) == x.shape(2) && bits.shape(2) == x.shape(3) && bits.shape(3) == (c + 63) / 64,
            "shape of the bits");
    const bool per_image = thresholds.ndim() == 2;
    const nb::gil_scoped_release release;
    pack_signs(isa, x.data(), static_cast<int>(n), static_cast<int>(c), side(x.shape(2)), side(x.shape(3)),
               thresholds.data(), per_image, reinterpret_cast<uint64_t*>(bits.data()));
  }, "isa"_a, "x"_a, "thresholds"_a, "bits"_a);
}

}  // namespace bcdnet
