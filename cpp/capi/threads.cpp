#include "capi/guard.hpp"
#include "sparlow/backend.hpp"

using sparlow::capi::guarded;

extern "C" {

int32_t sparlow_threads(void) { return sparlow::num_threads(); }

sparlow_status sparlow_set_threads(int32_t count) {
  return guarded([&] { sparlow::set_num_threads(count); });
}

sparlow_status sparlow_parallel_for(int64_t count, int64_t grain, sparlow_body body, void* user) {
  return guarded([&] {
    sparlow::require(body != nullptr, "body is NULL");
    const auto range = [&](sparlow::Index begin, sparlow::Index end) { body(user, begin, end); };
    sparlow::parallel_for(count, grain, std::ref(range));
  });
}
}
