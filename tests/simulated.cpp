// A simulated accelerator: the device "sim". Its memory and its kernels are the CPU's, but as on a GPU no operation takes
// tensors of both. Built and registered by simulated.py; https://docs.pytorch.org/tutorials/advanced/privateuseone.html
// is the interface.
#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/core/CachingHostAllocator.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/TensorShape.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstdlib>
#include <cstring>

namespace {

using at::Tensor;
using std::optional;
using SymInts = c10::SymIntArrayRef;

constexpr auto SIM = c10::DeviceType::PrivateUse1;
const c10::Device DEVICE(SIM, 0);
const c10::DispatchKeySet KEYS(c10::DispatchKey::PrivateUse1);
std::atomic<int64_t> copies_to_cpu{0}, copies_to_sim{0}, operations{0}, waits{0};

// A kernel of the simulation, whose copies are not the library's.
struct Kernel {
  static thread_local bool runs;
  const bool before = runs;
  Kernel() { runs = true; }
  ~Kernel() { runs = before; }
};
thread_local bool Kernel::runs = false;

// --- What torch asks of every backend

struct Allocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* memory = bytes ? std::malloc(bytes) : nullptr;
    return {memory, memory, &std::free, DEVICE};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Allocator allocator;
REGISTER_ALLOCATOR(SIM, &allocator);

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return SIM; }
  c10::Device exchangeDevice(c10::Device) const override { return DEVICE; }
  c10::Device getDevice() const override { return DEVICE; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, DEVICE); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void*, const c10::DeviceIndex) const noexcept override {}
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetCPUAllocator(); }
  bool isPinnedPtr(const void*) const override { return false; }
  c10::Device getDeviceFromPtr(void*) const override { return DEVICE; }
};

// --- One memory, two devices

// A tensor of the CPU on the memory of one of the device.
Tensor on_cpu(const Tensor& x) {
  if (!x.defined()) return x;
  auto* first = static_cast<char*>(x.storage().mutable_data());
  auto* data = first ? first + x.storage_offset() * static_cast<int64_t>(x.element_size()) : nullptr;
  return at::from_blob(data, x.sizes(), x.strides(), x.options().device(at::kCPU));
}

Tensor on_sim(const Tensor& x) {
  const Kernel kernel;
  return x.defined() ? x.to(DEVICE) : x;
}

// A GPU's kernels refuse tensors of the CPU, but those without dimensions.
void require_one_device(bool sim, bool cpu, const std::string& operation) {
  TORCH_CHECK(!(sim && cpu), "Expected all tensors to be on the same device, but found sim:0 and cpu (", operation, ")");
}

void require_sim(at::ArrayRef<Tensor> tensors, const char* operation) {
  for (const auto& x : tensors) require_one_device(true, x.defined() && x.device().type() != SIM, operation);
}

// A GPU is waited for when the shape of a result depends on values, such as the True of a mask.
bool waits_on_a_gpu(const std::string& name, at::ArrayRef<c10::IValue> arguments) {
  for (const char* one : {"aten::nonzero", "aten::masked_select", "aten::equal", "aten::_unique2"})
    if (name == one) return true;
  if (name.rfind("aten::index", 0) != 0 && name != "aten::_index_put_impl_") return false;
  for (const auto& argument : arguments) {
    if (!argument.isList()) continue;
    for (const c10::IValue& x : argument.toListRef())
      if (x.isTensor() && x.toTensor().defined() && x.toTensor().scalar_type() == at::kBool) return true;
  }
  return false;
}

void on_any_operation(const c10::OperatorHandle& operation, torch::jit::Stack* stack) {
  const std::string name = operation.schema().name();
  bool sim = false, cpu = false;
  auto look_at = [&](const Tensor& x) {
    if (!x.defined()) return;
    (x.device().type() == SIM ? sim : cpu) |= x.device().type() == SIM || x.dim() > 0;
  };
  for (const auto& argument : torch::jit::last(*stack, operation.schema().arguments().size())) {
    if (argument.isTensor()) look_at(argument.toTensor());
    else if (argument.isTensorList()) for (const Tensor& x : argument.toTensorVector()) look_at(x);
    // Lists with gaps are the indices of index() and index_put_(), which may be the CPU's.
  }
  require_one_device(sim, cpu, name);
  ++operations;
  waits += waits_on_a_gpu(name, torch::jit::last(*stack, operation.schema().arguments().size()));
  const Kernel kernel;
  at::native::cpu_fallback(operation, stack);
}

// --- Memory: new tensors, copies, views

