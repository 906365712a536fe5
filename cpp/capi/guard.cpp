#include "capi/guard.hpp"

#include <algorithm>
#include <exception>
#include <new>

namespace sparlow::capi {
namespace {

// Of fixed size, so that running out of memory can be told as well.
thread_local char message_of_thread[1024] = "";

sparlow_status status_of(ErrorCode code) {
  switch (code) {
    case ErrorCode::invalid_argument: return SPARLOW_INVALID_ARGUMENT;
    case ErrorCode::out_of_memory: return SPARLOW_OUT_OF_MEMORY;
    case ErrorCode::unavailable: return SPARLOW_UNAVAILABLE;
    case ErrorCode::numerical: return SPARLOW_NUMERICAL;
    case ErrorCode::io: return SPARLOW_IO;
    case ErrorCode::cancelled: return SPARLOW_CANCELLED;
    case ErrorCode::internal: return SPARLOW_INTERNAL;
  }
  return SPARLOW_INTERNAL;
}

}  // namespace

void remember(std::string_view message) noexcept {
  const std::size_t length = std::min(message.size(), sizeof message_of_thread - 1);
  std::memcpy(message_of_thread, message.data(), length);
  message_of_thread[length] = '\0';
}

sparlow_status translate() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    remember(error.what());
    return status_of(error.code());
  } catch (const std::bad_alloc&) {
    remember("out of memory");
    return SPARLOW_OUT_OF_MEMORY;
  } catch (const std::exception& error) {
    remember(error.what());
  } catch (...) {
    remember("an unknown failure");
  }
  return SPARLOW_INTERNAL;
}

}  // namespace sparlow::capi

extern "C" {

const char* sparlow_version(void) { return SPARLOW_VERSION; }
int32_t sparlow_abi_version(void) { return SPARLOW_ABI_VERSION; }
const char* sparlow_last_error(void) { return sparlow::capi::message_of_thread; }
}
