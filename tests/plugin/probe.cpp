// Asks for a CUDA backend and prints what happens: "ready", or the error with its code.
#include <cstdio>
#include <cstdlib>

#include "sparlow/backend.hpp"

int main(int argc, char** argv) {
  try {
    sparlow::make_backend(argc > 1 ? argv[1] : "cuda");
    std::puts("ready");
  } catch (const sparlow::Error& error) {
    std::printf("%s: %s\n", error.code() == sparlow::ErrorCode::unavailable ? "unavailable" : "other", error.what());
  }
  return EXIT_SUCCESS;
}
