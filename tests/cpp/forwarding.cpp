#include "forwarding.hpp"

#include <algorithm>

namespace sparlow::test {

std::shared_ptr<void> Forwarding::do_allocate(std::size_t bytes) {
  auto storage = std::make_shared<Matrix>(inner_.matrix(1, static_cast<Index>((bytes + 3) / 4)));
  void* address = storage->view().data;
  *live_ += bytes;
  peak_ = std::max(peak_, *live_);
  ++allocations_;
  return {address, [storage, live = live_, bytes](void*) { *live -= bytes; }};
}

void Forwarding::do_upload(const float* values, View out) {
  inner_.upload(std::vector<float>(values, values + out.size()), out);
}

void Forwarding::do_download(ConstView x, float* values) {
  const std::vector<float> fetched = inner_.fetch_values(x);
  std::copy(fetched.begin(), fetched.end(), values);
}

}  // namespace sparlow::test