Tensor empty(SymInts size, optional<at::ScalarType> type, optional<at::Layout>, optional<at::Device>, optional<bool>,
             optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(C10_AS_INTARRAYREF_SLOW(size), &allocator, KEYS, c10::dtype_or_default(type), format);
}

Tensor empty_strided(SymInts size, SymInts stride, optional<at::ScalarType> type, optional<at::Layout>,
                     optional<at::Device>, optional<bool>) {
  return at::detail::empty_strided_generic(C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &allocator,
                                           KEYS, c10::dtype_or_default(type));
}

Tensor copy_from(const Tensor& from, const Tensor& to, bool non_blocking) {
  const bool here = from.device().type() == SIM, there = to.device().type() == SIM;
  if (here != there) ++(there ? copies_to_sim : copies_to_cpu);
  if (!Kernel::runs) {
    ++operations;
    waits += here != there && !(there && non_blocking);
  }
  (there ? on_cpu(to) : to).copy_(here ? on_cpu(from) : from);
  return to;
}

Tensor copy_from_and_resize(const Tensor& from, const Tensor& to) {
  to.resize_(from.sizes());
  return copy_from(from, to, false);
}

at::Scalar item(const Tensor& x) {
  ++copies_to_cpu;
  ++waits;
  return on_cpu(x).item();
}

Tensor as_strided(const Tensor& x, SymInts size, SymInts stride, optional<c10::SymInt> offset) {
  const auto start = offset ? optional<int64_t>(offset->guard_int(__FILE__, __LINE__)) : std::nullopt;
  return at::native::as_strided_tensorimpl(x, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), start);
}

Tensor view(const Tensor& x, SymInts size) { return at::native::view(x, C10_AS_INTARRAYREF_SLOW(size)); }

Tensor reshape_alias(const Tensor& x, SymInts size, SymInts stride) {
  return at::native::_reshape_alias(x, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride));
}

const Tensor& resize(const Tensor& x, SymInts size, optional<at::MemoryFormat> format) {
  auto* tensor = x.unsafeGetTensorImpl();
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const auto& storage = tensor->storage();
  const size_t bytes = (c10::multiply_integers(sizes) + tensor->storage_offset()) * tensor->itemsize();
  if (storage.nbytes() < bytes) {
    auto larger = allocator.allocate(bytes);
    if (storage.nbytes()) std::memcpy(larger.mutable_get(), storage.data(), storage.nbytes());
    storage.unsafeGetStorageImpl()->set_data_ptr_noswap(std::move(larger));
    storage.unsafeGetStorageImpl()->set_nbytes(bytes);
  }
  tensor->set_sizes_contiguous(sizes);
  if (format) tensor->empty_tensor_restride(*format);
  return x;
}

Tensor& set(Tensor& x, at::Storage storage, c10::SymInt offset, SymInts size, SymInts stride) {
  auto* tensor = x.unsafeGetTensorImpl();
  tensor->set_storage_keep_dtype(std::move(storage));
  tensor->set_storage_offset(offset.guard_int(__FILE__, __LINE__));
  tensor->set_sizes_and_strides(size, stride);
  return x;
}

Tensor& set_whole(Tensor& x, at::Storage storage) {
  const auto count = static_cast<int64_t>(storage.nbytes() / x.element_size());
  return set(x, std::move(storage), 0, c10::fromIntArrayRefSlow({count}), c10::fromIntArrayRefSlow({1}));
}

// --- Operations that the CPU has under another name

Tensor convolution(const Tensor& x, const Tensor& weight, const optional<Tensor>& bias, SymInts stride, SymInts padding,
                   SymInts dilation, bool transposed, SymInts output_padding, c10::SymInt groups) {
  const Tensor b = bias.value_or(Tensor());
  require_sim({x, weight, b}, "convolution");
  const auto given = b.defined() ? optional<Tensor>(on_cpu(b)) : std::nullopt;
  return on_sim(at::convolution_symint(on_cpu(x), on_cpu(weight), given, stride, padding, dilation, transposed,
                                       output_padding, std::move(groups)));
}

std::tuple<Tensor, Tensor, Tensor> convolution_backward(const Tensor& grad, const Tensor& x, const Tensor& weight,
                                                        SymInts stride, SymInts padding, SymInts dilation,
                                                        bool transposed, SymInts output_padding, c10::SymInt groups,
                                                        std::array<bool, 3> wanted) {
  require_sim({grad, x, weight}, "convolution_backward");
  const std::vector<c10::SymInt> bias{transposed ? weight.sym_size(1) * groups : weight.sym_size(0)};
  const auto [a, b, c] = at::convolution_backward_symint(on_cpu(grad), on_cpu(x), on_cpu(weight), SymInts(bias), stride,
                                                         padding, dilation, transposed, output_padding,
                                                         std::move(groups), wanted);
  return {on_sim(a), on_sim(b), on_sim(c)};
}

// It changes the running statistics in place, which its schema does not say, so that the fallback would lose them.
std::tuple<Tensor, Tensor, Tensor> batch_norm(const Tensor& x, const optional<Tensor>& weight,
                                              const optional<Tensor>& bias, const optional<Tensor>& mean,
                                              const optional<Tensor>& var, bool training, double momentum, double eps) {
  optional<Tensor> given[] = {weight, bias, mean, var};
  for (auto& one : given) {
    require_sim({x, one.value_or(Tensor())}, "native_batch_norm");
    if (one && one->defined()) one = on_cpu(*one);
  }
  const auto [y, a, b] =
      at::native_batch_norm(on_cpu(x), given[0], given[1], given[2], given[3], training, momentum, eps);
  return {on_sim(y), on_sim(a), on_sim(b)};
}

// torch.nn.GRU computes a step of its gates in one kernel on devices that are not the CPU. `from_input` and `from_state`
// are the products with the weights, [B, 3H]: reset, update, new. r, z: gates; n: the new state; h: the state before.
std::tuple<Tensor, Tensor> gru_cell(const Tensor& from_input, const Tensor& from_state, const Tensor& state,
                                    const optional<Tensor>& input_bias, const optional<Tensor>& state_bias) {
  const Tensor a = input_bias.value_or(Tensor()), b = state_bias.value_or(Tensor());
  require_sim({from_input, from_state, state, a, b}, "_thnn_fused_gru_cell");
  const auto h = on_cpu(state);
  const auto i = (a.defined() ? on_cpu(from_input) + on_cpu(a) : on_cpu(from_input)).chunk(3, 1);
  const auto s = (b.defined() ? on_cpu(from_state) + on_cpu(b) : on_cpu(from_state)).chunk(3, 1);
  const auto r = at::sigmoid(i[0] + s[0]), z = at::sigmoid(i[1] + s[1]), n = at::tanh(i[2] + r * s[2]);
  return {on_sim(n + z * (h - n)), on_sim(at::cat({r, z, n, h, s[2]}, 1))};
}

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> gru_cell_backward(const Tensor& grad, const Tensor& saved, bool bias) {
  require_sim({grad, saved}, "_thnn_fused_gru_cell_backward");
  const auto parts = on_cpu(saved).chunk(5, 1);
  const auto g = on_cpu(grad), r = parts[0], z = parts[1], n = parts[2], h = parts[3], from_state = parts[4];
  const auto dz = g * (h - n) * z * (1 - z), dn = g * (1 - z) * (1 - n * n), dr = dn * from_state * r * (1 - r);
  const auto input = at::cat({dr, dz, dn}, 1), before = at::cat({dr, dz, dn * r}, 1);
  const Tensor none;
  return {on_sim(input), on_sim(before), on_sim(g * z), bias ? on_sim(input.sum(0)) : none,
          bias ? on_sim(before.sum(0)) : none};
}

std::vector<int64_t> issued() { return {operations.load(), waits.load()}; }
std::vector<int64_t> copies() { return {copies_to_cpu.load(), copies_to_sim.load()}; }

void start() {
  static Hooks hooks;
  at::RegisterPrivateUse1HooksInterface(&hooks);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, library) {
  library.fallback(torch::CppFunction::makeFromBoxedFunction<&on_any_operation>());
}

TORCH_LIBRARY_IMPL(aten, PrivateUse1, library) {
  library.impl("empty.memory_format", &empty);
  library.impl("empty_strided", &empty_strided);
  library.impl("_copy_from", &copy_from);
  library.impl("_copy_from_and_resize", &copy_from_and_resize);
  library.impl("_local_scalar_dense", &item);
  library.impl("as_strided", &as_strided);
  library.impl("view", &view);
  library.impl("_reshape_alias", &reshape_alias);
  library.impl("resize_", &resize);
  library.impl("set_.source_Storage_storage_offset", &set);
  library.impl("set_.source_Storage", &set_whole);
  library.impl("convolution_overrideable", &convolution);
  library.impl("convolution_backward_overrideable", &convolution_backward);
  library.impl("native_batch_norm", &batch_norm);
  library.impl("_thnn_fused_gru_cell", &gru_cell);
  library.impl("_thnn_fused_gru_cell_backward", &gru_cell_backward);
}

TORCH_LIBRARY(sim, library) {
  library.def("start() -> ()", &start);
  library.def("copies() -> int[]", &copies);
  library.def("issued() -> int[]", &issued);
}

}  // namespace
